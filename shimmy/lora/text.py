"""What an adapter's folder says of texts, in the metadata of GGUF: it wins over what the base's file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.lora.config import read_json
from shimmy.lora.generation import read_generation

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_END = "tokenizer.ggml.eos_token_id"
_CONTROL, _USER_DEFINED = 3, 4
_TEMPLATE_FILE, _TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class AdapterText:
    """The texts of a base with an adapter."""

    metadata: Mapping[str, Any]
    """The base's, with what the folder says instead."""
    template_file: Path | None = None
    """The file of the folder that holds the chat template, if one does."""
    ends: frozenset[int] = frozenset()
    """Further tokens that end an answer."""


def read_adapter_text(metadata: Mapping[str, Any], adapter: Path) -> AdapterText:
    """The base's metadata with the chat template, added tokens and sampling of an adapter's folder.

    Raises:
        AdapterError: a file of the folder is broken, or adds tokens for which the base has no room.
    """
    if not adapter.is_dir():
        return AdapterText(metadata)
    generation = read_generation(adapter, len(metadata[TOKENS]))
    changes = {**_tokens(metadata, adapter), **generation.sampling}
    file, template = _template(adapter)
    if template is not None:
        changes["tokenizer.chat_template"] = template
    return AdapterText({**metadata, **changes} if changes else metadata, file, generation.ends)


def same_vocabulary(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a tokenizer made of either does the same."""
    return all(one.get(key) == other.get(key) for key in (TOKENS, TYPES, _END))


def _template(folder: Path) -> tuple[Path | None, str | None]:
    """The template in a file of its own, or in the tokenizer's configuration; and which file it is in."""
    file = folder / _TEMPLATE_FILE
    if file.is_file():
        try:
            return file, file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise AdapterError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}).") from error
        except OSError as error:
            raise AdapterError(f"{file}: cannot be read: {error.strerror or error}.") from error
    file = folder / _TOKENIZER_CONFIG
    template = _optional(file).get("chat_template")
    if isinstance(template, list):
        named = {row.get("name"): row.get("template") for row in template if isinstance(row, dict)}
        template = named.get("default")
    if template is None:
        return None, None
    if not isinstance(template, str):
        raise AdapterError(f"{file}: chat_template is {template!r:.60}, expected a text.")
    return file, template


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
    decoder = _optional(folder / _TOKENIZER_CONFIG).get("added_tokens_decoder")
    if isinstance(decoder, dict):
        numbered = [{"id": number, **row} for number, row in decoder.items() if isinstance(row, dict)]
        rows = [*(rows if isinstance(rows, list) else []), *numbered]
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and str(row.get("id")).isdigit() and isinstance(row.get("content"), str):
            yield int(row["id"]), row["content"], bool(row.get("special"))


def _end(folder: Path) -> str | None:
    """The text of the token that ends an answer."""
    token = _optional(folder / _TOKENIZER_CONFIG).get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
