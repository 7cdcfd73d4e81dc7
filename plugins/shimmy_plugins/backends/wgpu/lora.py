"""Adapters in the GPU's memory: for each product a buffer with the weights that all adapters have for it.

A buffer begins with two records for each place and matrix, zeros where there is no adapter or where it leaves
the matrix alone; ``shaders/shimmy_shaders/common/lora.wgsl`` reads them:

    begin of A, of B, of the offset (0: none), chunks of a row of A
    chunks of a row of B, whether weights are half floats, bits of the scale, 0

Positions are in units of 16 bytes. Rows of weights are chunks of eight numbers, the last padded with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import EngineError, OutOfMemoryError
from shimmy.graph.batch import LoraRows
from shimmy.graph.lora import Term, Terms
from shimmy_plugins.backends.wgpu.device import Buffer, Gpu, Slice
from shimmy_plugins.backends.wgpu.ops.lora import CHUNK

U32 = NDArray[np.uint32]
Floats = NDArray[Any]

#: Words of the two records of a place and a matrix; bytes of a unit, and units of these records.
_FIELDS, _UNIT, _UNITS = 8, 16, 2


@dataclass(frozen=True, slots=True)
class _Piece:
    """What an adapter has for the matrices of a product."""

    records: U32
    """(matrices, fields), positions from the piece's beginning on."""
    begins: NDArray[np.bool_]
    """Which fields of the records are positions of something."""
    units: int
    ranks: int
    """Most numbers, in whole chunks, that A x is."""
    columns: int
    """Those of B where there is no A."""
    at: int = 0
    """Where it lies in the buffer."""

    def placed(self, at: int) -> _Piece:
        return replace(self, at=at)

    @property
    def table(self) -> U32:
        """The records as shaders read them."""
        return self.records + np.where(self.begins, np.uint32(self.at), np.uint32(0))


class Site:
    """The adapters' weights for matrices that are multiplied together, or for an embedding."""

    def __init__(self, gpu: Gpu, labels: Sequence[str], places: int, columns: int, experts: int = 0) -> None:
        """``columns`` of the input; 0: it is an embedding. ``experts``: how many matrices the label is of."""
        self.labels = tuple(labels)
        self._experts = experts
        self._count = experts or len(self.labels)
        self._gpu = gpu
        self._columns = columns
        self._places = places
        self._pieces: dict[int, _Piece] = {}
        self._buffer, _ = self._filled({}, None)

    def __contains__(self, place: int) -> bool:
        return place in self._pieces

    def numbers(self, *, whole: bool) -> int:
        """How many an adapter makes of a row here at most; ``whole``: with those of x where there is no A."""
        pieces = self._pieces.values()
        return max((max(piece.ranks, piece.columns if whole else 0) for piece in pieces), default=0)

    def copies(self) -> bool:
        """Whether an adapter has a B without an A here."""
        return any(piece.columns for piece in self._pieces.values())

    def slice(self) -> Slice:
        """What shaders read; another one after each ``take``."""
        return self._buffer.whole()

    def with_terms(self, place: int, terms: Terms) -> tuple[Buffer, dict[int, _Piece]]:
        """What to ``take`` so that the place has these terms, and only these. Raises OutOfMemoryError."""
        others = {key: piece for key, piece in self._pieces.items() if key != place}
        own = [terms.get(label) for label in self.labels]
        if self._experts and own[0]:
            own = [own[0].of_expert(number) for number in range(self._experts)]
        return self._filled(others, (place, own) if any(own) else None)

    def take(self, contents: tuple[Buffer, dict[int, _Piece]]) -> None:
        """Take another buffer; the old one is freed when steps in flight have ended."""
        self._buffer.destroy()
        self._buffer, self._pieces = contents

    def forget(self, place: int) -> None:
        """Give back what the place has."""
        try:
            self.take(self.with_terms(place, {}))
        except OutOfMemoryError:
            # Not even what others have fits a second time for a moment; the next change makes up for it.
            del self._pieces[place]
            self._gpu.upload(self._buffer, self._table(self._pieces))

    def _filled(
        self, held: Mapping[int, _Piece], new: tuple[int, list[Term | None]] | None
    ) -> tuple[Buffer, dict[int, _Piece]]:
        """A buffer with pieces that are held already and those terms of one more place."""
        units = self._places * self._count * _UNITS
        pieces = {}
        for place, piece in held.items():
            pieces[place] = piece.placed(units)
            units += piece.units
        if new:
            place, terms = new
            piece, words = _piece(terms, self._columns)
            pieces[place] = piece.placed(units)
            units += piece.units
        label = f"adapters of {'+'.join(self.labels)}"
        if units * _UNIT > self._gpu.limits.storage_binding:
            raise OutOfMemoryError(
                f"{label} take {units * _UNIT / 2**20:.0f} MiB, "
                f"a shader can read {self._gpu.limits.storage_binding / 2**20:.0f} MiB at once here."
            )
        buffer = self._gpu.buffer(units * _UNIT, label)
        for place, piece in held.items():
            size = piece.units * _UNIT
            source = self._buffer.slice(piece.at * _UNIT, size)
            self._gpu.copy(source, buffer.slice(pieces[place].at * _UNIT, size))
        if new:
            self._gpu.upload(buffer, words, pieces[new[0]].at * _UNIT)
        self._gpu.upload(buffer, self._table(pieces))
        return buffer, pieces

    def _table(self, pieces: Mapping[int, _Piece]) -> U32:
        table = np.zeros((self._places, self._count, _FIELDS), np.uint32)
        for place, piece in pieces.items():
            table[place] = piece.table
        return table


