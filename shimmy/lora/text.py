"""What an adapter's folder says of texts, in the metadata of GGUF: it wins over what the base's file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.lora.config import read_json

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_END = "tokenizer.ggml.eos_token_id"
_CONTROL, _USER_DEFINED = 3, 4
#: Fields of generation_config.json as GGUF has them.
_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def with_adapter_text(metadata: Mapping[str, Any], adapter: Path) -> Mapping[str, Any]:
    """The base's metadata with the chat template, added tokens and sampling of an adapter's folder.

    Raises:
        AdapterError: a file of the folder is broken, or adds tokens for which the base has no room.
    """
    if not adapter.is_dir():
        return metadata
    changes: dict[str, Any] = {}
    if (template := _template(adapter)) is not None:
        changes["tokenizer.chat_template"] = template
    changes |= _tokens(metadata, adapter)
    generation = _optional(adapter / "generation_config.json")
    changes |= {
        key: generation[field] for field, key in _SAMPLING.items() if generation.get(field) is not None
    }
    return {**metadata, **changes} if changes else metadata


def same_vocabulary(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a tokenizer made of either does the same."""
    return all(one.get(key) == other.get(key) for key in (TOKENS, TYPES, _END))


def _template(folder: Path) -> str | None:
    """The template in a file of its own, or in the tokenizer's configuration."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise AdapterError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}).") from error
    template = _optional(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {row.get("name"): row.get("template") for row in template if isinstance(row, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _tokens(metadata: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The vocabulary with the folder's added tokens where it has others; empty if it has none."""
    tokens, types = list(metadata[TOKENS]), list(metadata.get(TYPES) or [])
    changed: dict[str, Any] = {}
    for index, text, special in _added(folder):
        if not 0 <= index < len(tokens):
            raise AdapterError(
                f"{folder}: adds the token {text!r:.80} as number {index}, but the base has {len(tokens)}.",
                hint="A vocabulary that was made larger needs a base converted with it.",
            )
        if tokens[index] != text:
            tokens[index] = text
            if types:
                types[index] = _CONTROL if special else _USER_DEFINED
            changed = {TOKENS: tokens, **({TYPES: types} if types else {})}
    if (end := _end(folder)) is not None and end in tokens:
        changed[_END] = tokens.index(end)
    return changed


def _added(folder: Path) -> Iterator[tuple[int, str, bool]]:
    """Number, text and whether it is a control token, of each token that was added to the pieces."""
    rows = _optional(folder / "tokenizer.json").get("added_tokens")
    decoder = _optional(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(decoder, dict):
        numbered = [{"id": number, **row} for number, row in decoder.items() if isinstance(row, dict)]
        rows = [*(rows if isinstance(rows, list) else []), *numbered]
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and str(row.get("id")).isdigit() and isinstance(row.get("content"), str):
            yield int(row["id"]), row["content"], bool(row.get("special"))


def _end(folder: Path) -> str | None:
    """The text of the token that ends an answer."""
    token = _optional(folder / "tokenizer_config.json").get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
