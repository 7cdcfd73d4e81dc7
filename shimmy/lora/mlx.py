"""Adapters as Apple's mlx-lm writes them: ``adapters.safetensors`` and an adapter_config.json of its own.

There a module adds scale * ((x @ lora_a) @ lora_b), so A is (in, rank) and B (rank, out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.huggingface.safetensors import StoredTensor, read_header
from shimmy.lora.adapter import Adapter, Floats, Module, Part, adapter_errors
from shimmy.lora.config import CONFIG, number_of, text_of
from shimmy.lora.pairs import check_ranks, paired

WEIGHTS = "adapters.safetensors"
_NAME = re.compile(r"^(?P<module>.+)\.lora_(?P<kind>[ab])$")


def read_mlx(folder: Path, content: Mapping[str, Any]) -> Adapter:
    """The adapter in a folder whose adapter_config.json says ``content``.

    Raises:
        AdapterError: it is broken, incomplete, or no LoRA.
    """
    kind = content.get("fine_tune_type", "lora")
    if kind != "lora":
        raise AdapterError(
            f"{folder / CONFIG}: fine_tune_type is {kind!r:.40}, expected 'lora'.",
            hint="Fuse the adapter with its base (mlx_lm.fuse) and convert the result to GGUF.",
        )
    scale = _scale(folder, content)
    with adapter_errors():
        tensors = read_header(folder / WEIGHTS)
    parts = paired(folder, folder / WEIGHTS, tensors, _NAME, lambda match: _turned(tensors[match[0]]))
    modules = {name: _module(folder, name, pair, scale) for name, pair in sorted(parts.items())}
    return Adapter(folder, "MLX", modules, text_of(content.get("model")), facts={"scale": scale})


def _scale(folder: Path, content: Mapping[str, Any]) -> float:
    parameters = content.get("lora_parameters")
    scale = number_of(parameters.get("scale")) if isinstance(parameters, dict) else None
    if scale is None:
        raise AdapterError(f"{folder / CONFIG}: lora_parameters has no number 'scale'.")
    return scale


def _module(folder: Path, name: str, pair: Mapping[str, Part], scale: float) -> Module:
    for kind in "ab":
        if kind not in pair:
            raise AdapterError(f"{folder}: the lora_{kind} of {name!r} is missing.")
    module = Module(pair["a"], pair["b"], scale)
    check_ranks(folder, name, module)
    return module


def _turned(tensor: StoredTensor) -> Part:
    def read() -> Floats:
        return tensor.read().T

    return Part(tensor.name, tensor.shape[::-1], read)
