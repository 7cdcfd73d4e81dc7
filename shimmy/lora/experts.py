"""Adapters of experts as PEFT writes them: a module for each expert, or parameters that hold all of them.

All experts of a layer become one module, like their weights in GGUF files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shimmy.errors import AdapterError
from shimmy.huggingface.experts import split_expert
from shimmy.lora.adapter import Floats, Module, Part
from shimmy.lora.config import LoraConfig

#: The parameters of a layer's experts: gate and up one below the other, and down.
_FUSED, _DOWN = "gate_up_proj", "down_proj"
_WRAPPER = ".base_layer"


def holds_experts(name: str) -> bool:
    """Whether a module's own parameters are all experts of a layer."""
    return name.removesuffix(_WRAPPER).endswith(".experts")


def of_parameters(folder: Path, modules: Mapping[str, Module], config: LoraConfig) -> dict[str, Module]:
    """The modules of experts whose parameters were adapted (``target_parameters``).

    A is (experts * rank, in), B (out, rank * experts). Where both parameters are adapted, PEFT wraps the one
    that was adapted last around the other, and calls them alike; their shapes tell which is which.

    Raises:
        AdapterError: they are not those of such a layer.
    """
    layers: dict[str, list[Module]] = {}
    for name, module in modules.items():
        layers.setdefault(name.removesuffix(_WRAPPER), []).append(module)
    stacked: dict[str, Module] = {}
    for experts, found in layers.items():
        for parameter, module in _by_parameter(folder, experts, found, config).items():
            name = f"{experts}.{parameter}"
            whole = _unfolded(folder, name, module, config)
            if parameter == _DOWN:
                stacked[name] = whole
            else:
                stacked |= {f"{experts}.{half}_proj": _half(whole, half == "up") for half in ("gate", "up")}
    return stacked


def _by_parameter(
    folder: Path, experts: str, found: Sequence[Module], config: LoraConfig
) -> dict[str, Module]:
    targets = {target.rpartition(".")[2] for target in config.parameters} & {_FUSED, _DOWN}
    if len(found) == 1 and len(targets) == 1:
        return {targets.pop(): found[0]}
    for fused, down in [found, found[::-1]] if len(found) == 2 else []:
        (hidden, gate_and_up), (width, back) = _sizes(fused), _sizes(down)
        if hidden == back and gate_and_up == 2 * width:
            return {_FUSED: fused, _DOWN: down}
    raise AdapterError(
        f"{folder}: which parameters of {experts!r} are adapted is not to be told.",
        hint=f"Expected {_FUSED!r}, {_DOWN!r}, or both, as PEFT 0.18 and later save them.",
    )


def _sizes(module: Module) -> tuple[int, int]:
    """Numbers in, and out."""
    assert module.a is not None
    assert module.b is not None
    return module.a.shape[-1], module.b.shape[0]


def _unfolded(folder: Path, name: str, module: Module, config: LoraConfig) -> Module:
    a, b, rank = module.a, module.b, config.rank(name)
    assert a is not None
    assert b is not None
    count = a.shape[0] // rank
    if a.shape[0] != count * rank:
        raise AdapterError(
            f"{folder}: {a.name!r} has {a.shape[0]} rows, which is no multiple of the rank {rank} that "
            f"adapter_config.json has for {name!r}.",
            hint="Copy adapter_config.json and the weights from the same checkpoint.",
        )
    inner, outer = _sizes(module)

    def read_a() -> Floats:
        return a.read().reshape(count, rank, inner)

    def read_b() -> Floats:
        return b.read().reshape(outer, rank, count).transpose(2, 0, 1)

    return Module(
        Part(a.name, (count, rank, inner), read_a),
        Part(b.name, (count, outer, rank), read_b),
        config.scale(name),
    )


def _half(module: Module, second: bool) -> Module:
    """One half of what B gives."""
    b = module.b
    assert b is not None
    count, outer, rank = b.shape
    half = slice(outer // 2, None) if second else slice(outer // 2)
    return replace(module, b=Part(b.name, (count, outer // 2, rank), lambda: b.read()[:, half]))


def stacked(folder: Path, modules: Mapping[str, Module]) -> dict[str, Module]:
    """The modules with those of single experts (``experts.3.w1``) as one. AdapterError if they differ."""
    result: dict[str, Module] = {}
    layers: dict[str, dict[int, Module]] = {}
    for name, module in modules.items():
        whole, number = split_expert(name)
        if number is None:
            result[name] = module
        else:
            layers.setdefault(whole, {})[number] = module
    for name, experts in layers.items():
        result[name] = _together(folder, name, experts)
    return result


def _together(folder: Path, name: str, experts: Mapping[int, Module]) -> Module:
    in_order = [experts.get(number) for number in range(len(experts))]
    first = next(iter(experts.values()))
    shapes = [part.shape for part in first.parts]
    for number, module in enumerate(in_order):
        if module is None:
            raise AdapterError(
                f"{folder}: adapts {len(experts)} modules {name!r}, but not that of expert {number}.",
                hint="All experts of a layer must be adapted, or none.",
            )
        if module.scale != first.scale or [part.shape for part in module.parts] != shapes:
            raise AdapterError(f"{folder}: the adapters of the experts of {name!r} differ in rank or shape.")
    whole = [_stack(parts) for parts in zip(*(m.parts for m in in_order if m is not None), strict=True)]
    roles = [role for role in ("a", "b", "b_bias", "weight", "bias") if getattr(first, role) is not None]
    return Module(**dict(zip(roles, whole, strict=True)), scale=first.scale)


def _stack(parts: Iterable[Part]) -> Part:
    parts = tuple(parts)

    def read() -> Floats:
        import numpy as np

        return np.stack([part.read() for part in parts])

    return Part(parts[0].name, (len(parts), *parts[0].shape), read)
