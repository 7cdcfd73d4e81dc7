"""Attention of generated rows: at most one of a sequence, each with all of its context to read.

The context is cut into pieces at fixed positions, which are shared out to as many workgroups as there are
pieces, up to a limit (flash-decoding: arXiv:2311.01282, section 2.2). What is added to what depends on a
row's position alone, and what workgroups leave takes a bounded amount of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shimmy.errors import GraphError
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape, shares_of

#: Positions in a piece.
PIECE = 64
#: Most workgroups that share a row's pieces out, for each key head; beyond it each has several pieces.
SPLITS = 64
_THREADS = 256
#: Neighbours that share a position's key.
_LANES = _THREADS // PIECE
#: Query heads that read a key together; of more than that, several workgroups read it.
_HEADS = 8
#: Values that are read before scores are known: a few fit in registers beside the keys.
_EARLY_VALUES = 8
_MERGE_THREADS = 128


def pieces(shape: AttentionShape, context: int) -> int:
    """Most pieces that a row with ``context`` positions, or fewer, reads."""
    count = -(-context // PIECE)
    return count if shape.window is None else min(count, -(-(shape.window - 1) // PIECE) + 1)


def splits(shape: AttentionShape, context: int) -> int:
    """Workgroups that its pieces are shared out to."""
    return min(pieces(shape, context), SPLITS)


def partials_bytes(shape: AttentionShape, rows: int) -> int:
    """Size of the buffer between the kernels, for at most ``rows`` rows."""
    return rows * shape.heads * splits(shape, shape.max_ctx) * (shape.v_chunks + 1) * 16


def attention_vec(composer: Composer, gpu: Gpu, shape: AttentionShape, kv_type: str) -> tuple[Kernel, Kernel]:
    """Append k and v of each row to the cache, and attend: to parts of the context, then all together.

    Bindings of the first: q, k, v, keys, values, partials, step, and the angle table if ``shape.rope``.
    Of the second: partials, result, step.

    Raises:
        GraphError: heads are too large for the GPU's workgroup memory.
    """
    work = _share(shape, gpu.limits.workgroup_memory)
    parameters = {
        **shape.parameters(kv_type),
        "scores": work.scores,
        "piece": PIECE,
        "splits": splits(shape, shape.max_ctx),
    }
    label = f"{shape.label} {kv_type}"
    first = composer.compose(
        "shimmy/ops/attention_piece.wgsl",
        threads=_THREADS,
        lanes=_LANES,
        shares=work.shares,
        heads=work.sets * work.in_set,
        sets=work.sets,
        in_set=work.in_set,
        groups=work.groups,
        exchange=work.exchange,
        early=PIECE // work.groups <= _EARLY_VALUES,
        **parameters,
    )
    threads = max(_MERGE_THREADS, 1 << (shape.v_chunks - 1).bit_length())
    second = composer.compose(
        "shimmy/ops/attention_merge.wgsl",
        workgroup=threads,
        subgroup=gpu.subgroup,
        heads=shape.heads,
        **parameters | {"scores": "f32"},
    )
    return (
        Kernel(f"attention piece {label}", first, _grid(shape, work.shares)),
        Kernel(f"attention merge {label}", second, lambda size: (shape.heads, size.rows, 1)),
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """What a workgroup does of the query heads that share a key head."""

    shape: AttentionShape
    shares: int
    """Workgroups they are shared out to."""
    sets: int
    in_set: int
    """Heads that an invocation works on at a time; ``sets`` times as many are the workgroup's."""

    @property
    def groups(self) -> int:
        """Groups of positions whose values are added apart: a power of two, 0 if heads are too large."""
        return min(1 << (_THREADS // (self.sets * self.shape.v_chunks)).bit_length() >> 1, PIECE)

    @property
    def scores(self) -> str:
        """The type of a set's scores."""
        return "f32" if self.in_set == 1 else f"vec{self.in_set}<f32>"

    @property
    def exchange(self) -> int:
        """Numbers that invocations pass to each other: parts of scores, half of the groups' sums."""
        sums = self.groups // 2 * self.sets * self.shape.v_chunks * self.in_set * 4
        return max(self.sets * self.in_set * _THREADS, sums)

    @property
    def possible(self) -> bool:
        """Whether each group's positions lie within a block."""
        return self.groups * BLOCK_TOKENS >= PIECE

    @property
    def memory(self) -> int:
        """Bytes of workgroup memory."""
        heads, score = self.sets * self.in_set, 4 * (4 if self.in_set == 3 else self.in_set)
        queries = heads * -(-self.shape.k_chunks // _LANES) * _LANES * 16
        own = (self.shape.k_chunks + self.shape.v_chunks) * 16
        return queries + own + self.exchange * 4 + self.sets * (PIECE + 8 + self.groups) * score


def _share(shape: AttentionShape, memory: int) -> _Share:
    for most in range(_HEADS, 0, -1):
        shares, heads = shares_of(shape.per_kv, most)
        sets = -(-heads // 4)
        share = _Share(shape, shares, sets, -(-heads // sets))
        if share.possible and share.memory <= memory:
            return share
    raise GraphError(
        f"attention with heads of {shape.head_dim} and {shape.v_dim} numbers needs more workgroup memory "
        f"than the {memory} bytes of this GPU.",
        hint='Use the CPU engine for this model: engine_backend = "cpu".',
    )


def _grid(shape: AttentionShape, shares: int) -> Callable[[Size], tuple[int, int, int]]:
    def grid(size: Size) -> tuple[int, int, int]:
        return splits(shape, size.context), shape.kv_heads * shares, size.rows

    return grid
