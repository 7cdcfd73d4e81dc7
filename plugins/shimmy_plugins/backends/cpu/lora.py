"""Adapters as the CPU's kernels read them: packed weights, a table per node, and the step's entries.

A node's table has a record for each place an adapter may have, all zeros where there is none or where
it leaves the node alone. So adapters come and go without a kernel or a program being made anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import EngineError
from shimmy.graph.batch import Batch, LoraRows
from shimmy.graph.lora import Term, Terms
from shimmy_plugins.backends.cpu.memory import aligned, aligned_floats, require_memory, round_up
from shimmy_plugins.backends.cpu.values import LANES

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Floats = NDArray[Any]

#: Columns that kernels multiply in one go; packed matrices and their inputs are padded to it with zeros.
UNROLL = 8
#: Entries of one adapter that are computed together at most: more threads find something to do.
SEGMENT = 32
#: Words of a record: addresses of A and B (0: none), of the vector added, the number of columns of B
#: and of groups of 16 rows of A, whether weights are half floats, the scale's bits, the stride of an
#: embedding's A.
FIELDS = ("a", "b", "offset", "columns", "groups", "half", "scale", "stride")


class Entries:
    """The entries of a step, for nodes that have all rows or only those whose logits are wanted."""

    def __init__(self, most: int) -> None:
        self.rows = np.zeros(most, np.int32)
        self.scales = np.zeros(most, np.float32)
        self.segments = np.zeros((most, 3), np.int64)
        """Place of the adapter, first entry, number of entries."""
        self.count = np.zeros(1, np.int64)
        """How many segments there are."""

    def fill(self, rows: I32, places: I32, scales: F32) -> None:
        self.rows[: len(rows)] = rows
        self.scales[: len(rows)] = scales
        self.count[0] = 0
        for segment in _segments(places):
            self.segments[self.count[0]] = segment
            self.count[0] += 1


class ExpertEntries(Entries):
    """The entries of a step, each once for every expert that its row has chosen: filled by a kernel.

    Places are those of an adapter and an expert, rows where they begin in y.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.sources = np.zeros(most, np.int32)
        """Where their rows begin in x."""


