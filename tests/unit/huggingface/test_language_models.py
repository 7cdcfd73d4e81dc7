"""Folders of models that see too: their language model is converted as if it were alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shimmy.engine.load import op_table
from shimmy.errors import ModelError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.huggingface.converted import Converter
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.model import FolderModel
from shimmy.huggingface.names import TensorNames
from shimmy.plugins import Plugins
from tests import architectures

#: Where transformers has kept the language model, in older and newer versions.
PLACES = {"older": "language_model.model.", "newer": "model.language_model."}
VISION = {"older": "vision_tower.encoder.weight", "newer": "model.vision_tower.encoder.weight"}


def nest(folder: Path, version: str) -> None:
    """Makes the folder of a language model one of a model that has it as a part."""
    path = folder / "config.json"
    text = json.loads(path.read_text())
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": text["eos_token_id"]}
    path.write_text(json.dumps(whole | {"text_config": text, "vision_config": {}}))
    weights = folder / "model.safetensors"
    tensors = {
        name.replace("model.", PLACES[version], 1): tensor for name, tensor in load_file(weights).items()
    }
    others = {VISION[version]: np.ones((2, 2), np.float16)}
    others["multi_modal_projector.mm_input_projection_weight"] = np.ones((2, 2), np.float16)
    save_file(tensors | others, weights)


@pytest.mark.parametrize("version", PLACES)
def test_the_language_model_is_converted(version: str, tmp_path: Path, plugins: Plugins) -> None:
    converter = Converter(plugins, op_table(plugins), "f16", tmp_path / "cache")
    folder = architectures.folder("gemma3", tmp_path)
    alone = Path(shutil.copy(converter.file_of(folder, lambda *_: None), tmp_path / "alone.gguf"))
    nest(folder, version)
    part = converter.file_of(folder, lambda *_: None)
    with open_gguf(alone) as a, open_gguf(part) as b:
        assert a.metadata == b.metadata
        expected, found = Weights(a, plugins.quant_types), Weights(b, plugins.quant_types)
        assert set(found.names()) == set(expected.names())
        for name in expected.names():
            np.testing.assert_array_equal(found.dequantize(name), expected.dequantize(name))


def test_what_its_config_leaves_out(tmp_path: Path, plugins: Plugins) -> None:
    """As the 4B model's says it, and what transformers 5.23 makes of that."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = FolderModel(ModelFolder(tmp_path), plugins).config_metadata
    expected = {
        "vocab_size": 262208,
        "context_length": 131072,
        "embedding_length": 2560,
        "block_count": 34,
        "feed_forward_length": 10240,
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.scale": 1 / 16,
        "attention.sliding_window": 1024,
        "attn_logit_softcapping": 0.0,
        "final_logit_softcapping": 0.0,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.dimension_count": 256,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    }
    assert {key: value for key, value in found.items() if key.startswith("gemma3.")} == {
        f"gemma3.{key}": value for key, value in expected.items()
    }


@pytest.mark.parametrize("place", PLACES.values())
def test_adapters_name_its_modules_by_where_they_are(place: str) -> None:
    assert TensorNames("gemma3", 2).gguf_name(f"{place}layers.1.self_attn.q_proj") == "blk.1.attn_q"


def test_what_it_does_not_compute_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    folder = architectures.folder("gemma3", tmp_path)
    nest(folder, "newer")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["use_bidirectional_attention"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="'use_bidirectional_attention' is True, but 'gemma3' computes"):
        FolderModel(ModelFolder(folder), plugins)
