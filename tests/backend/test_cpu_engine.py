"""The CPU engine's own parts: code cache, other processors, memory, threads, ops it has no kernel for."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from shimmy.engine.reference import ReferenceBackend
from shimmy.errors import ConfigError, EngineError, GraphError, OutOfMemoryError
from shimmy.graph.builder import Graph
from shimmy.graph.ops import CORE_OPS, Op
from shimmy_plugins.backends.cpu import _probe
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import exp
from shimmy_plugins.backends.cpu.jit import COMPILING, Jit, Target
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kvcache import KVCache
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from shimmy_plugins.backends.cpu.plan import CpuPlan
from shimmy_plugins.backends.cpu.values import LANES
from tests.backend.harness import (
    FLAT,
    GREEDY,
    LIMITS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    assert_close,
    batch_of,
    compile_graph,
    compile_model,
    compile_with,
    floats,
    graph_of,
    no_progress,
    rows_of,
)
from tests.zoo import model_path


@pytest.fixture
def weights() -> MadeUpWeights:
    rng = np.random.default_rng(0)
    return MadeUpWeights(a=floats(rng, 9, 64), w=affine(rng, 17, 64, Affine(4, 32)))


def build_linear(weights: MadeUpWeights) -> Graph:
    return graph_of(weights, lambda g: g.linear(g.embed("a"), "w"))


def compile_here(weights: MadeUpWeights, graph: Graph, cache: ObjectCache, **limits: int) -> CpuPlan:
    plan = CpuBackend(cache=cache).compile(graph, weights, replace(LIMITS, **limits), no_progress)
    plan.reserve(1)
    return plan


STEP = batch_of([Part([1, 2, 3])], every_row=True)


# -- code ---------------------------------------------------------------------------------------------


def test_damaged_code_is_compiled_again(tmp_path: Path, weights: MadeUpWeights) -> None:
    graph, cache = build_linear(weights), ObjectCache(tmp_path / "kernels")
    plan = compile_here(weights, graph, cache)
    expected = rows_of(plan, STEP)
    plan.close()
    files = sorted((tmp_path / "kernels").rglob("*.o"))
    assert [file.stem.split("_")[0] for file in files] == ["embed", "linear", "pack", "pack", "run"]
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:100])
    files[1].write_bytes(b"")
    files[2].write_bytes(whole[2][:-1] + bytes([whole[2][-1] ^ 1]))
    plan = compile_here(weights, graph, cache)
    np.testing.assert_array_equal(rows_of(plan, STEP), expected)
    plan.close()
    assert [file.read_bytes() for file in files] == whole


def test_whoever_waits_for_the_compiler_is_told(tmp_path: Path, weights: MadeUpWeights) -> None:
    graph, cache = build_linear(weights), ObjectCache(tmp_path / "kernels")
    for told in (True, False):
        phases: set[str] = set()
        backend = CpuBackend(cache=cache)
        backend.compile(graph, weights, LIMITS, lambda phase, _done, _total, to=phases: to.add(phase)).close()
        assert (COMPILING in phases) == told


def test_a_cache_that_cannot_be_written(tmp_path: Path, weights: MadeUpWeights) -> None:
    (tmp_path / "file").touch()
    compile_here(weights, build_linear(weights), ObjectCache(tmp_path / "file" / "kernels")).close()


def test_kernels_of_other_versions_go_when_there_are_too_many(tmp_path: Path) -> None:
    root = ObjectCache(tmp_path)
    (tmp_path / "notes.txt").write_text("not a kernel")
    caches = [root.of(version) for version in ("1", "2", "3", "4")]
    for age, cache in enumerate(caches):
        cache.put("k", bytes(1000))
        os.utime(cache._folder, (1e9 + age, 1e9 + age))
    root.of("1")  # is used again
    caches[3].prune(most_bytes=2500)
    assert [cache.get("k") is not None for cache in caches] == [True, False, False, True]
    caches[0].prune(most_bytes=0)
    assert [cache.get("k") is not None for cache in caches] == [True, False, False, False]
    assert (tmp_path / "notes.txt").exists()


def test_avx2_computes_the_same_bits(tmp_path: Path) -> None:
    """The order of additions is fixed, so half as wide registers change nothing."""
    if (problem := Target.host().problem()) or Target.host().description == "NEON":
        pytest.skip(problem or "not an x86 processor")
    rng = np.random.default_rng(1)
    ids = rng.integers(3, 2000, 40)
    found = []
    for target in (Target.host(), Target.host().at_most("avx2")):
        backend = CpuBackend(target, ObjectCache(tmp_path))
        plan = compile_with(backend, model_path("llama_spm.q4_k_m"))
        plan.reserve(2)
        found.append(rows_of(plan, batch_of([Part(ids, 0, [0, 1])])))
        found.append(plan.description)
        plan.close()
    assert "AVX2" in found[3]
    np.testing.assert_array_equal(found[0], found[2])


def test_instructions_that_the_processor_lacks_are_refused() -> None:
    old = Target("core2", "+sse4.1,-avx2,-fma")
    assert old.at_most("auto") == old
    with pytest.raises(ConfigError, match="instructions is 'avx2', which the processor .core2. lacks"):
        old.at_most("avx2")


def test_the_reference_has_no_instructions_to_choose(weights: MadeUpWeights) -> None:
    with pytest.raises(ConfigError, match="the reference backend leaves them to NumPy"):
        ReferenceBackend().compile(
            build_linear(weights), weights, replace(LIMITS, instructions="avx2"), no_progress
        )


@pytest.mark.parametrize(
    ("features", "missing"), [("+sse4.1,-avx2,-fma", "AVX2, FMA, F16C"), ("+avx2,+fma,-f16c", "F16C")]
)
def test_a_processor_that_lacks_instructions_is_refused(
    weights: MadeUpWeights, features: str, missing: str
) -> None:
    backend = CpuBackend(Target("core2", features))
    if backend._target.problem() is None:
        pytest.skip("not an x86 processor")
    with pytest.raises(EngineError, match=f"core2.*lacks {missing}"):
        backend.compile(build_linear(weights), weights, LIMITS, no_progress)


def test_probe_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _probe() is None
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "riscv64" in str(_probe())
    monkeypatch.setattr("shimmy_plugins.backends.cpu.find_spec", lambda _name: None)
    assert "llvmlite" in str(_probe())


def test_exp_within_two_ulp(tmp_path: Path) -> None:
    x = np.linspace(-87, 88, 1 << 16, dtype=np.float32)
    y = np.zeros_like(x)

    def body(e: Emitter, f: Fields, work: Work) -> None:
        with e.loop(0, f.size("n"), LANES) as i:
            f.pointer("y")[i] = exp(f.pointer("x").vector(i))

    kernel = Kernel("test_exp", ("n", "x", "y"), body)
    jit = Jit(Target.host(), ObjectCache(tmp_path))
    address = jit.compile({kernel.name: kernel.ir}, no_progress)[kernel.name]
    block = kernel.block({"n": len(x), "x": x, "y": y})
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    signature(address)(block.ctypes.data, 0, 1, None)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(y - exact) / np.spacing(exact.astype(np.float32))).max() < 2


# -- memory -------------------------------------------------------------------------------------------


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_kv_memory_returns_to_the_system() -> None:
    cache = KVCache()
    cache.layer(0, heads=8, key_dim=128, value_dim=128)
    cache.reserve(200)
    before, size = resident(), 200 * cache.block_bytes
    for address in cache.addresses[:200]:
        memory = (np.ctypeslib.ctypes.c_char * cache.block_bytes).from_address(int(address))
        np.frombuffer(memory, np.uint8)[:] = 1
    grown = resident() - before
    assert grown > 0.9 * size
    cache.reserve(50)
    assert resident() - before < 0.4 * size
    cache.reserve(0)
    assert resident() - before < 0.1 * size


def test_blocks_keep_their_content_when_others_come_and_go() -> None:
    plan = compile_model("cpu", model_path("llama_spm.q4_0"))
    ids = list(range(3, 43))
    found = []
    for blocks in (2, 100):
        plan.reserve(2)
        rows_of(plan, batch_of([Part(ids[:39], 0, [1, 0])]))
        plan.reserve(blocks)
        found.append(rows_of(plan, batch_of([Part(ids[39:], 39, [1, 0])])))
    np.testing.assert_array_equal(*found)
    plan.close()


def test_a_closed_plan_holds_no_weights() -> None:
    plan = compile_model("cpu", model_path("llama_spm.q4_0"))
    matrix = weakref.ref(next(iter(plan._plain.lowered.weights._matrices.values())).data)
    plan.close()
    gc.collect()
    assert matrix() is None


def test_too_many_blocks_is_an_error_with_the_arithmetic() -> None:
    plan = compile_model("cpu", model_path("llama_spm.q4_0"))
    with pytest.raises(OutOfMemoryError, match=r"KV cache.*: \d+ MiB are needed, \d+ MiB are free"):
        plan.reserve(2**40 // plan.block_bytes)
    plan.reserve(1)
    rows_of(plan, batch_of([Part([5])]))
    plan.close()


def test_weights_that_do_not_fit(weights: MadeUpWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build_linear(weights)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100})())
    with pytest.raises(OutOfMemoryError, match="weights of the model: 0 MiB are needed"):
        compile_graph("cpu", graph, weights)


@pytest.mark.parametrize(
    "part",
    [
        Part(range(129), 0, [0] * 5),
        Part([1], 0, [0] * 17),
        Part([1], 32, [0]),
        Part([1], 0, [4]),
        Part([1], 0, [-1]),
        Part([9], 0, [0]),
        Part([-1], 0, [0]),
    ],
    ids=["tokens", "blocks", "position", "unreserved", "negative block", "token", "negative token"],
)
def test_a_batch_that_would_leave_memory_is_refused(weights: MadeUpWeights, part: Part) -> None:
    plan = compile_graph("cpu", build_linear(weights), weights)
    plan.reserve(4)
    with pytest.raises(EngineError):
        plan.submit(batch_of([part]), [GREEDY])
    plan.close()


# -- threads ------------------------------------------------------------------------------------------


def cpu_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("shimmy-cpu")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_start_and_end_with_the_plan(tmp_path: Path, weights: MadeUpWeights, threads: int) -> None:
    plan = compile_here(weights, build_linear(weights), ObjectCache(tmp_path), threads=threads)
    assert len(cpu_threads()) == threads - 1
    for _ in range(100):
        rows_of(plan, STEP)
    plan.close()
    assert cpu_threads() == []


def test_idle_threads_use_no_processor() -> None:
    plan = compile_model("cpu", model_path("llama_spm.q4_0"))
    plan.reserve(1)
    rows_of(plan, batch_of([Part([5])]))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25
    plan.close()


# -- ops without a kernel -----------------------------------------------------------------------------


def with_op(weights: MadeUpWeights, op: Op, build: Callable[[Graph], object]) -> Graph:
    graph = Graph(weights, {**CORE_OPS, op.name: op})
    graph.output = build(graph).index
    return graph


def test_a_plugins_op_runs_on_numpy_and_is_listed(weights: MadeUpWeights) -> None:
    graph = with_op(weights, FLAT, lambda g: g.linear(g.op("flat", g.embed("a") + g.embed("a")), "w"))
    plan = compile_graph("cpu", graph, weights)
    plan.reserve(1)
    assert plan.fallbacks == ("flat",)
    doubled = 2 * weights.dequantize("a.weight")[[1, 2, 3]]
    assert_close(rows_of(plan, STEP), doubled @ weights.dequantize("w.weight").T)
    plan.close()


def test_an_op_that_says_what_it_is_made_of(weights: MadeUpWeights) -> None:
    double = replace(FLAT, name="double", expand=lambda g, inputs, _w, _a: g.op("add", *inputs, *inputs))
    quadruple = replace(
        FLAT, name="quadruple", expand=lambda g, x, _w, _a: g.op("double", g.op("double", *x))
    )
    graph = Graph(weights, {**CORE_OPS, "double": double, "quadruple": quadruple})
    graph.output = graph.op("quadruple", graph.embed("a")).index
    plan = compile_graph("cpu", graph, weights)
    plan.reserve(1)
    assert plan.fallbacks == ()
    np.testing.assert_array_equal(rows_of(plan, STEP), 4 * weights.dequantize("a.weight")[[1, 2, 3]])
    plan.close()


def test_an_op_with_state_needs_a_kernel(weights: MadeUpWeights) -> None:
    graph = with_op(weights, replace(FLAT, name="ssm", stateful=True), lambda g: g.op("ssm", g.embed("a")))
    with pytest.raises(GraphError, match="ssm.*cpu backend has no kernel"):
        compile_graph("cpu", graph, weights)
