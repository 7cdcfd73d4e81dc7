"""Weights made up on the spot: in memory, in every form that run layouts have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun, Scales

F32 = NDArray[np.float32]


class MadeUpWeights:
    """Tensors in memory, in run layouts: what a plan needs of :class:`shimmy.gguf.weights.Weights`."""

    def __init__(self, **runs: AffineRun | FloatRun) -> None:
        self._runs = {f"{name}.weight": run for name, run in runs.items()}
        self._vectors: dict[str, F32] = {}
        self._leading: dict[str, int] = {}

    def with_vectors(self, **vectors: F32) -> MadeUpWeights:
        """Add vectors by full name, dots written as two underscores."""
        self._vectors |= {name.replace("__", "."): v for name, v in vectors.items()}
        return self

    def stacked(self, **counts: int) -> MadeUpWeights:
        """Make tensors of three dimensions: so many matrices of equal numbers of rows."""
        self._leading |= {f"{name}.weight": count for name, count in counts.items()}
        return self

    def names(self) -> Sequence[str]:
        """All tensors."""
        return [*self._runs, *self._vectors]

    def __contains__(self, name: object) -> bool:
        return name in self._runs or name in self._vectors

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first."""
        if name in self._vectors:
            return self._vectors[name].shape
        run = self._runs[name]
        shape = (run.codes if isinstance(run, AffineRun) else run.values).shape
        count = self._leading.get(name)
        return (count, shape[0] // count, shape[1]) if count else shape

    def run_layout(self, name: str, rows: slice | None = None) -> AffineRun | FloatRun:
        """Some rows in the form they were made in."""
        run, rows = self._runs[name], rows or slice(None)
        if isinstance(run, FloatRun):
            return FloatRun(run.values[rows])
        offsets = run.offsets if isinstance(run.offsets, int) else _rows(run.offsets, rows)
        return replace(run, codes=run.codes[rows], scales=_rows(run.scales, rows), offsets=offsets)

    def unpacked_type(self, name: str) -> None:
        """Runs come from no file's blocks."""

    def release(self, name: str) -> None:
        """These tensors are in memory only once."""

    def dequantize(self, name: str, rows: slice | None = None) -> F32:
        """(rows, columns) of float32; a vector is one row."""
        if name in self._vectors:
            return self._vectors[name][None]
        run = self.run_layout(name, rows)
        return expand(run)


def expand(run: AffineRun | FloatRun) -> F32:
    """(rows, columns): a run layout as an engine computes it, one multiply and one add, in float32."""
    if isinstance(run, AffineRun):
        scales, offsets = run.scales.values(), run.offset_values()
        return scales.repeat(run.group, axis=1) * run.numbers() + offsets.repeat(run.group, axis=1)
    if run.values.dtype == np.uint16:
        return (run.values.astype(np.uint32) << 16).view(np.float32)
    return run.values.astype(np.float32)


def _rows(scales: Scales, rows: slice) -> Scales:
    factors = None if scales.factors is None else scales.factors[rows]
    return replace(scales, units=scales.units[rows], factors=factors)


@dataclass(frozen=True)
class Affine:
    """A form of run: how wide codes are, what scales consist of, whether offsets are stored."""

    bits: int
    group: int
    unit: type = np.float16
    factor: type | None = None
    """Of scales for groups in units for 256 columns; None: a unit for each group."""
    """Of so many bits."""
    centred: bool = False
    codebook: tuple[int, ...] = ()
    """What codes stand for, if not for themselves."""
    factor_bits: int = 8

    def __str__(self) -> str:
        factor = f" {self.factor.__name__}/{self.factor_bits}" if self.factor else ""
        most = f" codes to {max(self.codebook)}" if self.codebook else ""
        return f"{self.bits} bits/{self.group} {self.unit.__name__}{factor}{' centred' * self.centred}{most}"

    @property
    def columns(self) -> int:
        """A row has a multiple of these."""
        return 256 if self.factor else self.group

    @property
    def zero(self) -> int:
        """The number of weight 0 where offsets are not stored: it need not be one of the codebook's."""
        return (max(self.codebook) + 1) // 2 if self.codebook else 2 ** (self.bits - 1)


#: Codebooks: of numbers that fill a byte, and of small ones.
_WIDE = (0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240)
_NARROW = (12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)

#: What the file formats have, and corners that others may have.
AFFINE = [
    Affine(4, 32, centred=True),  # Q4_0
    Affine(4, 32),  # Q4_1
    Affine(5, 32, centred=True),  # Q5_0
    Affine(5, 32),  # Q5_1
    Affine(8, 32, centred=True),  # Q8_0
    Affine(4, 32, factor=np.uint8),  # Q4_K
    Affine(5, 32, factor=np.uint8),  # Q5_K
    Affine(6, 16, factor=np.int8, centred=True),  # Q6_K
    Affine(2, 32, np.float32),
    Affine(2, 16, factor=np.uint8),
    Affine(3, 16, np.float32, np.int8, centred=True),
    Affine(4, 16, np.float32),
    Affine(7, 16),
    Affine(8, 16, np.float32),
    Affine(2, 16, factor=np.uint8, factor_bits=4),  # Q2_K
    Affine(3, 16, factor=np.int8, centred=True),  # Q3_K
    Affine(4, 32, centred=True, codebook=_WIDE),  # IQ4_NL
    Affine(4, 32, factor=np.int8, centred=True, codebook=_WIDE),  # IQ4_XS
    Affine(4, 32, np.uint8, centred=True, codebook=_NARROW),  # MXFP4
    Affine(3, 16, factor=np.uint8, centred=True, codebook=_NARROW[:8]),
    Affine(2, 32, np.uint8, codebook=(0, 200, 3, 255)),
    Affine(1, 32, factor=np.uint8, centred=True, codebook=(0, 2)),  # Q1_0
    Affine(4, 32, factor=np.uint8, factor_bits=4, centred=True),
]


def affine(rng: np.random.Generator, rows: int, columns: int, form: Affine) -> AffineRun:
    """Random codes; scales as in real files exact in F32 when multiplied with a code: of 24 bits at most."""
    shape = (rows, columns // (256 if form.factor else form.group))

    def scales(size: float) -> Scales:
        if form.unit is np.uint8:
            return Scales(rng.integers(122, 128, shape, np.uint8))
        units = rng.normal(0, size, shape).astype(np.float16)
        if form.unit is np.float32:
            # 11 bits times 5; with factors of 5 bits there is only room for what no 16 bits can hold.
            units = units * np.float32(2.0**-20 if form.factor else 21)
        if form.factor is None:
            return Scales(units)
        least = max(np.iinfo(form.factor).min, -16)
        most = min(2**form.factor_bits, 32)
        factors = rng.integers(least, most, (rows, columns // form.group), np.int8)
        return Scales(units, factors.astype(form.factor), form.factor_bits)

    codes = rng.integers(0, 2**form.bits, (rows, columns), dtype=np.uint8)
    offsets = form.zero if form.centred else scales(0.1 * 2**form.bits)
    return AffineRun(codes, form.bits, form.group, scales(0.1), offsets, form.codebook)


def floats(rng: np.random.Generator, rows: int, columns: int, kind: str = "f32") -> FloatRun:
    """Normal values stored as "f32", "f16" or "bf16"."""
    values = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    if kind == "bf16":
        return FloatRun((values.view(np.uint32) >> 16).astype(np.uint16))
    return FloatRun(values.astype({"f32": np.float32, "f16": np.float16}[kind]))