class LoraState:
    """The adapters of a plan."""

    def __init__(self, gpu: Gpu, limits: Limits) -> None:
        self.max_rank = limits.max_lora_rank
        self.experts = False
        """Whether adapters may change products of experts, which then are computed with nothing beside."""
        self.version = 0
        """Another number whenever a buffer was replaced: bind groups must be made anew then."""
        self.meets = not gpu.facts.software
        """Whether products of a single row wait for what other workgroups compute beside them; not where
        those may have to wait for a processor."""
        self.in_vain = gpu.buffer(_UNIT, "adapters waited for in vain")
        """Not zero: such a product has waited in vain."""
        self._gpu = gpu
        self._places = limits.max_adapters
        self._sites: dict[tuple[str, ...], Site] = {}
        self._held: set[int] = set()

    def site(self, labels: Sequence[str], columns: int, experts: int = 0) -> Site:
        """That of some nodes, the same for all programs of a plan; for the rest see :class:`Site`."""
        key = tuple(labels)
        if key not in self._sites:
            self._sites[key] = Site(self._gpu, key, self._places, columns, experts)
        return self._sites[key]

    def put(self, place: int, terms: Terms | None) -> None:
        """Set, or clear, what a place means.

        Raises:
            EngineError: there is no such place, or the adapter does not fit the plan.
            OutOfMemoryError: its weights do not fit; all is as it was.
        """
        if not 0 <= place < self._places:
            raise EngineError(f"there is no place {place} for an adapter, only {self._places} places.")
        if terms is None:
            for site in self._sites.values():
                if place in site:
                    site.forget(place)
            self._held.discard(place)
        else:
            self._check_terms(terms)
            changed = [
                site
                for site in self._sites.values()
                if place in site or not terms.keys().isdisjoint(site.labels)
            ]
            contents = [site.with_terms(place, terms) for site in changed]
            for site, new in zip(changed, contents, strict=True):
                site.take(new)
            self._held.add(place)
        self.version += 1

    def stop_meeting(self) -> None:
        """From now on nobody waits for others: single rows are computed as several are."""
        self.meets = False
        self.version += 1

    def check(self, lora: LoraRows, rows: int) -> None:
        """Shaders check no address, so entries that are wrong in a step of ``rows`` end here: EngineError."""
        if lora.rows.min() < 0 or lora.rows.max() >= rows:
            raise EngineError("an adapter is meant for a row outside the step.")
        if (most := int(np.bincount(lora.rows).max())) > MOST_MIXED:
            raise EngineError(f"a row has {most} adapters, at most {MOST_MIXED}.")
        if not set(lora.adapters.tolist()) <= self._held:
            raise EngineError("a step wants an adapter that is not loaded.")

    def _check_terms(self, terms: Terms) -> None:
        rank = max((term.rank for term in terms.values()), default=0)
        if rank > self.max_rank:
            raise EngineError(f"an adapter has rank {rank}, the plan holds at most {self.max_rank}.")
        known = {label for site in self._sites.values() for label in site.labels}
        if unknown := sorted(terms.keys() - known):
            raise EngineError(f"an adapter is for {unknown[0]!r}, which the graph has not.")


def _piece(terms: Sequence[Term | None], columns: int) -> tuple[_Piece, U32]:
    """What an adapter has for some matrices, and its words."""
    records = np.zeros((len(terms), _FIELDS), np.uint32)
    begins = np.zeros(records.shape, np.bool_)
    parts: list[U32] = []
    units, ranks, whole = 0, 0, 0
    for i, term in enumerate(terms):
        if term is None:
            continue
        half = all(x is None or x.dtype == np.float16 for x in (term.a, term.b))
        # Kernels compute whole chunks of ranks; of an embedding's A, rows are tokens.
        a = None if term.a is None else _packed(term.a, half=half, rows=CHUNK if columns else 1)
        b = None if term.b is None else _packed(term.b, half=half)
        offset = None if term.offset is None else _packed(term.offset[None], half=False)
        for field, part in enumerate((a, b, offset)):
            if part is not None:
                records[i, field], begins[i, field] = units, True
                parts.append(part.view(np.uint32).ravel())
                units += parts[-1].size * 4 // _UNIT
        chunks = [0 if x is None else x.shape[1] // CHUNK for x in (a, b)]
        records[i, 3:] = *chunks, int(half), np.float32(term.scale).view(np.uint32), 0
        if b is not None and a is not None:
            ranks = max(ranks, b.shape[1])
        elif b is not None:
            whole = max(whole, b.shape[1])
    return _Piece(records, begins, units, ranks, whole), np.concatenate(parts)


def _packed(matrix: Floats, *, half: bool, rows: int = 1) -> Floats:
    """The matrix with whole chunks in each row, and a multiple of ``rows`` of them."""
    shape = [-(-n // whole) * whole for n, whole in zip(matrix.shape, (rows, CHUNK), strict=True)]
    packed = np.zeros(shape, np.float16 if half else np.float32)
    packed[: matrix.shape[0], : matrix.shape[1]] = matrix
    return packed
