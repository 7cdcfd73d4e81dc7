"""Adapters as PEFT writes them, and with it Unsloth, TRL, Axolotl and LLaMA-Factory.

A folder with ``adapter_config.json`` and ``adapter_model.safetensors``, the latter perhaps in several
files with an index. https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.huggingface.safetensors import StoredTensor, read_headers
from shimmy.lora.adapter import Adapter, Module, Part, adapter_errors
from shimmy.lora.config import CONFIG, MERGE_IT, LoraConfig, peft_config, read_json
from shimmy.lora.experts import holds_experts, of_parameters, stacked
from shimmy.lora.pairs import check_ranks

WEIGHTS = "adapter_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLE = "adapter_model.bin"
#: Names that tensors are found under in the wild, all for the same module.
_PREFIX = re.compile(r"^(?:base_model\.model\.|base_model\.)")
#: ``lora_A.default.weight`` holds the adapter's own name, which is left out when it is saved.
_LORA = re.compile(
    r"^(?P<module>.+)\.lora_(?:(?P<kind>[AB])(?:\.(?P<adapter>[^.]+))?\.(?P<what>weight|bias)"
    r"|embedding_(?P<embedding>[AB])(?:\.[^.]+)?)$"
)
_WHOLE = re.compile(
    r"^(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?|(?P<base>\.base_layer))?\.(?P<what>weight|bias)$"
)
_EMBEDDING = "embed_tokens"


def read_peft(folder: Path, content: Mapping[str, Any]) -> Adapter:
    """The adapter in a folder whose adapter_config.json says ``content``.

    Raises:
        AdapterError: it is broken, incomplete, or of a kind that cannot be computed exactly.
    """
    config = peft_config(folder / CONFIG, content)
    paths = weight_files(folder)
    with adapter_errors():
        tensors = read_headers(paths)
    fields = _by_module(folder, tensors.values())
    modules = {name: _module(folder, name, parts) for name, parts in sorted(fields.items())}
    modules = {name: module for name, module in modules.items() if module.parts}
    parameters = {name: module for name, module in modules.items() if holds_experts(name)}
    modules = {
        name: _scaled(folder, name, module, config)
        for name, module in modules.items()
        if name not in parameters
    }
    modules = stacked(folder, modules) | of_parameters(folder, parameters, config)
    if not modules:
        raise AdapterError(f"{folder}: has no weights: not one module is adapted.")
    targets = config.targets if isinstance(config.targets, str) else (*config.targets, *config.parameters)
    facts = {"r": config.r, "alpha": config.alpha, "rslora": config.rslora, "targets": targets}
    return Adapter(folder, "PEFT", modules, config.base, facts=facts)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder. AdapterError if there are none, or some are missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    if (folder / PICKLE).is_file():
        raise AdapterError(
            f"{folder / PICKLE}: is a pickle, which may run any program when it is opened; shimmy does not.",
            hint='Convert it where you trust it: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\"",
        )
    raise AdapterError(
        f"{folder}: has no {WEIGHTS}.",
        hint="Save the adapter with save_pretrained(), or copy the whole folder.",
    )


def _shards(folder: Path) -> list[Path]:
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise AdapterError(f"{folder / INDEX}: has no weight_map.")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise AdapterError(f"{folder}: its index names {name!r:.80}, which is not there.")
    return [folder / name for name in names]


def _by_module(folder: Path, tensors: Iterable[StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of each module, by the field of :class:`Module` they are for."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors:
        module, role = _role(folder, tensor)
        if role is None:
            continue
        fields = modules.setdefault(module, {})
        if role in fields:
            raise AdapterError(f"{folder}: {fields[role].name!r} and {tensor.name!r} are the same weights.")
        fields[role] = tensor
    return modules


def _role(folder: Path, tensor: StoredTensor) -> tuple[str, str | None]:
    """The module a tensor belongs to and what it is there; None: nothing that was trained."""
    name = _PREFIX.sub("", tensor.name)
    if match := _LORA.match(name):
        kind = (match["kind"] or match["embedding"]).lower()
        if match["what"] == "bias" and kind == "a":
            raise AdapterError(f"{folder}: {tensor.name!r} is a bias of A, which no trainer writes.")
        return match["module"], "b_bias" if match["what"] == "bias" else kind
    if "lora_magnitude_vector" in name:
        raise AdapterError(
            f"{folder}: {tensor.name!r} belongs to DoRA, which shimmy does not compute.", hint=MERGE_IT
        )
    if (match := _WHOLE.match(name)) and ".lora_" not in name:
        # A copy of the base's own embedding, which PEFT saves along, was not trained; a bias may have been.
        is_copy = match["base"] and match["what"] == "weight"
        return match["module"], None if is_copy else match["what"]
    raise AdapterError(
        f"{folder}: nobody knows what the tensor {tensor.name!r} is for.",
        hint="Expected names that end in lora_A.weight and lora_B.weight.",
    )


def _module(folder: Path, name: str, tensors: Mapping[str, StoredTensor]) -> Module:
    """A module, whose scale is not known yet."""
    parts = {role: Part(t.name, t.shape, t.read) for role, t in tensors.items()}
    module = Module(
        a=parts.get("a"),
        b=parts.get("b"),
        b_bias=parts.get("b_bias"),
        weight=parts.get("weight"),
        bias=parts.get("bias"),
    )
    if module.a is None and module.b is None and module.b_bias is None:
        return module
    if module.weight is not None:
        raise AdapterError(f"{folder}: {name!r} has a LoRA and a weight of its own; expected one of them.")
    if module.a is None or module.b is None:
        there = (module.a or module.b or module.parts[0]).name
        missing = "lora_A" if module.a is None else "lora_B"
        raise AdapterError(f"{folder}: {there!r} is there, but the {missing} of {name!r} is missing.")
    check_ranks(folder, name, module)
    return module


def _scaled(folder: Path, name: str, module: Module, config: LoraConfig) -> Module:
    if module.a is None:
        return module
    if module.rank != (rank := config.rank(name)):
        raise AdapterError(
            f"{folder}: {module.a.name!r} has rank {module.rank}, but {CONFIG} says {rank}, so nobody can "
            "tell how strong the adapter is.",
            hint="Copy adapter_config.json and the weights from the same checkpoint.",
        )
    return replace(module, scale=config.scale(name))
