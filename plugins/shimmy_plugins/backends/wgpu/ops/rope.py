"""Rotary embeddings: the table of cosines and sines, and the op for graphs that need it on its own.

Attention rotates q and k by itself where nothing else happens to them in between. Angles are computed on
the host, in float64 as the reference does: F32 angles of large positions would be wrong by whole degrees.
A table has 4 * dims bytes a position: 32 MiB for 131,072 positions of 64 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Node
from shimmy.graph.rope import RopeFrequencies
from shimmy.graph.scaling import RopeScaling
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel

F32 = NDArray[np.float32]

#: Positions whose angles are computed at a time: float64 numbers take more memory than the table.
_POSITIONS = 4096
_THREADS = 64


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a table turns heads."""

    dims: int
    """The first dimensions of a head, an even number, are turned; the table has half as many pairs."""
    style: str
    """Pairs are "interleaved" (2i, 2i + 1) or "half" (i, i + dims / 2)."""

    @classmethod
    def of(cls, node: Node) -> Rotation:
        """What a node of the op does."""
        return cls(node.attrs["dims"], node.attrs["style"])


def angle_key(node: Node) -> tuple[float, int, RopeScaling, str | None]:
    """What the table of a node of the op depends on: base, dimensions, scaling, and tensor of factors."""
    a = node.attrs
    return a["base"], a["dims"], a["scaling"], node.weights.get("factors")


def angle_table(frequencies: RopeFrequencies, positions: int) -> F32:
    """(positions, dims / 2, 2): cosine and sine of each pair, times the rotation's magnitude."""
    table = np.empty((positions, len(frequencies.inverse), 2), np.float32)
    for start in range(0, positions, _POSITIONS):
        part = table[start : start + _POSITIONS]
        part[..., 0], part[..., 1] = frequencies.cos_sin(np.arange(start, start + len(part), dtype=np.int32))
    return table


def rope(composer: Composer, rotation: Rotation, heads: int, head_dim: int, x: Columns, y: Columns) -> Kernel:
    """Heads of ``x``, turned, to ``y``. Bindings: x, y, step, the angle table."""
    source = composer.compose(
        "shimmy/ops/rope.wgsl",
        threads=_THREADS,
        rope=rotation,
        heads=heads,
        head_dim=head_dim,
        x=x,
        y=y,
    )
    groups = -(-heads * -(-head_dim // 4) // _THREADS)
    label = f"rope {heads}x{head_dim} {rotation.style}"
    return Kernel(label, source, lambda size: (groups, size.rows, 1))
