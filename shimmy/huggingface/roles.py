"""Which tokens have a role, by what the files of a folder say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shimmy.huggingface.folder import GENERATION_CONFIG, SPECIAL_TOKENS, TOKENIZER_CONFIG, ModelFolder

#: Roles of tokens in tokenizer_config.json -> GGUF keys.
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
#: Where further tokens that end an answer go: all that GGUF has keys for.
_FURTHER_ENDS = ("eot", "eom")


@dataclass(frozen=True)
class Roles:
    """What a folder says of roles; tokens it names by text are looked up in a vocabulary."""

    settings: Mapping[str, Any]
    """``special_tokens_map.json`` and ``tokenizer_config.json``, which wins."""
    numbers: Mapping[str, Any]
    """``config.json`` and ``generation_config.json``, which wins."""

    @classmethod
    def of(cls, folder: ModelFolder) -> Roles:
        """Those of a folder. ModelError if a file cannot be read."""
        generation = folder.json_if_any(GENERATION_CONFIG)
        numbers = folder.config | {key: value for key, value in generation.items() if value is not None}
        return cls(folder.json_if_any(SPECIAL_TOKENS) | folder.json_if_any(TOKENIZER_CONFIG), numbers)

    def ids(self, by_text: Mapping[str, int], count: int) -> dict[str, int]:
        """The keys of ggml without their beginning: tokens with a role, of ``count`` tokens in all."""
        ids = {f"{gguf}_token_id": self.token(role, by_text) for role, gguf in _ROLES.items()}
        ends = [end for end in _as_list(self.numbers.get("eos_token_id")) if end != ids["eos_token_id"]]
        ids |= {f"{name}_token_id": end for name, end in zip(_FURTHER_ENDS, ends, strict=False)}
        return {key: token for key, token in ids.items() if token is not None and 0 <= token < count}

    def token(self, role: str, by_text: Mapping[str, int]) -> int | None:
        """By its text where the tokenizer's settings give one, else by its number in the model's."""
        key = f"{role}_token"
        if key in self.settings:
            value = self.settings[key]
            text = value.get("content") if isinstance(value, dict) else value
            return None if text is None else by_text.get(text)
        return next(iter(_as_list(self.numbers.get(f"{key}_id"))), None)

    def adds(self, role: str) -> bool | None:
        """Whether a text gets this token at its end; None if the settings do not say."""
        explicit = self.settings.get(f"add_{role}_token")
        return explicit if isinstance(explicit, bool) else None


def _as_list(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if type(each) is int]
