"""wgpu: the graph compiled to WGSL kernels, run on a GPU through Vulkan, Metal or Direct3D 12."""
