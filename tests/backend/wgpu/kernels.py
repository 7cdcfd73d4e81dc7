"""What tests of single kernels share: the composer of shimmy's shaders, steps, and running a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.batch import Batch
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Buffer, Gpu, Slice
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size
from shimmy_plugins.backends.wgpu.step import phase_words

SHADERS = files("shimmy_shaders")
COMPOSER = Composer({"shimmy": SHADERS})


def step_of(rows: int, outputs: Sequence[int] = (), first_output: int = 0) -> tuple[Size, NDArray[np.int32]]:
    """A step of one sequence whose logits are wanted at some rows."""
    tokens = np.arange(rows, dtype=np.int32)
    batch = Batch(
        tokens, tokens, np.zeros(rows, np.int32), np.zeros((1, 4), np.int32), np.array(outputs, np.int32)
    )
    return Size(rows, len(outputs), rows), phase_words(batch, slice(0, rows), first_output)


def buffer_of(gpu: Gpu, data: NDArray[Any]) -> Buffer:
    buffer = gpu.buffer(data.nbytes, "test")
    gpu.upload(buffer, data)
    return buffer


def run_kernel(
    gpu: Gpu, kernel: Kernel, size: Size, bindings: Sequence[Buffer | Slice | NDArray[Any]]
) -> None:
    """Run a kernel on its bindings; arrays are uploaded."""
    slices = [
        binding if isinstance(binding, Slice) else _buffer(gpu, binding).whole() for binding in bindings
    ]
    pipeline = gpu.pipeline(kernel.source, kernel.label)
    gpu.run([gpu.call(pipeline, gpu.bind(pipeline, slices), *kernel.grid(size))])


def _buffer(gpu: Gpu, binding: Buffer | NDArray[Any]) -> Buffer:
    return binding if isinstance(binding, Buffer) else buffer_of(gpu, binding)
