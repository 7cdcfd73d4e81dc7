"""Random damage, through all that reads a file: a valid result or a GGUFError, at bounded cost."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.errors import GGUFError
from shimmy.gguf.card import read_card
from shimmy.gguf.params import read_params
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import Plugins
from tests import zoo
from tests.unit.gguf.splitting import split_gguf

#: No bigger file is damaged here, so no honest reader needs more.
MEMORY_LIMIT = 16 * 2**20
SEEDS = ("small", "split")

Damage = Callable[[random.Random, bytearray], bytearray]


@dataclass(frozen=True)
class Params:
    """A parameter class with a field of every kind."""

    block_count: int
    rope__freq_base: float
    name: str = ""
    flags: bool = False
    attention__head_count_kv: int | None = None
    scales: list[float] | float = 1.0
    layers: list[int] | None = None


@dataclass(frozen=True)
class Target:
    """Good files, the first of which is opened."""

    paths: list[Path]
    contents: list[bytes]

    def write(self, index: int, data: bytes) -> None:
        self.paths[index].write_bytes(data)

    def repair(self) -> None:
        for path, data in zip(self.paths, self.contents, strict=True):
            path.write_bytes(data)


@pytest.fixture(scope="module")
def targets(tmp_path_factory, plugins) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.rope.freq_base": 10000.0,
        "llama.name": "größer ▁",
        "llama.flags": True,
        "llama.scales": [1.0, 2.0],
        "llama.layers": [1, 2, 3],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<s>", "▁a", "b"],
        "nested": [[1], [2, 3], []],
    }
    rng = random.Random(1)
    tensors = {"norm": RawTensor(bytes(1024), 0, (256,))}
    for spec in plugins.quant_types:
        data = rng.randbytes(2 * 256 // spec.block_elements * spec.block_bytes)
        tensors[spec.name] = RawTensor(data, spec.ggml_id, (2, 256))
    write_gguf(folder / "small.gguf", metadata, tensors)
    files = {"small": [folder / "small.gguf"], "split": split_gguf(folder / "small.gguf", folder, "s", 2)}
    return {name: Target(paths, [path.read_bytes() for path in paths]) for name, paths in files.items()}


def read_everything(path: Path, plugins: Plugins) -> GGUFError | None:
    """Open, describe and decode a file; what was wrong with it, and that must be a GGUFError."""
    try:
        with open_gguf(path, skim=True) as file:
            read_card(file, name="m", source="test", quant_types=plugins.quant_types)
        with open_gguf(path) as file:
            card = read_card(file, name="m", source="test", quant_types=plugins.quant_types)
            weights = Weights(file, plugins.quant_types)
            for name in weights.names():
                assert weights.dequantize(name).size == np.prod(weights.shape(name))
                weights.run_layout(name)
            read_params(Params, file.metadata, card.architecture)
    except GGUFError as error:
        return error
    return None


def within_memory(path: Path, plugins: Plugins) -> GGUFError | None:
    tracemalloc.start()
    try:
        return read_everything(path, plugins)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT


def flip_bytes(rng: random.Random, data: bytearray) -> bytearray:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def flip_in_head(rng: random.Random, data: bytearray) -> bytearray:
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(4, 900)] = rng.randrange(256)
    return data


def truncate(rng: random.Random, data: bytearray) -> bytearray:
    return data[: rng.randrange(len(data))]


def huge_number(rng: random.Random, data: bytearray) -> bytearray:
    size = rng.choice((4, 8))
    at = rng.randrange(4, 900)
    value = rng.choice((2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** rng.randrange(8 * size), 65535))
    data[at : at + size] = value.to_bytes(size, "little")
    return data


def shift(rng: random.Random, data: bytearray) -> bytearray:
    """Take bytes out or put some in, so that all that follows is read askew."""
    at = rng.randrange(4, 900)
    data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(5))
    return data


def repeat(rng: random.Random, data: bytearray) -> bytearray:
    """Copy a stretch of the head over another: keys twice, tables nested in themselves."""
    source, target, length = rng.randrange(900), rng.randrange(900), rng.randrange(1, 200)
    data[target : target + length] = data[source : source + length]
    return data


DAMAGES: tuple[Damage, ...] = (flip_bytes, flip_in_head, truncate, huge_number, shift, repeat)


@pytest.mark.parametrize("name", SEEDS)
def test_what_is_whole_is_read(targets, plugins, name):
    assert within_memory(targets[name].paths[0], plugins) is None


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(SEEDS),
    damage=st.sampled_from(DAMAGES),
    seed=st.integers(0, 2**32),
    victim=st.integers(0, 1),
)
def test_damaged_files(targets, plugins, name, damage, seed, victim):
    target = targets[name]
    index = victim % len(target.paths)
    target.write(index, damage(random.Random(seed), bytearray(target.contents[index])))
    try:
        error = within_memory(target.paths[0], plugins)
        assert error is None or len(str(error)) < 4000
    finally:
        target.repair()


@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(width=32) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_parameters_of_any_type(value):
    for key in ("block_count", "rope.freq_base", "name", "flags", "scales", "layers"):
        metadata = {"m.block_count": 1, "m.rope.freq_base": 1.0, f"m.{key}": value}
        try:
            params = read_params(Params, metadata, "m")
        except GGUFError as error:
            problem = error.message
        else:
            assert type(params.block_count) is int
            assert type(params.rope__freq_base) is float
            continue
        assert f"'m.{key}'" in problem
        assert len(problem) < 1000


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_at_length(targets, plugins, name, damage):
    rng = random.Random(20260822)
    target = targets[name]
    for _ in range(2000):
        index = rng.randrange(len(target.paths))
        target.write(index, damage(rng, bytearray(target.contents[index])))
        read_everything(target.paths[0], plugins)
        target.repair()


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_damaged_model(tmp_path, plugins):
    """The same with a real vocabulary, whose arrays make up most of the head."""
    good = zoo.model_path("llama_spm.q4_0").read_bytes()
    with open_gguf(zoo.model_path("llama_spm.q4_0")) as file:
        head = min(info.offset for info in file.tensors.values())
    rng = random.Random(7)
    path = tmp_path / "model.gguf"
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(4, head)] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        read_everything(path, plugins)
