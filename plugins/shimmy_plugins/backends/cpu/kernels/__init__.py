"""Kernels: one module per op or family, each with the code it emits and how a node calls it."""
