"""Adapters as llama.cpp's converter writes them: one GGUF file whose tensors have the base's own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shimmy.errors import AdapterError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.lora.adapter import Adapter, Floats, Module, Part
from shimmy.lora.config import number_of, text_of
from shimmy.lora.pairs import check_ranks, paired

if TYPE_CHECKING:
    from shimmy.registry import Registry
    from shimmy.specs import QuantTypeSpec

_NAME = re.compile(r"^(?P<module>.+)\.weight\.lora_(?P<kind>[ab])$")
#: The only tensor whose A the converter turns, so that a token picks a row.
_EMBEDDING = "token_embd"


def read_gguf_adapter(path: Path, quant_types: Registry[QuantTypeSpec]) -> Adapter:
    """The adapter in a GGUF file.

    Raises:
        AdapterError: the file holds no LoRA, or one that is incomplete.
        GGUFError: it is broken.
    """
    file = open_gguf(path)
    meta = file.metadata
    kind, method = meta.get("general.type"), meta.get("adapter.type")
    if kind != "adapter" or method != "lora":
        raise AdapterError(
            f"{path}: general.type is {kind!r:.40} and adapter.type {method!r:.40}, "
            "expected 'adapter' and 'lora'."
        )
    weights = Weights(file, quant_types)
    parts = paired(path, path, file.tensors, _NAME, partial(_part, weights))
    alpha = _alpha(path, meta)
    modules = {name: _module(path, name, pair, alpha) for name, pair in parts.items()}
    base = text_of(meta.get("general.base_model.0.repo_url")) or text_of(
        meta.get("general.base_model.0.name")
    )
    return Adapter(path, "GGUF", modules, base, text_of(meta.get("general.architecture")), {"alpha": alpha})


def _alpha(path: Path, metadata: Mapping[str, Any]) -> float:
    alpha = number_of(metadata.get("adapter.lora.alpha"))
    if alpha is None:
        raise AdapterError(f"{path}: has no number 'adapter.lora.alpha', so its strength is not known.")
    return alpha


def _module(path: Path, name: str, pair: Mapping[str, Part], alpha: float) -> Module:
    for kind in "ab":
        if kind not in pair:
            raise AdapterError(f"{path}: tensor '{name}.weight.lora_{kind}' is missing.")
    module = Module(pair["a"], pair["b"])
    check_ranks(path, name, module)
    # llama.cpp takes an alpha of 0 for "as it is".
    return Module(pair["a"], pair["b"], alpha / module.rank if alpha else 1.0)


def _part(weights: Weights, match: re.Match[str]) -> Part:
    name, turn = match[0], match["module"] == _EMBEDDING and match["kind"] == "a"
    info = weights.info(name)
    shape = info.shape[::-1] if turn else info.shape

    def read() -> Floats:
        values: Floats = weights.dequantize(name).reshape(info.shape)
        if info.type == "F16":
            values = values.astype(np.float16)
        return values.T if turn else values

    return Part(name, shape, read)
