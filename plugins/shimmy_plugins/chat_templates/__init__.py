"""Chat templates of model families, for models that carry none: each ``chat/*.jinja`` is one."""

from __future__ import annotations

from collections.abc import Callable

from shimmy import hookimpl
from shimmy.specs import ChatTemplateSpec


@hookimpl
def register_chat_templates(register: Callable[[ChatTemplateSpec], None]) -> None:
    from importlib.resources import files  # 10 ms, of use to the server only

    folder = files("shimmy_templates") / "chat"
    for source in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".jinja"):
            register(ChatTemplateSpec(name=source.name.removesuffix(".jinja"), source=source))
