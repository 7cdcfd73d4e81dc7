"""What trainers write, in all its spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shimmy.errors import AdapterError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.lora.adapter import Adapter
from shimmy.lora.read import read_adapter
from tests.lora import PLUGINS, fitted
from tests.zoo import LORA, model_path

Q = "model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def pair(
    rank: int = 2, prefix: str = "base_model.model.", suffix: str = ".weight"
) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rank)
    return {
        f"{prefix}{Q}.lora_A{suffix}": rng.normal(size=(rank, 256)).astype(np.float32),
        f"{prefix}{Q}.lora_B{suffix}": rng.normal(size=(256, rank)).astype(np.float32),
    }


def write(folder: Path, tensors: dict[str, NDArray[Any]], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def read(path: Path) -> Adapter:
    return read_adapter(path, PLUGINS.quant_types)


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [("base_model.model.", ".weight"), ("base_model.model.", ".default.weight"), ("", ".weight")],
)
def test_names_in_the_wild(tmp_path: Path, prefix: str, suffix: str) -> None:
    adapter = read(write(tmp_path, pair(prefix=prefix, suffix=suffix)))
    assert list(adapter.modules) == [Q]
    assert adapter.modules[Q].scale == 2.0


def test_the_weight_file_or_the_configuration_stand_for_the_folder(tmp_path: Path) -> None:
    write(tmp_path, pair())
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert read(tmp_path / name).path == tmp_path


def test_alpha_may_be_fractional(tmp_path: Path) -> None:
    assert read(write(tmp_path, pair(), lora_alpha=0.5)).modules[Q].scale == 0.25


def test_rank_stabilised(tmp_path: Path) -> None:
    scale = read(write(tmp_path, pair(), use_rslora=True)).modules[Q].scale
    assert scale == pytest.approx(4 / 2**0.5)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        (r"layers\.0\.self_attn.*", True),
        (r"^model\.layers\.0\..*q_proj", True),
        ("proj", False),
        ("layers.1.self_attn.q_proj", False),
        ("v_proj", False),
    ],
)
def test_patterns_match_the_end_of_a_name(tmp_path: Path, pattern: str, matches: bool) -> None:
    alpha = read(write(tmp_path, pair(), alpha_pattern={pattern: 10})).modules[Q].scale
    assert alpha == (5.0 if matches else 2.0)
    folder = write(tmp_path, pair(rank=3), rank_pattern={pattern: 3})
    if matches:
        assert read(folder).modules[Q].scale == pytest.approx(4 / 3)
    else:
        with pytest.raises(AdapterError, match="has rank 3, but adapter_config.json says 2"):
            read(folder)


def test_a_pattern_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"'\(' of adapter_config.json is no regular expression"):
        read(write(tmp_path, pair(), rank_pattern={"(": 3}))


def test_several_files(tmp_path: Path) -> None:
    whole = pair()
    write(tmp_path, whole)
    (tmp_path / "adapter_model.safetensors").unlink()
    table = {}
    for index, (name, tensor) in enumerate(whole.items()):
        table[name] = f"adapter_model-0000{index}-of-00002.safetensors"
        save_file({name: tensor}, tmp_path / table[name])
    index_file = tmp_path / "adapter_model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": table}))
    assert list(read(tmp_path).modules) == [Q]
    (tmp_path / "adapter_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(AdapterError, match="its index names 'adapter_model-00001"):
        read(tmp_path)
    index_file.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(AdapterError, match="which is not there"):
        read(tmp_path)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    write(tmp_path, pair())
    upper = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in pair().items()}
    header, data = {}, b""
    for name, tensor in upper.items():
        place = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": place}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    a = read(tmp_path).modules[Q].a
    assert a is not None
    expected = (next(iter(upper.values())).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(a.read(), expected)


def test_a_whole_head_and_a_copy_of_the_embedding(tmp_path: Path) -> None:
    """modules_to_save replaces the base's; ``base_layer`` is the base's own, which PEFT saves along."""
    head = np.ones((2048, 256), np.float32)
    saved = {
        "base_model.model.lm_head.weight": head,
        "base_model.model.model.embed_tokens.base_layer.weight": head,
    }
    terms = fitted(write(tmp_path, {**pair(), **saved}), model_path("llama_spm.f16"))
    assert set(terms) == {"blk.0.attn_q", "output"}
    assert terms["output"].b is not None
    assert terms["output"].b.shape == head.shape


@pytest.mark.parametrize("name", ["base_layer.bias", "bias"])
def test_trained_biases(tmp_path: Path, name: str) -> None:
    """With bias="all" or "lora_only"; those of adapted layers are saved as ``base_layer``'s."""
    base = model_path("qwen2.q4_k_m")
    trained = {f"base_model.model.{Q}.{name}": np.full(256, 0.5, np.float32)}
    terms = fitted(write(tmp_path, (pair() if "layer" in name else {}) | trained), base)
    with open_gguf(base) as file:
        own = Weights(file, PLUGINS.quant_types).dequantize("blk.0.attn_q.bias").ravel()
        assert own.any()
        assert np.array_equal(terms["blk.0.attn_q"].offset, 0.5 - own)


def test_mlx(tmp_path: Path) -> None:
    a, b = pair().values()
    save_file(
        {f"{Q}.lora_a": np.ascontiguousarray(a.T), f"{Q}.lora_b": np.ascontiguousarray(b.T)},
        tmp_path / "adapters.safetensors",
    )
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 20.0}, "model": "mlx/tiny"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = read(tmp_path)
    assert (adapter.format, adapter.base, adapter.modules[Q].scale) == ("MLX", "mlx/tiny", 20.0)
    same = fitted(write(tmp_path / "peft", pair(), lora_alpha=40), model_path("llama_spm.f16"))
    terms = fitted(tmp_path, model_path("llama_spm.f16"))
    for field in ("a", "b"):
        assert np.array_equal(getattr(terms["blk.0.attn_q"], field), getattr(same["blk.0.attn_q"], field))
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "fine_tune_type": "dora"}))
    with pytest.raises(AdapterError, match="fine_tune_type is 'dora', expected 'lora'"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"alora_invocation_tokens": [1]},
        {"layer_replication": [[0, 2]]},
        {"trainable_token_indices": [3]},
        {"use_qalora": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_would_give_other_numbers_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(AdapterError, match=next(iter(change))):
        read(write(tmp_path, pair(), **change))


def test_a_gguf_file_that_is_a_model() -> None:
    with pytest.raises(AdapterError, match="general.type is 'model'"):
        read(model_path("llama_spm.f16"))


def test_a_gguf_adapter_of_another_architecture(tmp_path: Path) -> None:
    path = LORA / "gguf" / "lora_llama_spm_qk.gguf"
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gpt2x"))
    with pytest.raises(AdapterError, match="is for architecture 'gpt2x', the base is 'llama'"):
        fitted(other, model_path("llama_spm.f16"))
