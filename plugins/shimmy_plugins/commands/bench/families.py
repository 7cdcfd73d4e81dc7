"""What files of an architecture have: tensors and metadata, as llama.cpp's converters name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

_LINEARS = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

_FOUR_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


@dataclass(frozen=True, slots=True)
class Family:
    """How the blocks of an architecture differ from those of llama."""

    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    centred: bool = False
    """Norms are layer norms, which have biases."""
    biases: tuple[str, ...] = ()
    """Matrices with a bias."""
    merged: bool = False
    """One matrix for q, k and v."""
    gate: Literal["own", "merged", "none"] = "own"
    """A matrix, a half of ``ffn_up``, or nothing."""
    head_norms: bool = False
    positions: bool = False
    """A matrix of positions instead of rotations."""
    keys: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """More metadata."""


FAMILIES = {
    "llama": Family(),
    "qwen2": Family(biases=("attn_q", "attn_k", "attn_v")),
    "qwen3moe": Family(head_norms=True, keys={"expert_weights_norm": True}),
    "phi3": Family(merged=True, gate="merged"),
    "phi2": Family(norms=("attn_norm",), centred=True, biases=(*_LINEARS, "output"), gate="none"),
    "starcoder2": Family(centred=True, biases=_LINEARS, gate="none"),
    "gpt2": Family(centred=True, biases=_LINEARS, merged=True, gate="none", positions=True),
    "gemma3": Family(norms=_FOUR_NORMS, head_norms=True, keys={"attention.sliding_window": 512}),
    "gemma2": Family(
        norms=_FOUR_NORMS,
        keys={
            "attention.sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
}
