"""A node that the GPU does not compute: inputs come back from it, the result goes there.

That is a node without a kernel, by its NumPy definition; or one that stands for a segment of the graph, whose
definition is to ask the backend that computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch, LoraRows
from shimmy.graph.builder import Node
from shimmy.graph.evaluate import Evaluator, evaluator
from shimmy.graph.offload import RunSegment
from shimmy.graph.ops import Op
from shimmy.graph.shapes import Shape
from shimmy_plugins.backends.wgpu.device import Call, Gpu, Program, Slice
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
    segments: RunSegment | None
    """Who computes segments, where there are some."""

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
        segments: RunSegment | None,
    ) -> Fallback:
        """Raises GraphError: the op's definition cannot be found."""
        weights = {
            role: source.dequantize(name).reshape(source.shape(name)) for role, name in node.weights.items()
        }
        return cls(node, gpu, evaluator(op, node), weights, inputs, y, late, segments)

    @property
    def is_segment(self) -> bool:
        """Whether another backend computes it, as was asked for."""
        return self.node.op == "segment"

    def compute(self, work: Sequence[Program | Call], batch: Batch, before: int) -> None:
        """Submit what comes before it, then compute all rows of a step that has only those of one phase.

        Args:
            before: outputs of the other phase before its own.
        """
        first, count = (before, len(batch.outputs)) if self.late else (0, len(batch.tokens))
        pieces = self.gpu.submit(work, [_slice(x, first, count) for x, _ in self.inputs if count]).wait()
        if not count:
            return
        inputs = [
            _values(piece, rows).reshape(count, *shape)
            for piece, (rows, shape) in zip(pieces, self.inputs, strict=True)
        ]
        y = self.run(inputs, self.weights, {"batch": batch, "segments": self.segments})
        at = first * self.y.width * FLOAT
        self.gpu.upload(self.y.memory, y.reshape(count, -1).astype(np.float32, copy=False), at)


def part_of(batch: Batch, rows: slice) -> Batch:
    """A step with only some adjacent rows of another."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        positions=batch.positions[rows],
        slots=batch.slots[rows],
        outputs=outputs_of(batch, rows),
        lora=None if batch.lora is None else _entries_of(batch.lora, rows),
        generated=min(batch.generated, rows.stop) - min(batch.generated, rows.start),
    )


def _entries_of(lora: LoraRows, rows: slice) -> LoraRows | None:
    mine = (lora.rows >= rows.start) & (lora.rows < rows.stop)
    if not mine.any():
        return None
    return LoraRows(lora.rows[mine] - np.int32(rows.start), lora.adapters[mine], lora.scales[mine])


def _slice(rows: Rows, first: int, count: int) -> Slice:
    whole, row = rows.memory, rows.stride * FLOAT
    return Slice(whole.buffer, whole.offset + first * row, count * row)


def _values(piece: bytes, rows: Rows) -> F32:
    table: F32 = np.frombuffer(piece, np.float32).reshape(-1, rows.stride)
    return table[:, rows.offset : rows.offset + rows.width]
