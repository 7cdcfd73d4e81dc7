"""What most decoders' ``config.json`` say, for architectures to build on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: GGUF keys below the architecture's name -> keys of config.json.
DECODER_KEYS: dict[str, str] = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
#: The same of decoders with layer norms, but for their epsilon, which has many names.
LAYER_NORM_KEYS = {
    key: name for key, name in DECODER_KEYS.items() if key != "attention.layer_norm_rms_epsilon"
}
#: Besides, of mixtures of experts.
EXPERT_KEYS: dict[str, str] = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
}
#: Their layers all have experts: GGUF has no names for the networks of others.
EXPERT_LAYERS: dict[str, tuple[Any, ...]] = {"decoder_sparse_step": (1,), "mlp_only_layers": ([], None)}
#: What it means that a config.json leaves a key out; None: that the GGUF key is left out as well.
DECODER_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
}


def expert_count(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The number of experts by the name that :data:`EXPERT_KEYS` have; newer files have another one."""
    return {"num_experts": config.get("num_experts") or config["num_local_experts"]}
