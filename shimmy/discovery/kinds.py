"""Files that are complete and well-formed, and still no language model: told by their metadata.

Nothing here knows architectures by name: what a file is for shows in *which* keys describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Keys below the architecture's name -> what a model with such a key does instead of writing text.
_ENCODERS = {
    "has_vision_encoder": "turns images into input of another model",
    "has_audio_encoder": "turns sound into input of another model",
    "projector_type": "turns images or sound into input of another model",
    "encoder.mels_count": "turns speech into text",
    "pooling_type": "turns text into embeddings",
    "classifier.output_labels": "sorts or ranks texts",
}
#: The value of ``pooling_type`` that means a score, as rerankers give.
_RANK = 4


def why_not_a_language_model(architecture: str, metadata: Mapping[str, Any]) -> str | None:
    """What the file is instead, as a sentence; None if it is a language model."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        return f"its general.type is {kind!r:.60}, not 'model'."
    for suffix, purpose in _ENCODERS.items():
        key = f"{architecture}.{suffix}"
        if not metadata.get(key):
            continue
        if suffix == "pooling_type" and metadata[key] == _RANK:
            purpose = _ENCODERS["classifier.output_labels"]
        return f"it {purpose} (metadata {key!r}), so it is no language model."
    if metadata.get(f"{architecture}.attention.causal") is False:
        return f"it reads texts as a whole (metadata '{architecture}.attention.causal'), so it writes none."
    if "tokenizer.ggml.model" not in metadata:
        return f"it has no vocabulary ({architecture!r}), so it is no language model."
    return None
