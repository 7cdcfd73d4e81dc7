"""A node without a kernel, by its NumPy definition: inputs come back from the GPU, the result goes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Node
from shimmy.graph.evaluate import Evaluator, evaluator
from shimmy.graph.ops import Op
from shimmy.graph.shapes import Shape
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.memory import FLOAT, Rows
from shimmy_plugins.backends.wgpu.step import outputs_of

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fallback:
    """A stretch of a program that the processor computes, while the GPU waits."""

    node: Node
    gpu: Gpu
    run: Evaluator
    weights: Mapping[str, F32]
    inputs: Sequence[tuple[Rows, Shape]]
    """Where they lie, and the shape of a row."""
    y: Rows
    late: bool
    """Whether there is a row for each output only."""

    @classmethod
    def of(
        cls,
        gpu: Gpu,
        op: Op,
        node: Node,
        source: Weights,
        inputs: Sequence[tuple[Rows, Shape]],
        y: Rows,
        *,
        late: bool,
    ) -> Fallback:
        """Raises GraphError: the op's definition cannot be found."""
        weights = {
            role: source.dequantize(name).reshape(source.shape(name)) for role, name in node.weights.items()
        }
        return cls(node, gpu, evaluator(op, node), weights, inputs, y, late)

    def compute(self, batch: Batch, rows: slice, outputs: int, wanted: int) -> None:
        """Compute some rows of a step, of a phase that has ``wanted`` outputs behind ``outputs`` others."""
        first, count = (outputs, wanted) if self.late else (0, rows.stop - rows.start)
        if not count:
            return
        inputs = [self._read(x, first, count).reshape(count, *shape) for x, shape in self.inputs]
        y = self.run(inputs, self.weights, {"batch": part_of(batch, rows)})
        at = first * self.y.width * FLOAT
        self.gpu.upload(self.y.memory, y.reshape(count, -1).astype(np.float32, copy=False), at)

    def _read(self, rows: Rows, first: int, count: int) -> F32:
        everything = self.gpu.read(rows.memory, np.float32, (first + count) * rows.stride)
        table: F32 = everything.reshape(first + count, rows.stride)[first:]
        return table[:, rows.offset : rows.offset + rows.width]


def part_of(batch: Batch, rows: slice) -> Batch:
    """A step with only some adjacent rows of another."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        positions=batch.positions[rows],
        slots=batch.slots[rows],
        outputs=outputs_of(batch, rows),
        generated=min(batch.generated, rows.stop) - min(batch.generated, rows.start),
    )
