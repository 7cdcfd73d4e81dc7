"""A folder's chat templates as GGUF metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shimmy.errors import TemplateError
from shimmy.huggingface.folder import CHAT_TEMPLATE, TOKENIZER_CONFIG, ModelFolder

KEY = "tokenizer.chat_template"
#: The name of the template that is meant when nobody names one.
_DEFAULT = "default"
#: What older tools write instead of the Jinja file: the template inside an object.
_IN_JSON = "chat_template.json"
_OTHERS = "additional_chat_templates"


def template_metadata(folder: ModelFolder) -> dict[str, str]:
    """The ``tokenizer.chat_template*`` keys. A file of its own wins over what other files hold.

    Raises:
        ModelError: a file cannot be read, or a template is no text.
    """
    templates: dict[str, Any] = {}
    for found in _found(folder):
        templates = found | templates
    if wrong := [name for name, source in templates.items() if not isinstance(source, str)]:
        raise TemplateError(f"{folder.path}: the chat template {wrong[0]!r} is no text.")
    return {KEY if name == _DEFAULT else f"{KEY}.{name}": source for name, source in templates.items()}


def has_template(folder: ModelFolder) -> bool:
    """Whether there is one that is meant by itself."""
    return KEY in template_metadata(folder)


def _found(folder: ModelFolder) -> Iterator[dict[str, Any]]:
    """Templates by name, those that win first."""
    if (folder.path / CHAT_TEMPLATE).is_file():
        yield {_DEFAULT: folder.text(CHAT_TEMPLATE)}
    for path in sorted((folder.path / _OTHERS).glob("*.jinja")):
        yield {path.stem: folder.text(f"{_OTHERS}/{path.name}")}
    for name in (_IN_JSON, TOKENIZER_CONFIG):
        source = folder.json_if_any(name).get("chat_template")
        if isinstance(source, list):
            named = (each for each in source if isinstance(each, dict))
            yield {str(each.get("name")): each.get("template") for each in named}
        elif source is not None:
            yield {_DEFAULT: source}
