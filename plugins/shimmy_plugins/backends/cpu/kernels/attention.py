"""attention: softmax attention of each row and head over the positions up to the row's own.

Three kernels over the lists of ``AttentionWork``. Rows of prompts are computed in tiles: for each
block of 32 positions of the cache, all queries of the tile (its rows at the heads that share keys
and values), as many at a time as fit the registers. Rows alone are computed in pieces of their
context, each an item of work; then the results of the pieces are added in order. Tiles, too, add
piece to piece, so a row's bits are the same either way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.attention_work import PIECE_TOKENS, Division
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels import kv_append
from shimmy_plugins.backends.cpu.kernels.attention_thread import FIELDS, Thread, Variant, Workspace
from shimmy_plugins.backends.cpu.kernels.paged import Sequence, paged_fields
from shimmy_plugins.backends.cpu.kernels.softmax import Block, Queries, States, state_floats
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering, Memory
from shimmy_plugins.backends.cpu.values import I64, Operand, Value

#: A window wider than any context.
_EVERYTHING = 1 << 31


@cache
def tiles_kernel(variant: Variant) -> Kernel:
    """Rows of prompts."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        thread = Thread(e, f, work, variant)
        with work.claim(f.count("count") * thread.kv_heads) as item:
            number, kv_head = item // thread.kv_heads, item % thread.kv_heads
            first, rows = (thread.item(number, 2, word) for word in range(2))
            _tile(thread, first, rows, kv_head)

    return Kernel(variant.name("tiles"), FIELDS, body)


