"""The zoo models of tests/fixtures: paths, reference answers, and the variants made from others.

Files that are not in the repository are taken from the folder that the variable SHIMMY_ZOO names, if it does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from numpy.typing import NDArray

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import load_plugins

FOLDER = Path(__file__).parent / "fixtures" / "zoo"
LORA = FOLDER / "lora"

#: llama.cpp's mixtures keep it in Q6_K, which gguf cannot write: it is taken from the file that has it.
_HEAD = "output.weight"


class Derived(NamedTuple):
    """A file made of others of the same model."""

    kind: Kind
    header: str
    """The file whose metadata and order of tensors it has."""
    file_type: int | None = None
    """Its ``general.file_type``; None: that of ``header``."""
    sha256: str | None = None
    """Of the file as llama.cpp wrote it, where there is one."""


#: Kept out of the repository for their size. The F16 file holds the values before rounding; what gguf's
#: own quantiser makes of them is what llama.cpp's does, to the last byte.
DERIVED = {
    "llama_spm.f32": Derived(Kind.F32, "llama_spm.f16"),
    "llama_spm.bf16": Derived(Kind.BF16, "llama_spm.f16"),
    "llama_spm.q4_0": Derived(
        Kind.Q4_0, "llama_spm.q6_k", 2, "b70a90aa3091d23a3e579ca95f605b6415dadc5d4efb4218ea192397a18ff3de"
    ),
    "llama_spm.q4_1": Derived(
        Kind.Q4_1, "llama_spm.q6_k", 3, "3732cc411214ae632bdd5ef9ad26eac49789b359f205798a15322468661e0e0a"
    ),
    "llama_spm.q5_0": Derived(
        Kind.Q5_0, "llama_spm.q6_k", 8, "593a8efc2e4032dd70d11be248c13bb3b306ed86c443ed949ea345692a52cf8f"
    ),
    "llama_spm.q5_1": Derived(
        Kind.Q5_1, "llama_spm.q6_k", 9, "40db3d232739ddcee5e57ad550bf0e02b30eab9328ba92dc5d5f744fe86f29b5"
    ),
    "llama_spm.q8_0": Derived(
        Kind.Q8_0, "llama_spm.q6_k", 7, "f82365d529321bafa75d1014ccc9f5b9e679649d86283ada5f345b7935dc3e0f"
    ),
}


_KINDS = {
    "llama_spm": (
        *("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs"),
        *("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"),
    ),
    **dict.fromkeys(
        ("llama3_bpe", "phi2", "gemma2", "starcoder2", "gpt2", "qwen2", "phi3", "qwen3moe"),
        ("f16", "q4_k_m"),
    ),
}
#: A folder with the whole collection. shimmy, should it be started, would refuse a setting it does not know.
COLLECTION = os.environ.pop("SHIMMY_ZOO", None)


def model_path(name: str) -> Path:
    """The file of a zoo model, ``llama_spm.q4_0``."""
    return _derive(name) if name in DERIVED else _stored(name)


def _stored(name: str) -> Path:
    path = FOLDER / "models" / f"{name}.gguf"
    return Path(COLLECTION, "models", path.name) if COLLECTION and not path.exists() else path


#: The files at hand.
FILES = [
    name
    for name in (f"{model}.{kind}" for model, kinds in _KINDS.items() for kind in kinds)
    if name in DERIVED or _stored(name).exists()
]


@functools.cache
def reference(name: str) -> dict[str, Any]:
    """The reference file of a model, ``llama_spm``; see the zoo's README for its keys."""
    return _json(FOLDER / "ref" / f"{name}.json")


@functools.cache
def adapter_reference(name: str) -> dict[str, Any]:
    """The reference file of an adapter, ``llama_spm_qk``."""
    return _json(LORA / "ref" / f"{name}.json")


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


@functools.cache
def _derive(name: str) -> Path:
    kind, header, file_type, sha256 = DERIVED[name]
    target = Path(tempfile.mkdtemp(prefix="shimmy-zoo-")) / f"{name}.gguf"
    types = load_plugins().quant_types
    with open_gguf(model_path("llama_spm.f16")) as values, open_gguf(model_path(header)) as like:
        weights = Weights(values, types)
        tensors = {
            tensor: _quantized(weights.dequantize(tensor).reshape(info.shape), kind)
            for tensor, info in like.tensors.items()
        }
        if (head := like.tensors[_HEAD]).ggml_id == Kind.Q6_K and kind != Kind.Q8_0:
            data = like.raw(_HEAD, types.get(Kind.Q6_K.name)).tobytes()
            tensors[_HEAD] = RawTensor(data, head.ggml_id, head.shape)
        own = {} if file_type is None else {"general.file_type": file_type}
        write_gguf(target, {**like.metadata, **own}, tensors)
    assert sha256 in (None, hashlib.sha256(target.read_bytes()).hexdigest())
    return target


def _quantized(values: NDArray[np.float32], kind: Kind) -> RawTensor:
    # Vectors stay F32, as converters leave them.
    stored = kind if values.ndim > 1 else Kind.F32
    return RawTensor(np.ascontiguousarray(quantize(values, stored)).tobytes(), int(stored), values.shape)
