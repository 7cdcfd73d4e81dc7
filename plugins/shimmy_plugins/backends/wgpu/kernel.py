"""What an op gives the plan: shaders, how many workgroups they need, and what they are bound to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from shimmy_plugins.backends.wgpu.device import Slice


@dataclass(frozen=True, slots=True)
class Columns:
    """Where rows have a value: ``width`` numbers of each ``stride``, from ``offset`` on."""

    width: int
    stride: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """How large one phase of a step is."""

    rows: int
    """Rows of this phase."""
    outputs: int
    """Rows of this phase whose logits are wanted."""
    context: int
    """Positions that the row with most of them sees, itself included."""

    def count(self, *, late: bool) -> int:
        """Rows that an op has: behind ``last`` those whose logits are wanted."""
        return self.outputs if late else self.rows


Grid: TypeAlias = Callable[[Size], tuple[int, int, int]]
"""Workgroups in x, y and z; a zero means that there is nothing to do."""


def one_per_row(size: Size) -> tuple[int, int, int]:
    """The grid of an op that has a workgroup for each row."""
    return size.rows, 1, 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """A shader with all sizes but those of the step baked in."""

    label: str
    """The op and what tells it from its siblings; names it in errors and profiles."""
    source: str
    grid: Grid


@dataclass(frozen=True, slots=True)
class Work:
    """What a dispatch must do at least: bytes read and written, multiplications and additions."""

    bytes: int
    operations: int


Cost: TypeAlias = Callable[[Size], Work]
"""The work of a dispatch in a step of that size."""


Bound: TypeAlias = Slice | Callable[[], Slice]
"""What a binding is bound to; a function where the buffer may be replaced by another while the plan lives."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A kernel and its buffers, in the order of its bindings.

    An op may have several kernels for the same buffers: a step takes the first that does for its rows,
    ``kernels[i]`` for at most ``rows[i]`` of them, the last for any number. All give a row the same bits.
    """

    node: str
    """The label of the node, or nodes, it computes."""
    kernels: tuple[Kernel, ...]
    rows: tuple[int, ...]
    """One less than there are kernels."""
    slices: tuple[Bound, ...]
    cost: Cost | None = None
    """For profiles; None where it is small or known to nobody."""

    def pick(self, size: Size) -> int:
        """Which kernel computes a step."""
        return sum(size.rows > most for most in self.rows)
