"""``adapter_config.json`` as PEFT writes it, reduced to what changes the numbers; all else is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError

CONFIG = "adapter_config.json"
_MOST_CONFIG_BYTES = 16 * 2**20

#: What to do with an adapter of a kind that is not computed.
MERGE_IT = "Merge it into its base (merge_and_unload), and serve the folder that save_pretrained writes."

#: Fields that, when set, make another kind of adapter than ours, and what to say about each.
_UNSUPPORTED = {
    "use_dora": "DoRA scales the base's own weights column by column, which shimmy does not compute",
    "use_qalora": "QA-LoRA pools its input, which shimmy does not compute",
    "use_bdlora": "BD-LoRA's blocks are not computed by shimmy",
    "alora_invocation_tokens": "an activated LoRA (aLoRA) begins in the middle of a prompt",
    "layer_replication": "the adapter's model repeats layers of its base",
    "trainable_token_indices": "single embedding rows were trained",
    "megatron_config": "it was trained with Megatron's parallel layers",
    "arrow_config": "it routes between several adapters (Arrow)",
    "kasa_config": "KaSA changes the base's own weights",
    "monteclora_config": "MonteCLoRA samples its weights",
    "velora_config": "VeLoRA is not known to shimmy",
}
#: Ways of beginning a training that move part of the base's weights into the adapter.
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """How strong each module's adapter is.

    Which modules there are the tensors say, so neither ``target_modules`` nor ``modules_to_save`` is
    needed; ``fan_in_fan_out`` only concerns how PEFT merges, A and B are the same.
    """

    r: int
    alpha: float
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    targets: tuple[str, ...] | str = ()
    parameters: tuple[str, ...] = ()
    """Those that were adapted without being modules."""

    def rank(self, module: str) -> int:
        """The rank of a module's adapter."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """alpha / rank; alpha / sqrt(rank) if rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732)."""
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of moderate size. AdapterError if it is not there or none."""
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise AdapterError(f"{path}: is larger than any configuration.")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(
            f"{path}: is no JSON ({error}).", hint="Copy the adapter's folder again, whole."
        ) from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: holds {type(content).__name__}, expected an object.")
    return content


def peft_config(path: Path, content: Mapping[str, Any]) -> LoraConfig:
    """The configuration in ``content``, read from ``path``.

    Raises:
        AdapterError: it is no LoRA, or one that cannot be computed exactly; a value is missing or wrong.
    """
    kind = content.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"{path}: peft_type is {kind!r:.40}, expected 'LORA'.",
            hint=MERGE_IT,
        )
    _refuse_unsupported(path, content)
    return LoraConfig(
        r=_number(path, content, "r", int),
        alpha=_number(path, content, "lora_alpha", float),
        rslora=bool(content.get("use_rslora")),
        rank_pattern=_numbers(path, content, "rank_pattern", int),
        alpha_pattern=_numbers(path, content, "alpha_pattern", float),
        base=text_of(content.get("base_model_name_or_path")),
        targets=content["target_modules"]
        if isinstance(content.get("target_modules"), str)
        else _names(content.get("target_modules")),
        parameters=_names(content.get("target_parameters")),
    )


def number_of(value: Any) -> float | None:
    """A finite number, else None."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def text_of(value: Any) -> str | None:
    """A text that says something, else None."""
    return value if isinstance(value, str) and value.strip() else None


def _refuse_unsupported(path: Path, content: Mapping[str, Any]) -> None:
    for key, problem in _UNSUPPORTED.items():
        if content.get(key):
            raise AdapterError(
                f"{path}: has {key}: {problem}.",
                hint=MERGE_IT,
            )
    start = content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise AdapterError(
            f"{path}: init_lora_weights is {start!r:.40}: such a training changes the base's weights too, "
            "so the adapter does not fit the base as it is.",
            hint="Save it again as an ordinary LoRA: save_pretrained(…, "
            "path_initial_model_for_weight_conversion=…).",
        )


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the end of a module's name, as PEFT looks for it."""
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except re.error as error:
            raise AdapterError(
                f"the pattern {pattern!r:.60} of {CONFIG} is no regular expression ({error})."
            ) from error
    return module


def _number(path: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in content:
        raise AdapterError(f"{path}: has no {key!r}.", hint="Is it the adapter_config.json of a LoRA?")
    return _checked(path, key, content[key], kind)


def _numbers(path: Path, content: Mapping[str, Any], key: str, kind: type) -> dict[str, Any]:
    table = content.get(key) or {}
    if not isinstance(table, dict):
        raise AdapterError(f"{path}: {key} is {type(table).__name__}, expected an object.")
    return {name: _checked(path, f"{key}[{name!r:.60}]", value, kind) for name, value in table.items()}


def _checked(path: Path, key: str, value: Any, kind: type) -> Any:
    """A rank above 0, or any finite alpha."""
    if kind is int and type(value) is int and value > 0:
        return value
    if kind is float and (number := number_of(value)) is not None:
        return number
    expected = "a whole number above 0" if kind is int else "a number"
    raise AdapterError(f"{path}: {key} is {value!r:.40}, expected {expected}.")


def _names(value: Any) -> tuple[str, ...]:
    return tuple(sorted(str(name) for name in value)) if isinstance(value, list) else ()
