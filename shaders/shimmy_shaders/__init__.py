"""WGSL compute shaders of the wgpu backend (data package)."""
