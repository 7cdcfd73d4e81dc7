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
#: A row with at most so many pieces is one workgroup's: going on takes less time than a merge.
ALONE = 2
#: Query heads that read a key together; of more than that, several workgroups read it.
_HEADS = 8
#: Values that are read before weights are known: a few fit in registers.
_EARLY_VALUES = 8
_MERGE_THREADS = 256
#: Neighbours that share a head where heads are normed.
_NORM_LANES = 16


def pieces(shape: AttentionShape, context: int) -> int:
    """Most pieces that a row with ``context`` positions, or fewer, reads."""
    count = -(-context // PIECE)
    return count if shape.window is None else min(count, -(-(shape.window - 1) // PIECE) + 1)


def splits(shape: AttentionShape, context: int) -> int:
    """Workgroups that its pieces are shared out to."""
    count = pieces(shape, context)
    return 1 if count <= ALONE else min(count, SPLITS)


def partials_bytes(shape: AttentionShape, rows: int) -> int:
    """Size of the buffer between the kernels, for at most ``rows`` rows."""
    return rows * shape.heads * splits(shape, shape.max_ctx) * (shape.v_chunks + 1) * 16


def attention_vec(composer: Composer, gpu: Gpu, shape: AttentionShape, kv_type: str) -> tuple[Kernel, Kernel]:
    """Append k and v of each row to the cache, and attend: to parts of the context, then all together.

    Bindings of the first: q, k, v, keys, values, partials, result, step, the angle table if ``shape.rope``,
    the weights of ``shape.q_norm`` and ``shape.k_norm``. Of the second: partials, result, step. The first
    writes the result of rows that one workgroup has to itself, the second that of the others; it has no
    workgroups if there are none.

    Raises:
        GraphError: heads are too large for the GPU's workgroup memory.
    """
    work = _share(shape, kv_type, gpu.limits.workgroup_memory)
    parameters = {
        **shape.parameters(kv_type),
        "scores": work.scores,
        "piece": PIECE,
        "splits": splits(shape, shape.max_ctx),
        "alone": ALONE,
    }
    label = f"{shape.label} {kv_type}"
    first = composer.compose(
        "shimmy/ops/attention_piece.wgsl",
        subgroup=gpu.subgroup,
        threads=_THREADS,
        lanes=_LANES,
        k_wide=work.k_wide,
        shares=work.shares,
        heads=work.sets * work.in_set,
        sets=work.sets,
        in_set=work.in_set,
        groups=work.groups,
        exchange=work.exchange,
        norm_lanes=_NORM_LANES,
        early=PIECE // work.groups <= _EARLY_VALUES,
        **parameters,
    )
    threads = max(_MERGE_THREADS, 1 << (shape.v_chunks - 1).bit_length())
    second = composer.compose(
        "shimmy/ops/attention_merge.wgsl",
        workgroup=threads,
        heads=shape.heads,
        **parameters | {"scores": "f32"},
    )
    return (
        Kernel(f"attention piece {label}", first, _grid(shape, work.shares)),
        Kernel(f"attention merge {label}", second, _merge_grid(shape)),
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """What a workgroup does of the query heads that share a key head."""

    shape: AttentionShape
    k_wide: int
    """Chunks of a key that are read at once."""
    shares: int
    """Workgroups they are shared out to."""
    sets: int
    in_set: int
    """Heads that an invocation works on at a time; ``sets`` times as many are the workgroup's."""
    groups: int
    """Groups of positions whose values are added apart: a power of two."""

    @property
    def scores(self) -> str:
        """The type of a set's scores."""
        return "f32" if self.in_set == 1 else f"vec{self.in_set}<f32>"

    @property
    def exchange(self) -> int:
        """Sets of numbers that invocations pass to each other: parts of scores, then the groups' sums."""
        return max(self.sets * _THREADS, self.groups * self.sets * self.shape.v_chunks * 4)

    @property
    def memory(self) -> int:
        """Bytes of workgroup memory."""
        score = 4 * (4 if self.in_set == 3 else self.in_set)
        loads = -(-self.shape.k_chunks // (self.k_wide * _LANES)) * _LANES
        queries = self.sets * self.in_set * loads * self.k_wide * 16
        own = (self.shape.k_chunks + self.shape.v_chunks) * 16
        norms = (self.sets * self.in_set + 1) * (_NORM_LANES + 1) * 4
        return (
            queries + own + norms + (self.exchange + self.sets * (PIECE + PIECE // 8 + self.groups)) * score
        )


def _share(shape: AttentionShape, kv_type: str, memory: int) -> _Share:
    k_wide = 2 if kv_type == "f16" and shape.k_chunks % 2 == 0 else 1
    for most in range(_HEADS, 0, -1):
        shares, heads = shares_of(shape.per_kv, most)
        sets = -(-heads // 4)
        # The positions of a group lie within a block.
        groups = min(1 << (_THREADS // (sets * shape.v_chunks)).bit_length() >> 1, PIECE)
        while groups * BLOCK_TOKENS >= PIECE:
            share = _Share(shape, k_wide, shares, sets, -(-heads // sets), groups)
            if share.memory <= memory:
                return share
            groups //= 2
    raise GraphError(
        f"attention with heads of {shape.head_dim} and {shape.v_dim} numbers needs more workgroup memory "
        f"than the {memory} bytes of this GPU.",
        hint='Use the CPU engine for this model: engine_backend = "cpu".',
    )


def _grid(shape: AttentionShape, shares: int) -> Callable[[Size], tuple[int, int, int]]:
    def grid(size: Size) -> tuple[int, int, int]:
        return splits(shape, size.context), shape.kv_heads * shares, size.rows

    return grid


def _merge_grid(shape: AttentionShape) -> Callable[[Size], tuple[int, int, int]]:
    return lambda size: (shape.heads if splits(shape, size.context) > 1 else 0, size.rows, 1)
