"""gemma3: Gemma 3, its language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shimmy import hookimpl
from shimmy.errors import ModelError
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures import gemma2
from shimmy_plugins.architectures.gemma2 import Gemma2, Gemma2Params


@dataclass(frozen=True, kw_only=True)
class Gemma3Params(Gemma2Params):
    attention__sliding_window: int = 0
    attention__sliding_window_pattern: int | list[bool] | list[int] = 6
    attn_logit_softcapping: float = 0.0
    final_logit_softcapping: float = 0.0
    rope__freq_base_swa: float | None = 10000.0

    blocks_of_27b: ClassVar[int] = 62


class Gemma3(Gemma2):
    """Gemma 2 with norms of queries and keys instead of caps, five local layers for each global one, and
    frequencies of their own for these (Gemma Team 2025, arXiv:2503.19786)."""

    params = Gemma3Params
    head_norms = True


#: What it means that ``text_config`` leaves a key out: the models that see too say only how they differ.
TEXT_DEFAULTS = {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1e6,
}


def derive(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As for Gemma 2; how local layers rotate, where it is told by kinds of layers; and the language model
    of one that sees too, which has a config of its own."""
    if "text_config" in config:
        text = {**TEXT_DEFAULTS, **config["text_config"]}
        return {**text, **derive(text)}
    kinds = config.get("rope_parameters") or {}
    if gemma2.LOCAL not in kinds:
        return gemma2.derive(config)
    local, whole = kinds[gemma2.LOCAL], kinds["full_attention"]
    if local.get("rope_type", "default") != "default":
        raise ModelError(f"local layers have rope_type {local['rope_type']!r:.40}, expected 'default'.")
    rotation = {"rope_parameters": whole, "rope_local_base_freq": local["rope_theta"]}
    return {**gemma2.derive(config), **rotation}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        keys=gemma2.GEMMA2_KEYS | {"rope.freq_base_swa": "rope_local_base_freq"},
        defaults=gemma2.GEMMA2_DEFAULTS | {"rope_local_base_freq": 10000.0},
        expected=gemma2.GEMMA2_EXPECTED,
        derive=derive,
        other_modules=("vision_tower", "multi_modal_projector"),
    )
    register(ArchitectureSpec(names=("gemma3",), load=Gemma3, huggingface=reading))