class LoraState:
    """The adapters of a plan and what they do in the current step."""

    def __init__(self, limits: Limits) -> None:
        most = limits.step_tokens * MOST_MIXED
        self.every, self.late = Entries(most), Entries(most)
        self.most_groups = np.zeros(1, np.int64)
        """Groups of 16 ranks of the adapter that has most of them."""
        self.middle_stride = round_up(limits.max_lora_rank)
        self._most = most
        self._middles = [aligned_floats(most, self.middle_stride) for _ in range(2)]
        self._of_experts: dict[int, tuple[ExpertEntries, F32]] = {}
        self._zeros = aligned_floats(1)
        self._places = limits.max_adapters
        self._tables: dict[str, I64] = {}
        self._embeddings: set[str] = set()
        self._held: dict[int, list[Floats]] = {}
        self._groups = np.zeros(limits.max_adapters, np.int64)

    def table(self, target: str, width: int, *, embedding: bool = False, experts: int = 1) -> I64:
        """The records of the node with this label, (places, experts, fields); its rows are ``width`` wide."""
        if embedding:
            self._embeddings.add(target)
        if self._zeros.size < (needed := round_up(width)):
            self._zeros = aligned_floats(needed)
        return self._tables.setdefault(target, np.zeros((self._places, experts, len(FIELDS)), np.int64))

    def of_experts(self, used: int) -> tuple[ExpertEntries, F32]:
        """Entries of rows that have chosen so many experts each, and memory for their A x."""
        if used not in self._of_experts:
            most = self._most * used
            self._of_experts[used] = ExpertEntries(most), aligned_floats(most, self.middle_stride)
        return self._of_experts[used]

    def middle(self) -> F32:
        """Memory for A x of all entries; nodes take turns, so that neighbours do not wait for each other."""
        self._middles.reverse()
        return self._middles[0]

    def zeros(self) -> F32:
        """Zeros as wide as the widest row, once all tables are made."""
        return self._zeros

    def put(self, place: int, terms: Terms | None) -> None:
        """Fill in, or clear, the records of a place. What cannot be loaded leaves all as it was."""
        if not 0 <= place < self._places:
            raise EngineError(f"there is no place {place} for an adapter, only {self._places} places.")
        if terms is not None:
            self._check_terms(terms)
            needed = sum(2 * term.bytes for term in terms.values())
            require_memory("memory for an adapter", needed)
        for table in self._tables.values():
            table[place] = 0
        self._held.pop(place, None)
        self._groups[place] = 0
        if terms is not None:
            held = self._held[place] = []
            for target, term in terms.items():
                records = self._tables[target][place]
                each = [term] if len(records) == 1 else map(term.of_expert, range(len(records)))
                for record, own in zip(records, each, strict=True):
                    record[:] = self._record(own, held, embedding=target in self._embeddings)
                groups = records[:, FIELDS.index("groups")].max()
                self._groups[place] = max(self._groups[place], groups)
        self.most_groups[0] = self._groups.max()

    def fill(self, batch: Batch) -> None:
        """Take over the entries of a step. EngineError if they do not fit the limits."""
        lora = batch.lora
        assert lora is not None
        self._check(lora, len(batch.tokens))
        self.every.fill(lora.rows, lora.adapters, lora.scales)
        at = np.searchsorted(batch.outputs, lora.rows).astype(np.int32)
        at_end = np.append(batch.outputs, np.int32(-1))
        kept = at_end[at] == lora.rows
        self.late.fill(at[kept], lora.adapters[kept], lora.scales[kept])

    def _check_terms(self, terms: Terms) -> None:
        rank = max((term.rank for term in terms.values()), default=0)
        if rank > self.middle_stride:
            raise EngineError(f"an adapter has rank {rank}, the plan holds at most {self.middle_stride}.")
        if unknown := sorted(terms.keys() - self._tables.keys()):
            raise EngineError(f"an adapter is for {unknown[0]!r}, which the graph has not.")

    def _check(self, lora: LoraRows, rows: int) -> None:
        """Kernels do not check addresses, so wrong entries must end here."""
        if len(lora.rows) > len(self.every.rows):
            raise EngineError(
                f"a step has {len(lora.rows)} rows with adapters, at most {len(self.every.rows)}."
            )
        if len(lora.rows) and (lora.rows.min() < 0 or lora.rows.max() >= rows):
            raise EngineError("an adapter is meant for a row outside the step.")
        if not set(lora.adapters.tolist()) <= self._held.keys():
            raise EngineError("a step wants an adapter that is not loaded.")

    def _record(self, term: Term, held: list[Floats], *, embedding: bool) -> list[int]:
        """A term's record; the arrays it points to are added to ``held``."""
        half = all(x is None or x.dtype == np.float16 for x in (term.a, term.b))
        a = None
        if term.a is not None:
            a = _table(term.a) if embedding else _packed(term.a, half=half)
        b = None if term.b is None else _packed(term.b, half=half)
        offset = self._zeros if term.offset is None else _padded(term.offset)
        held += [x for x in (a, b, offset) if x is not None]
        return [
            0 if a is None else a.ctypes.data,
            0 if b is None else b.ctypes.data,
            offset.ctypes.data,
            0 if b is None else b.shape[1],
            0 if a is None or embedding else len(a),
            int(half),
            int.from_bytes(struct.pack("<f", term.scale), "little"),
            0 if a is None else a.shape[1],
        ]


def _segments(places: I32) -> Iterator[tuple[int, int, int]]:
    """Runs of one place in ascending ``places``, cut into pieces of at most ``SEGMENT``."""
    for place in np.unique(places).tolist():
        start, end = np.searchsorted(places, [place, place + 1]).tolist()
        for first in range(start, end, SEGMENT):
            yield place, first, min(SEGMENT, end - first)


def _packed(matrix: Floats, *, half: bool) -> Floats:
    """(rows, columns) -> (groups of 16 rows, columns, 16), padded with zeros."""
    rows, columns = matrix.shape
    groups = -(-rows // LANES)
    packed = aligned((groups, round_up(columns, UNROLL), LANES), np.float16 if half else np.float32)
    padded = np.zeros((groups * LANES, columns), packed.dtype)
    padded[:rows] = matrix
    packed[:, :columns] = padded.reshape(groups, LANES, columns).transpose(0, 2, 1)
    return packed


def _table(matrix: Floats) -> F32:
    """Rows of floats, padded with zeros to whole vectors."""
    table = aligned_floats(matrix.shape[0], round_up(matrix.shape[1]))
    table[:, : matrix.shape[1]] = matrix
    return table


def _padded(values: F32) -> F32:
    padded = aligned_floats(round_up(len(values)))
    padded[: len(values)] = values
    return padded
