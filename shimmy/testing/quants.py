"""What every quant type must do, as a class of tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.errors import ConfigError
from shimmy.gguf.blocks import BlockType
from shimmy.gguf.quant import (
    AffineRun,
    QuantType,
    RunnableQuantType,
    Scales,
    UnpackedQuantType,
    WritableQuantType,
)
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import Plugins
from shimmy.specs import QuantTypeSpec
from shimmy.testing.compare import assert_close, assert_same_bits
from shimmy.testing.engines import installed_plugins, usable_engines
from shimmy.testing.plans import LIMITS, compile_graph, graph_of
from shimmy.testing.steps import Part, batch_of, rows_of
from shimmy.testing.weights import expand

F32 = NDArray[np.float32]
Blocks = NDArray[np.uint8]

#: Of the tensors that files and engines are tried with: an odd number, and rows of at least so many columns.
ROWS, COLUMNS = 19, 512
#: Largest errors of an engine's products, as parts of a row's norm.
TOLERANCES = {"f32": 1e-5, "int8": 5e-2}
#: Blocks whose weights are all within these are like those of real files.
SMALLEST, LARGEST = 1e-3, 1e3


class QuantConformance:
    """Tests of a quant type; a subclass says which, and knows its values from elsewhere.

    class TestQ4X(QuantConformance):
        name = "Q4_X"

        def oracle(self, blocks):
            return another_implementation(blocks)
    """

    #: The type as ggml names it; its plugin is installed.
    name: str
    #: Blocks of any bytes that are tried.
    count = 1200
    #: Precisions in which engines are tried, and the largest errors of products, as parts of a row's norm.
    tolerances: Mapping[str, float] = MappingProxyType({"f32": 1e-5, "int8": 2e-2})

    def oracle(self, blocks: Blocks) -> F32:
        """(blocks, bytes) -> (blocks, elements): what another implementation reads, or values on record."""
        raise NotImplementedError(
            f"{type(self).__name__} must say what blocks of {self.name} mean: oracle()."
        )

    def plugins(self) -> Plugins:
        """Those that the type is looked for among."""
        return installed_plugins()

    # -- the tests ---------------------------------------------------------------------------

    def test_its_geometry_is_ggmls(self) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        spec = self._spec()
        types_by_id(self.plugins().quant_types)  # raises if another type has its id
        assert spec.block_elements > 0, f"{spec.name}: a block has {spec.block_elements} elements."
        assert spec.block_bytes > 0, f"{spec.name}: a block has {spec.block_bytes} bytes."
        theirs = {each.value: each for each in GGMLQuantizationType}.get(spec.ggml_id)
        if theirs is not None:
            found = (spec.name, spec.block_elements, spec.block_bytes)
            expected = (theirs.name, *GGML_QUANT_SIZES[theirs])
            assert found == expected, f"type {spec.ggml_id} is {expected} in ggml, the plugin says {found}."

    def test_any_bytes_have_the_oracles_values(self) -> None:
        blocks = self._any_blocks()
        found = self._values(blocks)
        with np.errstate(all="ignore"):
            expected = np.asarray(self.oracle(blocks), np.float32).reshape(found.shape)
        assert_same_bits(found, expected, f"{self.name}: dequantize_blocks")

    def test_blocks_do_not_depend_on_each_other(self) -> None:
        blocks = self._any_blocks()[:9]
        together = self._values(blocks)
        for number in range(len(blocks)):
            alone = self._values(blocks[[number]])
            assert_same_bits(alone[0], together[number], f"{self.name}: block {number} alone")

    def test_the_run_layout_has_the_same_numbers(self) -> None:
        quant = self._quant()
        if not isinstance(quant, RunnableQuantType):
            pytest.skip(f"{self.name} has no to_run: engines expand it to F32")
        blocks = self._any_blocks()
        rows = len(blocks) // 4
        with np.errstate(all="ignore"):
            run = quant.to_run(blocks, rows=rows)
            found, expected = expand(run), self._values(blocks).reshape(rows, -1)
        # Scales that are infinite or no number at all have no sensible sum; real files hold none.
        finite = np.isfinite(expected) & np.isfinite(found)
        if isinstance(run, AffineRun):
            with np.errstate(all="ignore"):
                finite &= np.isfinite(run.offset_values()).repeat(run.group, axis=1)
                _check_form(run, self.name)
        assert finite.mean() > 0.5, (
            f"{self.name}: {1 - finite.mean():.0%} of the run's weights are no numbers."
        )
        # As numbers: a weight of zero may be -0 in one and +0 in the other.
        wrong = finite & (found != expected)
        assert not wrong.any(), (
            f"{self.name}: to_run differs from dequantize_blocks in {wrong.sum()} of {wrong.size} weights, "
            f"first at {tuple(map(int, np.argwhere(wrong)[0]))}."
        )

    def test_unpack_is_what_numpy_computes(self) -> None:
        quant = self._quant()
        if not isinstance(quant, UnpackedQuantType):
            pytest.skip(f"{self.name} has no unpack: NumPy brings it into the run layout")
        blocks = self._any_blocks()
        derived = BlockType(quant.unpack)
        with np.errstate(all="ignore"):
            found, expected = (expand(each.to_run(blocks, len(blocks))) for each in (derived, quant))
        assert_same_bits(found, expected, f"{self.name}: unpack, beside to_run,")

    def test_rows_of_a_tensor(self, tmp_path: Path) -> None:
        weights = self._file(tmp_path)
        whole, run = weights.dequantize("a.weight"), expand(weights.run_layout("a.weight"))
        np.testing.assert_array_equal(run, whole)
        for rows in (slice(0, 1), slice(7, 12), slice(ROWS - 1, ROWS)):
            what = f"{self.name}: rows {rows.start} to {rows.stop}"
            assert_same_bits(weights.dequantize("a.weight", rows), whole[rows], what)
            assert_same_bits(expand(weights.run_layout("a.weight", rows)), run[rows], f"{what} of the run")

    def test_engines_compute_with_it(self, tmp_path: Path) -> None:
        """One tensor as an embedding and as a matrix, on every engine that can run here."""
        weights = self._file(tmp_path)
        graph = graph_of(weights, lambda g: g.linear(g.embed("a"), "tied", tied="a"))
        matrix = weights.dequantize("a.weight").astype(np.float64)
        batch = batch_of([Part(range(ROWS))], every_row=True)
        for name, backend in usable_engines(self.plugins()):
            for precision, tolerance in self.tolerances.items():
                try:
                    plan = compile_graph(backend, graph, weights, replace(LIMITS, precision=precision))
                except ConfigError:
                    continue  # the engine has no such arithmetic
                plan.reserve(1)
                what = f"{self.name} on {name} in {precision}"
                assert_close(rows_of(plan, batch), (matrix @ matrix.T).astype(np.float32), tolerance, what)
                plan.close()

    def test_written_blocks_are_near_the_weights(self) -> None:
        spec, quant = self._spec(), self._quant()
        if not isinstance(quant, WritableQuantType):
            pytest.skip(f"{self.name} has no quantize_blocks: it can only be read")
        shape = (64, spec.block_elements)
        weights = np.random.default_rng(1).standard_normal(shape, np.float32)
        weights[3] = 0
        blocks = quant.quantize_blocks(weights)
        assert blocks.dtype == np.uint8 and blocks.shape == (64, spec.block_bytes), (  # noqa: PT018 (one message)
            f"{self.name}: quantize_blocks gives {blocks.dtype} of {blocks.shape}, "
            f"expected uint8 of {(64, spec.block_bytes)}."
        )
        found = self._values(blocks)
        assert not found[3].any(), f"{self.name}: a block of zeros is read as {found[3]}."
        error = np.linalg.norm(found - weights) / np.linalg.norm(weights)
        assert error < 0.5, f"{self.name}: written weights are off by {error:.0%} of their size."

    # -- what they are made of ---------------------------------------------------------------

    def _spec(self) -> QuantTypeSpec:
        return self.plugins().quant_types.get(self.name)

    def _quant(self) -> QuantType:
        return self._spec().load()

    def _any_blocks(self) -> Blocks:
        """Any bytes at all: every code and scale, infinities and NaNs among them; read-only, as in a file."""
        return next(self._random_blocks(self.count))

    def _random_blocks(self, count: int) -> Iterator[Blocks]:
        random = np.random.default_rng(self._spec().ggml_id)
        while True:
            blocks = random.integers(0, 256, (count, self._spec().block_bytes), np.uint8)
            blocks.flags.writeable = False
            yield blocks

    def _values(self, blocks: Blocks) -> F32:
        with np.errstate(all="ignore"):
            values = self._quant().dequantize_blocks(blocks)
        expected = (len(blocks), self._spec().block_elements)
        assert values.dtype == np.float32 and values.shape == expected, (  # noqa: PT018 (one message)
            f"{self.name}: dequantize_blocks gives {values.dtype} of {values.shape}, "
            f"expected float32 of {expected}."
        )
        return values

    def _file(self, folder: Path) -> Weights:
        """A tensor ``a.weight`` in a file, of blocks like those of real files."""
        spec = self._spec()
        columns = max(COLUMNS, spec.block_elements)
        needed = ROWS * columns // spec.block_elements
        kept: list[Blocks] = []
        for tried, blocks in enumerate(self._random_blocks(needed)):
            sizes = np.abs(self._values(blocks)).max(axis=1)
            kept.append(blocks[(sizes > SMALLEST) & (sizes < LARGEST)])
            if sum(map(len, kept)) >= needed:
                break
            assert tried < 500, f"{self.name}: hardly any random block holds weights of a sensible size."
        tensor = RawTensor(np.concatenate(kept)[:needed].tobytes(), spec.ggml_id, (ROWS, columns))
        path = folder / f"{self.name}.gguf"
        write_gguf(path, {"general.architecture": "none"}, {"a.weight": tensor})
        return Weights(open_gguf(path), self.plugins().quant_types)


def _check_form(run: AffineRun, name: str) -> None:
    """What engines rely on, beyond what a run itself makes sure of."""
    assert run.codes.dtype == np.uint8, f"{name}: codes are {run.codes.dtype}, expected uint8."
    assert run.codes.max() < 2**run.bits, f"{name}: a code is {run.codes.max()}, of {run.bits} bits."
    for scales in (run.scales, run.offsets):
        if isinstance(scales, Scales):
            units, factors = scales.units.dtype, scales.factors
            known = (np.float16, np.float32, np.uint8)
            assert units in known, f"{name}: scales are {units}, expected half, float or exponents of uint8."
            assert factors is None or factors.dtype in (np.uint8, np.int8), f"{name}: factors are no bytes."
    values = run.scales.values().repeat(run.group, axis=1)
    products = values * run.numbers()
    inexact = np.isfinite(products) & (products != values.astype(np.float64) * run.numbers())
    # What makes a fused multiply-add give the same bits.
    assert not inexact.any(), f"{name}: scale * number is not exact in F32 for {inexact.sum()} weights."
