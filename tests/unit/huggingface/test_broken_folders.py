"""Folders that cannot be served: each is refused with its cause by name, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shimmy.errors import ModelError
from tests.folders import FOLDER, change_json, change_tensors, copy
from tests.unit.huggingface.conftest import MakeConverter

WEIGHTS = "model.safetensors"


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a missing shard": (
        "llama3",
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        r"llama3: 'model-00002-of-00003.safetensors' of 3 weight files is missing.*copy or download it again",
    ),
    "an index that leads elsewhere": (
        "llama3",
        lambda f: change_json(f / "model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        r"names '\.\./x\.safetensors', which is not in the folder",
    ),
    "a shard less than the index": (
        "llama3",
        lambda f: change_json(
            f / "model.safetensors.index.json", weight_map={"a": "model-00001-of-00003.safetensors"}
        ),
        r"llama3: .*(missing|has no tensor|is not tied)",
    ),
    "cut weights": (
        "mistral",
        lambda f: cut(f / WEIGHTS, 50_000),
        r"model\.safetensors: tensor '.*' ends at byte",
    ),
    "a cut header": ("mistral", lambda f: cut(f / WEIGHTS, 100), r"model\.safetensors: announces a header"),
    "no weights": ("mistral", lambda f: (f / WEIGHTS).unlink(), r"mistral: has no 'model\.safetensors'"),
    "pickled weights only": ("mistral", pickle_only, r"'pytorch_model\.bin' only.*run code.*save_pretrained"),
    "an unsupported architecture": (
        "mistral",
        lambda f: change_json(f / "config.json", architectures=["MistralForCausalLN"]),
        r"no plugin converts the architecture 'MistralForCausalLN'\. Did you mean 'MistralForCausalLM'",
    ),
    "no architecture": (
        "mistral",
        lambda f: change_json(f / "config.json", architectures=None),
        r"config\.json: has no 'architectures'",
    ),
    "no config": (
        "mistral",
        lambda f: (f / "config.json").unlink(),
        r"config\.json: cannot be read: No such file",
    ),
    "a config that is no JSON": (
        "mistral",
        lambda f: cut(f / "config.json", 40),
        r"config\.json: is no JSON",
    ),
    "a config without a size": (
        "mistral",
        lambda f: change_json(f / "config.json", intermediate_size=None),
        r"config\.json: has no 'intermediate_size', which 'llama' needs",
    ),
    "a size that is none": (
        "mistral",
        lambda f: change_json(f / "config.json", num_hidden_layers="two"),
        r"config\.json: 'num_hidden_layers' is 'two', expected a number",
    ),
    "another activation": (
        "mistral",
        lambda f: change_json(f / "config.json", hidden_act="gelu"),
        r"'hidden_act' is 'gelu', but 'llama' computes 'silu'",
    ),
    "quantised weights": (
        "mistral",
        lambda f: change_json(f / "config.json", quantization_config={"quant_method": "gptq"}),
        r"quantised by 'gptq', which is not converted",
    ),
    "an unknown rope scaling": (
        "mistral",
        lambda f: change_json(f / "config.json", rope_parameters={"rope_type": "spiral"}),
        r"config\.json: rope_scaling is of the kind 'spiral', which shimmy does not know",
    ),
    "a rope scaling without its factor": (
        "mistral",
        lambda f: change_json(f / "config.json", rope_parameters={"rope_type": "yarn"}),
        r"config\.json: 'factor' of rope_scaling, kind 'yarn', is None",
    ),
    "no tokenizer": (
        "mistral",
        lambda f: (f / "tokenizer.json").unlink(),
        r"mistral: has no 'tokenizer\.json' and no 'tokenizer\.model'.*AutoTokenizer",
    ),
    "a cut tokenizer": ("mistral", lambda f: cut(f / "tokenizer.json", 500), r"tokenizer\.json: is no JSON"),
    "a tokenizer of another kind": (
        "mistral",
        lambda f: change_json(f / "tokenizer.json", model={"type": "WordPiece", "vocab": {}}),
        r"tokenizer\.json: its model is of the type 'WordPiece', expected BPE or Unigram",
    ),
    "a tokenizer without a vocabulary": (
        "mistral",
        lambda f: change_json(f / "tokenizer.json", model={"type": "BPE"}),
        r"tokenizer\.json: is not as the tokenizers library writes it",
    ),
    "one layer less than the config says": (
        "mistral",
        lambda f: change_json(f / "config.json", num_hidden_layers=3),
        r"no tensor 'blk\.2\.attn_norm\.weight'",
    ),
    "one layer more than the config says": (
        "mistral",
        lambda f: change_json(f / "config.json", num_hidden_layers=1),
        r"'model\.layers\.1\.\S*' is of layer 1, but config.json's model has 1 layers",
    ),
    "a tensor nobody knows": (
        "mistral",
        lambda f: change_tensors(f / WEIGHTS, model__extra__weight=np.ones(3, np.float16)),
        r"tensor 'model\.extra' is no module",
    ),
    "a tensor the architecture has no use for": (
        "mistral",
        lambda f: change_tensors(
            f / WEIGHTS, model__layers__0__input_layernorm__bias=np.ones(48, np.float16)
        ),
        r"'llama' does not know what to do with the tensor 'model\.layers\.0\.input_layernorm\.bias'",
    ),
    "a bias that other layers lack": (
        "mistral",
        lambda f: change_tensors(
            f / WEIGHTS, model__layers__1__self_attn__o_proj__bias=np.ones(48, np.float16)
        ),
        r"mistral: there is no 'blk\.0\.attn_output\.bias', but 'blk\.1\.attn_output\.bias'",
    ),
    "no output matrix": (
        "mistral",
        lambda f: change_json(f / "config.json", tie_word_embeddings=False),
        r"has no output matrix \('lm_head\.weight'\)",
    ),
    "another vocabulary": (
        "mistral",
        lambda f: change_json(f / "config.json", vocab_size=500),
        r"'model\.embed_tokens\.weight' has 484 rows, config\.json says 500 tokens",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_cause_is_named(case: str, converter: MakeConverter, cache: Path, tmp_path: Path):
    name, damage, message = BROKEN[case]
    folder = copy(name, tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        converter().file_of(folder, lambda *_: None)
    assert str(folder) in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize("tensor", load_file(FOLDER / "mistral" / WEIGHTS))
def test_every_tensor_is_missed_and_its_shape_is_checked(
    tensor: str, converter: MakeConverter, cache: Path, tmp_path: Path
):
    weights = copy("mistral", tmp_path) / WEIGHTS
    values = load_file(weights)[tensor]
    for wrong in (None, values[:-1].copy(), np.concatenate([values, values], axis=-1)):
        change_tensors(weights, **{tensor.replace(".", "__"): wrong})
        with pytest.raises(ModelError):
            converter().file_of(weights.parent, lambda *_: None)
    assert not cache.exists()


def test_a_larger_vocabulary_than_the_model_has_is_refused(converter: MakeConverter, tmp_path: Path):
    folder = copy("mistral", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"grown{number}": number for number in range(484, 500)}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"tokenizer\.json: has 500 tokens, the model only 484"):
        converter().file_of(folder, lambda *_: None)
