"""Tiny models of every architecture, odd in their shapes, made of nothing but a config.json.

Their weights follow from names and shapes; what transformers computes with them in float32 is in
tests/fixtures/architectures, one file each, with which ``record.py`` there made it.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shimmy.engine.load import op_table
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.huggingface.converted import Converter
from shimmy.plugins import Plugins
from shimmy.testing.answers import Answer
from shimmy.testing.plans import no_progress

_FIXTURES = Path(__file__).parent / "fixtures"
FOLDER = _FIXTURES / "architectures"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
#: Whose vocabulary they all have.
_TOKENIZER = _FIXTURES / "folders" / "qwen2"


@functools.cache
def recorded(name: str) -> dict[str, Any]:
    """``config``, ``tensors`` with their shapes, ``adapter`` with the same of its own, and what transformers
    computes: ``generations``, and with the adapter ``adapted``."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def folder(name: str, place: Path) -> Path:
    """A model folder as transformers would have saved it, with the weights of ``values``."""
    path = place / name
    path.mkdir(parents=True)
    content = recorded(name)
    (path / "config.json").write_text(json.dumps(content["config"]))
    tensors = {tensor: values(tensor, shape) for tensor, shape in content["tensors"].items()}
    save_file(tensors, path / "model.safetensors")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(_TOKENIZER / file, path)
    return path


def adapter(name: str, place: Path) -> Path:
    """An adapter of everything that PEFT can adapt in it, as PEFT would have saved it."""
    path = place / f"{name}-adapter"
    path.mkdir(parents=True)
    content = recorded(name)["adapter"]
    (path / "adapter_config.json").write_text(json.dumps(content["config"]))
    tensors = {tensor: values(tensor, shape) for tensor, shape in content["tensors"].items()}
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def values(tensor: str, shape: list[int]) -> NDArray[np.float16]:
    """The weights of a tensor: the same on every machine; lively, so that answers tell of each."""
    # Unlike default_rng's, its numbers never change.
    random = np.random.RandomState(zlib.crc32(tensor.encode()))
    around = 0.9 if len(shape) == 1 and tensor.endswith(".weight") else 0.0
    return (around + 0.15 * random.standard_normal(shape)).astype(np.float16)


def converted(name: str, place: Path, plugins: Plugins) -> Path:
    """Its GGUF file in F16, ``NAME.f16.gguf``."""
    made = Converter(plugins, op_table(plugins), "f16", place / "cache").file_of(
        folder(name, place), no_progress
    )
    return Path(shutil.copy(made, place / f"{name}.f16.gguf"))


def with_vectors(path: Path, target: Path, plugins: Plugins) -> Path:
    """The file with the gate of shared experts, a matrix of one row, as a vector: so quantisers leave it."""
    types = types_by_id(plugins.quant_types)
    with open_gguf(path) as file:
        tensors = {
            name: RawTensor(
                file.raw(name, types[info.ggml_id]).tobytes(),
                info.ggml_id,
                info.shape[-1:] if name.endswith("ffn_gate_inp_shexp.weight") else info.shape,
            )
            for name, info in file.tensors.items()
        }
        write_gguf(target, file.metadata, tensors)
    return target


def with_one_matrix(path: Path, target: Path, plugins: Plugins) -> Path:
    """The file with q, k and v of each layer one below the other, as converters write them if asked to."""
    types = types_by_id(plugins.quant_types)
    tensors: dict[str, RawTensor] = {}
    with open_gguf(path) as file:
        # q before k before v.
        for name in sorted(file.tensors, key=lambda name: "qkv".find(name.partition("attn_")[2][:1])):
            info = file.tensors[name]
            fused = re.sub(r"attn_[qkv](?=\.(weight|bias)$)", "attn_qkv", name)
            data, shape = file.raw(name, types[info.ggml_id]).tobytes(), info.shape
            if above := tensors.get(fused):
                data, shape = bytes(above.data) + data, (above.shape[0] + shape[0], *shape[1:])
            tensors[fused] = RawTensor(data, info.ggml_id, shape)
        write_gguf(target, file.metadata, tensors)
    return target


def answers(name: str) -> list[Answer]:
    """What transformers answers to prompts that are long enough for LongRoPE's divisors of long contexts."""
    return [
        Answer(
            prompt=f"{len(each['prompt'])} tokens",
            ids=each["prompt"],
            greedy=each["ids"],
            margins=each["margins"],
            logits=dict(zip(each["first"]["ids"], each["first"]["logits"], strict=True)),
        )
        for each in recorded(name)["generations"]
        if len(each["prompt"]) > 16
    ]
