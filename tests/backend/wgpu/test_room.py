"""A graph that is too large for the GPU is refused with what would fit instead, and that does fit."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shimmy.engine.load import load_engine
from shimmy.engine.protocol import Sampling, Submit
from shimmy.engine.settings import EngineSettings
from shimmy.errors import OutOfMemoryError
from shimmy.graph.builder import Graph
from shimmy.graph.offload import split
from shimmy_plugins.backends.wgpu.adapters import Adapter
from shimmy_plugins.backends.wgpu.room import Room, tensors_of
from shimmy_plugins.backends.wgpu.unpacking import CHUNK_BYTES
from tests import mixture
from tests.backend.harness import GPU, LIMITS, PLUGINS, graph_of, no_progress
from tests.zoo import model_path

WEIGHTS = mixture.weights()
GRAPH = mixture.graph(WEIGHTS)
LAYERS = mixture.LAYERS
SMALL = replace(LIMITS, step_tokens=1, max_sequences=1)


def size_of(name: str) -> int:
    """As if the matrices were large beside all else."""
    return 1000 * WEIGHTS.dequantize(name).nbytes


def bytes_of(graph: Graph) -> int:
    return sum(map(size_of, tensors_of(graph)))


def room_of(free: int | None) -> Room:
    gpu: Any = SimpleNamespace(free=free, facts=SimpleNamespace(name="Voodoo"))
    weights: Any = SimpleNamespace(size_of=size_of)
    return Room(gpu, weights, SMALL)


def kept(**wishes: int) -> int:
    """Bytes that are needed where some of the graph leaves, and some for loading, values and a KV cache."""
    parts = split(GRAPH, **wishes)
    assert parts is not None
    return bytes_of(parts.graph) + CHUNK_BYTES + 600_000


def hint(free: int) -> str | None:
    with pytest.raises(
        OutOfMemoryError, match=r"weights take \d+\.\d MiB on Voodoo, where \d+\.\d MiB may"
    ) as caught:
        room_of(free).require(GRAPH)
    return caught.value.hint


def test_what_fits_is_let_through() -> None:
    room_of(bytes_of(GRAPH)).require(GRAPH)
    room_of(None).require(GRAPH)


def test_as_many_layers_as_fit_are_named() -> None:
    assert bytes_of(GRAPH) > kept(keep_layers=2) > kept(keep_layers=1) > kept(keep_layers=0)
    for layers in (2, 1, 0):
        assert f"gpu_layers to {layers} (of 3)" in (hint(kept(keep_layers=layers)) or "")
    assert hint(100_000) == "Raise gpu_memory, or set engine_backend to 'cpu'."


def test_experts_are_named_where_they_are_what_is_too_much() -> None:
    assert (hint(kept(experts_of=LAYERS)) or "").startswith("Set cpu_moe, or gpu_layers to ")
    assert "cpu_moe" not in (hint(kept(experts_of=LAYERS) - 10_000_000) or "")
    assert (hint(kept(experts_of=2)) or "").startswith("Set n_cpu_moe to 2 (of 3), or gpu_layers to ")


@pytest.mark.parametrize("wishes", [{"keep_layers": 2}, {"experts_of": 2}])
def test_what_some_has_left_already_may_still_be_too_much(wishes: dict[str, int]) -> None:
    parts = split(GRAPH, **wishes)
    assert parts is not None
    with pytest.raises(OutOfMemoryError) as caught:
        room_of(kept(**{**wishes, "keep_layers": 1})).require(parts.graph)
    assert "gpu_layers to 1 (of 3)" in (caught.value.hint or "")


def test_a_cache_of_some_use_must_fit() -> None:
    room_of(1000 * 16 * 10 // 8).require_cache(1000)
    with pytest.raises(OutOfMemoryError, match="may take 80% of it, and needs 0.0 MiB for 512 positions"):
        room_of(1000 * 16 * 10 // 8 - 1).require_cache(1000)
    room_of(None).require_cache(1000)


def test_what_runs_out_later_is_told_with_it_too() -> None:
    room = room_of(kept(keep_layers=1))
    with pytest.raises(OutOfMemoryError, match="no room for values") as caught, room.advising(GRAPH):
        raise OutOfMemoryError("no room for values.", hint="Buy some.")
    assert "gpu_layers to 1" in (caught.value.hint or "")
    with pytest.raises(OutOfMemoryError) as caught, room_of(None).advising(GRAPH):
        raise OutOfMemoryError("no room for values.", hint="Buy some.")
    assert caught.value.hint == "Buy some."


def test_refused_by_the_rest_of_an_engine() -> None:
    """What leaves two values to others cannot be advised."""
    with pytest.raises(OutOfMemoryError) as caught:
        room_of(1000).require(graph_of(WEIGHTS, mixture.two_values))
    assert "gpu_layers" not in (caught.value.hint or "")


#: A model, settings, and what is said to be too much.
TOO_LARGE = [
    ("llama_spm.f16", {"gpu_memory": 5 << 20, "max_ctx": 512}, "weights take"),
    ("llama_spm.f16", {"gpu_memory": 23 << 18, "max_ctx": 512}, "no memory for"),
    ("llama_spm.f16", {"gpu_memory": 13 << 19, "max_ctx": 512}, "the KV cache may take"),
    ("llama_spm.f16", {"gpu_memory": 8 << 20, "max_ctx": 1024}, "a context of 1024 needs 3 MiB"),
    # Without room for a table of angles, no layer stays.
    ("llama_spm.f16", {"gpu_memory": 13 << 19, "rope_scale": 32.0}, "no memory for angles"),
]


@pytest.mark.parametrize(("name", "given", "problem"), TOO_LARGE)
def test_a_model_that_is_larger_than_the_gpu(
    adapter: Adapter, name: str, given: dict[str, Any], problem: str
) -> None:
    """With the number of layers that its refusal names it loads, and answers."""
    del adapter  # there is one
    settings = EngineSettings(gpu=GPU, max_sequences=2, step_tokens=16, **given)

    def load(settings: EngineSettings) -> Any:
        return load_engine(model_path(name), name, settings, PLUGINS, no_progress)

    with pytest.raises(OutOfMemoryError, match=problem) as caught:
        load(settings)
    [(layers, _)] = re.findall(r"gpu_layers to (\d+) \(of (\d+)\)", caught.value.hint or "")
    loaded = load(msgspec.structs.replace(settings, gpu_layers=int(layers)))
    assert loaded.ready.host_weight_bytes > 0
    loaded.engine.submit(Submit(1, [1, 20, 300], 2, Sampling(temperature=0.0)))
    while not loaded.engine.idle:
        assert all(event.error is None for event in loaded.engine.step())
    loaded.engine.close()
