"""What the backend tests share: weights made up on the spot, one-op graphs, batches, greedy decoding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.load import op_table, read_architecture
from shimmy.engine.plan import Backend, Limits, Plan, Progress
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling
from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Value, record
from shimmy.graph.ops import CORE_OPS, Op
from shimmy.graph.scaling import PLAIN, RopeScaling, read_scaling
from shimmy.plugins import load_plugins
from shimmy_plugins.backends.wgpu.adapters import list_adapters
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu

F32 = NDArray[np.float32]
GREEDY = RowSampling(Sampling(temperature=0.0), 0, {}, {})
#: Exact arithmetic, which the reference can judge by its bits; tests of other precisions say so.
LIMITS = Limits(max_ctx=512, max_sequences=8, step_tokens=128, threads=2, max_outputs=128, precision="f32")

PLUGINS = load_plugins()


def _gpu() -> str:
    """The best GPU's name, be it a software one; "auto" if there is none, or wgpu cannot be loaded."""
    try:
        return next((adapter.facts.name for adapter in list_adapters()), "auto")
    except (OSError, RuntimeError):
        return "auto"


GPU = _gpu()


#: Engines that run here, by name, and those among them that the reference judges.
BACKENDS = sorted(
    spec.name for spec in PLUGINS.backends if spec.probe() is None or (spec.name == "wgpu" and GPU != "auto")
)
JUDGED = [name for name in BACKENDS if name != "reference"]


def no_progress(phase: str, done: int, total: int) -> None:
    pass


class MadeUpWeights:
    """Tensors in memory, in run layouts: what a plan needs of :class:`shimmy.gguf.weights.Weights`."""

    def __init__(self, **runs: AffineRun | FloatRun) -> None:
        self._runs = {f"{name}.weight": run for name, run in runs.items()}
        self._vectors: dict[str, F32] = {}
        self._leading: dict[str, int] = {}

    def stacked(self, **counts: int) -> MadeUpWeights:
        """Make tensors of three dimensions: so many matrices of equal numbers of rows."""
        self._leading |= {f"{name}.weight": count for name, count in counts.items()}
        return self

    def with_vectors(self, **vectors: F32) -> MadeUpWeights:
        """Add vectors by full name, dots written as two underscores."""
        self._vectors |= {name.replace("__", "."): v for name, v in vectors.items()}
        return self

    def names(self) -> Sequence[str]:
        return [*self._runs, *self._vectors]

    def __contains__(self, name: object) -> bool:
        return name in self._runs or name in self._vectors

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._vectors:
            return self._vectors[name].shape
        run = self._runs[name]
        shape = (run.codes if isinstance(run, AffineRun) else run.values).shape
        if count := self._leading.get(name):
            return (count, shape[0] // count, shape[1])
        return shape

    def run_layout(self, name: str, rows: slice | None = None) -> AffineRun | FloatRun:
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
        if name in self._vectors:
            return self._vectors[name][None]
        run = self.run_layout(name, rows)
        if isinstance(run, AffineRun):
            scales, offsets = run.scales.values(), run.offset_values()
            return scales.repeat(run.group, axis=1) * run.codes + offsets.repeat(run.group, axis=1)
        if run.values.dtype == np.uint16:
            return (run.values.astype(np.uint32) << 16).view(np.float32)
        return run.values.astype(np.float32)


def _rows(scales: Scales, rows: slice) -> Scales:
    return Scales(scales.units[rows], None if scales.factors is None else scales.factors[rows])


@dataclass(frozen=True)
class Affine:
    """A form of run: how wide codes are, what scales consist of, whether offsets are stored."""

    bits: int
    group: int
    unit: type = np.float16
    factor: type | None = None
    """Of scales for groups in units for 256 columns; None: a unit for each group."""
    centred: bool = False

    def __str__(self) -> str:
        factor = f" {self.factor.__name__}" if self.factor else ""
        return f"{self.bits} bits/{self.group} {self.unit.__name__}{factor}{' centred' * self.centred}"

    @property
    def columns(self) -> int:
        """A row has a multiple of these."""
        return 256 if self.factor else self.group


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
]


def affine(rng: np.random.Generator, rows: int, columns: int, form: Affine) -> AffineRun:
    """Random codes; scales as in real files exact in F32 when multiplied with a code: of 24 bits at most."""
    shape = (rows, columns // (256 if form.factor else form.group))

    def scales(size: float) -> Scales:
        units = rng.normal(0, size, shape).astype(np.float16)
        if form.unit is np.float32:
            # 11 bits times 5; with factors of 5 bits there is only room for what no 16 bits can hold.
            units = units * np.float32(2.0**-20 if form.factor else 21)
        if form.factor is None:
            return Scales(units)
        limits = np.iinfo(form.factor)
        factors = rng.integers(max(limits.min, -16), 32, (rows, columns // form.group), form.factor)
        return Scales(units, factors)

    codes = rng.integers(0, 2**form.bits, (rows, columns), dtype=np.uint8)
    offsets = 2 ** (form.bits - 1) if form.centred else scales(0.1 * 2**form.bits)
    return AffineRun(codes, form.bits, form.group, scales(0.1), offsets)


def floats(rng: np.random.Generator, rows: int, columns: int, kind: str = "f32") -> FloatRun:
    """Normal values stored as "f32", "f16" or "bf16"."""
    values = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    if kind == "bf16":
        return FloatRun((values.view(np.uint32) >> 16).astype(np.uint16))
    return FloatRun(values.astype({"f32": np.float32, "f16": np.float16}[kind]))


@dataclass(frozen=True)
class Part:
    """Some tokens of one sequence: the ids, the position of the first, the blocks of the sequence."""

    tokens: Sequence[int]
    start: int = 0
    blocks: Sequence[int] = (0,)


def batch_of(parts: Iterable[Part], *, every_row: bool = False) -> Batch:
    """A step of parts of sequences; the logits of each part's last row are wanted, or of every row."""
    parts = list(parts)
    tokens = np.concatenate([np.array(p.tokens, np.int32) for p in parts])
    positions = np.concatenate([p.start + np.arange(len(p.tokens)) for p in parts]).astype(np.int32)
    slots = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.tokens) for p in parts])
    tables = np.zeros((len(parts), max(len(p.blocks) for p in parts)), np.int32)
    for row, part in zip(tables, parts, strict=True):
        row[: len(part.blocks)] = part.blocks
    ends = np.cumsum([len(p.tokens) for p in parts]) - 1
    outputs = (np.arange(len(tokens)) if every_row else ends).astype(np.int32)
    # Single tokens behind others stand for generated ones.
    generated = sum(1 for _ in takewhile(lambda p: len(p.tokens) == 1 and p.start > 0, parts))
    return Batch(tokens, positions, slots, tables, outputs, generated=generated)


