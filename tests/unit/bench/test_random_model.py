"""Models of random weights: they load, generate, and have the sizes asked for."""

from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.load import load_engine
from shimmy.engine.protocol import Sampling, Submit
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, RegistryError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.text.tokenizer import load_tokenizer
from shimmy_plugins.commands.bench.costs import read_costs
from shimmy_plugins.commands.bench.families import FAMILIES
from shimmy_plugins.commands.bench.random_blocks import EXPONENTS, FLOATS, QUARTERS, SCALES, random_blocks
from shimmy_plugins.commands.bench.random_model import cached_model, write_random_model
from shimmy_plugins.commands.bench.shapes import SHAPES, Shape, shape_named
from shimmy_plugins.commands.bench.workload import Case

TINY = Shape("tiny", 8, 64, 256, 4, 2, 320, 512, 1e4, tied=False)


@pytest.fixture
def write(tmp_path: Path, plugins):
    def write_it(quant: str, shape: Shape = TINY) -> Path:
        path = tmp_path / f"{quant}.gguf"
        write_random_model(path, shape, quant, plugins.quant_types)
        return path

    return write_it


def types(path: Path, plugins) -> dict[str, str]:
    with open_gguf(path) as file:
        weights = Weights(file, plugins.quant_types)
        return {name: weights.info(name).type for name in weights.names()}


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M", "F16"])
def test_a_random_model_generates(write, plugins, quant):
    loaded = load_engine(
        write(quant), "tiny", EngineSettings(backend="reference", max_ctx=64), plugins, lambda *_: None
    )
    loaded.engine.submit(Submit(1, [5, 6, 7], 4, Sampling(temperature=0.0)))
    events = []
    while not loaded.engine.idle:
        events += loaded.engine.step()
    loaded.engine.close()
    assert len(events) == 4
    assert all(0 <= event.token < TINY.vocabulary for event in events)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_generates(write, plugins, architecture):
    sizes = {"experts": 4, "experts_used": 2} if "moe" in architecture else {}
    shape = Shape(
        *("family", 2, 64, 96, 4, 4 if architecture == "gpt2" else 2, 320, 64, 1e4),
        tied=architecture != "phi2",
        architecture=architecture,
        key_length=None if architecture in ("gpt2", "phi3") else 24,
        rotated=8 if architecture == "phi2" else None,
        **sizes,
    )
    settings = EngineSettings(backend="reference", max_ctx=64)
    loaded = load_engine(write("Q4_K_M", shape), "family", settings, plugins, lambda *_: None)
    loaded.engine.submit(Submit(1, [5, 6, 7], 2, Sampling(temperature=0.0)))
    events = []
    while not loaded.engine.idle:
        events += loaded.engine.step()
    loaded.engine.close()
    assert len(events) == 2


def test_its_vocabulary_spells_any_text(write, plugins):
    with open_gguf(write("Q8_0")) as file:
        tokenizer = load_tokenizer(file.metadata, plugins.tokenizers)
    tokens = tokenizer.encode("Grüße, 你好!")
    assert max(tokens) < TINY.vocabulary
    assert tokenizer.decode(tokens).strip() == "Grüße, 你好!"


@pytest.mark.parametrize("quant", [*SCALES, *QUARTERS, *EXPONENTS, *FLOATS])
def test_weights_have_the_spread_asked_for(plugins, quant):
    spec = plugins.quant_types.get(quant)
    count = 100_000 // spec.block_elements
    blocks = random_blocks(spec, count, 0.02, np.random.default_rng(3))
    weights = spec.load().dequantize_blocks(blocks)
    assert weights.std() == pytest.approx(0.02, rel=0.1)
    # Q4_0 and Q5_0 have one code more below zero than above.
    assert abs(weights.mean()) < 0.003


def test_the_mixture_follows_llama_cpp(write, plugins):
    wide = Shape("wide", 8, 256, 512, 4, 2, 320, 512, 1e4, tied=False)
    found = types(write("Q4_K_M", wide), plugins)
    assert found["output.weight"] == "Q6_K"
    assert found["token_embd.weight"] == found["blk.0.ffn_up.weight"] == "Q4_K"
    better = [i for i in range(8) if found[f"blk.{i}.attn_v.weight"] == "Q6_K"]
    assert better == [i for i in range(8) if found[f"blk.{i}.ffn_down.weight"] == "Q6_K"] == [0, 3, 6, 7]


def test_types_that_do_not_fit_are_replaced(write, plugins):
    found = types(write("Q4_K_M"), plugins)
    assert found["blk.1.attn_q.weight"] == "Q5_0"
    assert found["output.weight"] == "Q8_0"
    assert found["blk.1.ffn_down.weight"] == "Q4_K"


def test_a_tied_model_has_no_output(write, plugins):
    shape = Shape("tied", 1, 64, 128, 4, 2, 320, 512, 1e4, tied=True)
    found = types(write("Q4_0", shape), plugins)
    assert "output.weight" not in found


def test_costs_count_what_a_token_meets(write, plugins):
    costs = read_costs(write("Q8_0"), plugins.quant_types, kv_bytes=100)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 64 * 256 * 3
    assert costs.layer_elements == 8 * layer
    assert costs.head_bytes == 320 * 64 * 34 / 32
    decode = Case("decode", 10, batch=2, depth=5)
    assert costs.bytes_read(decode) == 10 * (costs.layer_bytes + costs.head_bytes + 2 * 10 * 100)
    assert costs.operations(decode) == 2 * 2 * 10 * (costs.layer_elements + costs.head_elements)
    prefill = Case("prefill", 10, batch=2)
    assert costs.bytes_read(prefill) is None
    assert costs.operations(prefill) == 2 * 2 * (10 * costs.layer_elements + costs.head_elements)


def test_a_cached_model_is_written_once(plugins, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: tmp_path)
    path = cached_model(TINY, "Q4_0", plugins.quant_types)
    written = path.stat()
    assert cached_model(TINY, "Q4_0", plugins.quant_types) == path
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert list(path.parent.iterdir()) == [path]


def test_wrong_names_are_explained(plugins, tmp_path):
    with pytest.raises(ConfigError, match="tinyllama-1.1b"):
        shape_named("tinyllama")
    with pytest.raises(ConfigError, match="Q4_0"):
        write_random_model(tmp_path / "x", TINY, "Q4_9", plugins.quant_types)


def test_a_type_without_its_plugin_is_explained(tmp_path):
    from shimmy.plugins import PluginChoice, load_plugins

    none = load_plugins(PluginChoice(enabled=()))
    with pytest.raises(RegistryError, match="Q4_0"):
        write_random_model(tmp_path / "x", TINY, "Q4_0", none.quant_types)


def test_shapes_are_whole():
    for shape in SHAPES.values():
        assert shape.key_length or shape.head_dim * shape.head_count == shape.embedding_length
        assert shape.head_count % shape.head_count_kv == 0
