"""What most decoders' ``config.json`` say, for architectures to build on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: GGUF keys below the architecture's name -> keys of config.json.
DECODER_KEYS: Mapping[str, str] = {
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
#: What it means that a config.json leaves a key out; None: that the GGUF key is left out as well.
DECODER_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
}