def rows_of(plan: Plan, batch: Batch) -> F32:
    """(R, width): a copy of the output rows of a step."""
    step = plan.submit(batch, [GREEDY] * len(batch.outputs))
    logits = step.logits()
    return logits.reshape(len(logits), -1).copy()


def flatten(x: F32) -> F32:
    return x.reshape(len(x), -1)


#: Turns heads back into a row; as a plugin's op would, it runs by this definition on every engine.
FLAT = Op("flat", "One row of all heads.", lambda i, _w, _a: (prod(i[0]),), f"{__name__}:flatten")


def graph_of(weights: MadeUpWeights, build: Callable[[Graph], Value], scaling: RopeScaling = PLAIN) -> Graph:
    """A small graph; its inputs are embeddings of the token ids."""
    graph = Graph(weights, {**CORE_OPS, "flat": FLAT}, scaling)
    graph.output = build(graph).index
    return graph


def gpu_of(backend: str) -> str:
    """The setting ``gpu`` for a backend to run here."""
    return GPU if backend == "wgpu" else "auto"


@functools.cache
def backend_named(name: str) -> Backend:
    """A backend; that for GPUs computes on the best there is, be it a software one, which stays open."""
    if name == "wgpu":
        return WgpuBackend(PLUGINS, Gpu(list_adapters()[0]))
    return PLUGINS.backends.get(name).load(PLUGINS)


def compile_graph(backend: str, graph: Graph, weights: MadeUpWeights, limits: Limits = LIMITS) -> Plan:
    return backend_named(backend).compile(graph, weights, limits, no_progress)


def compile_model(backend: str, path: Path, limits: Limits = LIMITS) -> Plan:
    """A model file on a backend, by its name."""
    return compile_with(backend_named(backend), path, limits)


def compile_with(
    backend: Backend, path: Path, limits: Limits = LIMITS, progress: Progress = no_progress
) -> Plan:
    """A model file on a backend."""
    file = open_gguf(path)
    weights = Weights(file, PLUGINS.quant_types)
    name = file.metadata["general.architecture"]
    params, architecture = read_architecture(name, file, PLUGINS)
    scaling = read_scaling(file.metadata, name, weights, limits.max_ctx)
    graph = record(architecture, params, weights, op_table(PLUGINS), scaling)
    return backend.compile(graph, weights, limits, progress)


def assert_close(found: F32, expected: F32, tolerance: float = 1e-5) -> None:
    """Rows differ by at most ``tolerance`` of the expected row's norm."""
    assert found.shape == expected.shape
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() <= tolerance


def assert_agree(
    graph: Graph,
    weights: MadeUpWeights,
    batches: Iterable[Batch],
    backend: str,
    *,
    blocks: int = 8,
    limits: Limits = LIMITS,
) -> None:
    """Both the reference and ``backend`` run the batches, in order, with the same result."""
    plans = [compile_graph(name, graph, weights, limits) for name in ("reference", backend)]
    for plan in plans:
        plan.reserve(blocks)
    for batch in batches:
        expected, found = (rows_of(plan, batch) for plan in plans)
        assert_close(found, expected)
    for plan in plans:
        plan.close()


def as_it_is(batch: Batch) -> Batch:
    return batch


def generate_greedy(
    plan: Plan, ids: Sequence[int], count: int, change: Callable[[Batch], Batch] = as_it_is
) -> tuple[list[int], F32]:
    """The next ``count`` most probable tokens, and the logits after the prompt; prompts go in chunks.

    ``change`` may say more of each step.
    """
    plan.reserve(-(-(len(ids) + count) // plan.block_tokens))
    blocks = range(-(-(len(ids) + count) // plan.block_tokens))
    chunk = LIMITS.step_tokens
    for start in range(0, len(ids), chunk):
        batch = batch_of([Part(ids[start : start + chunk], start, blocks)])
        step = plan.submit(change(batch), [GREEDY])
    first = step.logits()[0].copy()
    generated = [step.chosen()[0].token]
    while len(generated) < count:
        part = Part(generated[-1:], len(ids) + len(generated) - 1, blocks)
        generated.append(plan.submit(change(batch_of([part])), [GREEDY]).chosen()[0].token)
    return generated, first