def _tile(thread: Thread, first: Value, rows: Value, kv_head: Value) -> None:
    """y of some rows at the heads that share keys and values."""
    e, variant = thread.e, thread.variant
    sharing, together = variant.sharing, variant.tile.queries
    queries = rows * sharing
    # Registers that would stay empty at the end compute the last query once more.
    padded = (queries + (together - 1)) // together * together
    totals, states = thread.states("totals"), thread.states("states")
    with e.loop(0, padded) as i:
        query = e.minimum(i, queries - 1)
        thread.take(i, first + query // sharing, kv_head * sharing + query % sharing)
        (totals + i).reset()
    sequence = Sequence(e, thread.f, first)
    begin, end = thread.begin(sequence.position + 1), sequence.position + rows
    attend = thread.attend(variant.tile)
    with e.loop(begin // PIECE_TOKENS, (end + (PIECE_TOKENS - 1)) // PIECE_TOKENS) as piece:
        with e.loop(0, padded) as i:
            (states + i).reset()
        with _blocks(e, piece, begin, end) as start:
            head = sequence.head(start // BLOCK_TOKENS, kv_head, variant.layout)
            block = Block(head, start, e.minimum(end - start, e.int(BLOCK_TOKENS)), None)
            with e.loop(0, padded, together) as i:
                attend(e, _from(thread.queries(states), i, variant.layout.key_dim), block)
        with e.loop(0, padded) as i:
            (totals + i).add(states + i)
    with e.loop(0, queries) as i:
        thread.finish(totals + i, first + i // sharing, kv_head * sharing + i % sharing)


@cache
def pieces_kernel(variant: Variant) -> Kernel:
    """Rows alone: each piece of their context."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        thread = Thread(e, f, work, variant)
        with work.claim(f.count("count") * thread.kv_heads) as item:
            number, kv_head = item // thread.kv_heads, item % thread.kv_heads
            row, piece = (thread.item(number, 2, word) for word in range(2))
            with e.when(_first_piece(thread, row) < piece + 1):
                _piece(thread, row, piece, kv_head, thread.results(number, kv_head))

    return Kernel(variant.name("pieces"), FIELDS, body)


def _piece(thread: Thread, row: Value, piece: Value, kv_head: Value, states: States) -> None:
    """States of a row at the heads that share keys and values, after a piece of the context."""
    e, variant = thread.e, thread.variant
    with e.loop(0, variant.sharing) as i:
        thread.take(i, row, kv_head * variant.sharing + i)
        (states + i).reset()
    sequence = Sequence(e, thread.f, row)
    end = sequence.position + 1
    with _blocks(e, piece, thread.begin(end), end) as start:
        index = start // BLOCK_TOKENS
        following = e.minimum(index + 1, sequence.position // BLOCK_TOKENS)
        head, ahead = (sequence.head(i, kv_head, variant.layout) for i in (index, following))
        block = Block(head, start, e.minimum(end - start, e.int(BLOCK_TOKENS)), ahead)
        first = 0
        for tile in variant.tiles:
            queries = _from(thread.queries(states), first, variant.layout.key_dim)
            thread.attend(tile)(e, queries, block)
            first += tile.queries


@cache
def sums_kernel(variant: Variant) -> Kernel:
    """Rows alone: the pieces together."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        thread = Thread(e, f, work, variant)
        total = thread.states("totals")
        heads = thread.kv_heads * variant.sharing
        with work.claim(f.count("count") * heads) as item:
            number, head = item // heads, item % heads
            row, first, pieces = (thread.item(number, 3, word) for word in range(3))
            total.reset()
            with e.loop(first + _first_piece(thread, row), first + pieces) as piece:
                total.add(thread.results(piece, head // variant.sharing) + head % variant.sharing)
            thread.finish(total, row, head)

    return Kernel(variant.name("sums"), FIELDS, body)


def _first_piece(thread: Thread, row: Value) -> Value:
    """The number of the first piece that a row sees."""
    return thread.begin(Sequence(thread.e, thread.f, row).position + 1) // PIECE_TOKENS


def _blocks(e: Emitter, piece: Value, begin: Value, end: Value) -> AbstractContextManager[Value]:
    """A loop over the first positions of the blocks of a piece which somebody sees."""
    first = e.maximum(piece * PIECE_TOKENS, begin // BLOCK_TOKENS * BLOCK_TOKENS)
    return e.loop(first, e.minimum((piece + 1) * PIECE_TOKENS, end), BLOCK_TOKENS)


def _from(queries: Queries, first: Operand, key_dim: int) -> Queries:
    """The queries from one on."""
    q = queries.q + queries.q.emitter.coerce(first, I64) * key_dim
    return Queries(q, queries.begins + first, queries.ends + first, queries.states + first)


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node: append, then attend."""
    q, k, v = (low.input(node, i) for i in range(3))
    (heads, key_dim), (kv_heads, _), (_, value_dim) = (low.shape(i) for i in node.inputs)
    layer = low.cache.layer(node.attrs["layer"], kv_heads, key_dim, value_dim)
    window, softcap = node.attrs["window"], node.attrs["softcap"]
    variant = Variant(
        layer.head,
        heads // kv_heads,
        low.target.accumulators,
        windowed=window is not None,
        capped=softcap is not None,
    )
    kv_append.append(low, layer, k, v)
    y = low.output(node)
    work = low.step.attention
    work.require(heads * state_floats(layer.head.value_stride))
    tiles = work.tiles(Division(kv_heads, variant.unit, variant.most_rows))
    scratch, scratch_stride = low.scratch(Workspace(variant).size)
    fields = {
        **paged_fields(low, layer),
        "results": work.results,
        "q": q.array,
        "q_stride": q.stride,
        "y": y.array,
        "y_stride": y.stride,
        "scale": float(node.attrs["scale"]),
        "window": _EVERYTHING if window is None else window,
        "softcap": 0.0 if softcap is None else float(softcap),
        "scratch": scratch,
        "scratch_stride": scratch_stride,
    }
    read: list[Memory] = [q, low.cache]
    low.call(tiles_kernel(variant), reads=read, writes=[y], items=tiles.array, count=tiles.count, **fields)
    low.call(
        pieces_kernel(variant), reads=read, writes=[work], items=work.pieces, count=work.piece_count, **fields
    )
    low.call(
        sums_kernel(variant), reads=[work], writes=[y], items=work.alone, count=work.alone_count, **fields
    )
