"""Tables of the documentation, from the code.

``python -m shimmy.cli.docs`` writes that of all settings, ``python -m shimmy.cli.docs COMMAND`` that of
a command's options (``shimmy`` for those that come before it).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from shimmy.settings import settings_table

SETTINGS = ("shimmy.toml", "Environment", "Flag", "Takes", "Default", "What it is")


def markdown() -> str:
    """Every setting in all its spellings, as a Markdown table."""
    rows = [
        (f"`{info.key}`", f"`{info.variable}`", f"`{info.flag}`", info.expected, info.default, info.help)
        for info in settings_table().values()
    ]
    return _table(SETTINGS, rows)


def command_markdown(name: str) -> str:
    """A command's own options as a Markdown table, and below them the settings it takes as flags."""
    import typer

    from shimmy.cli.app import build

    group = build()
    command = group if name == "shimmy" else group.get_command(typer.Context(group), name)
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    flags = {info.flag for info in settings_table().values()}
    own = [each for each in shown if each.opts[0].partition("/")[0] not in flags]
    settings = [each.opts[0] for each in shown if each not in own]
    # Arguments come first, as in the usage line.
    rows = [(_spelling(each), each.help) for each in sorted(own, key=lambda each: not _is_argument(each))]
    parts = [_table(("Option", "What it is"), rows)] if rows else []
    if settings:
        parts.append("Settings: " + ", ".join(f"`{flag}`" for flag in settings) + ".")
    return "\n\n".join(parts)


def _spelling(parameter: Any) -> str:
    """How it is written on a command line: ``--stop TEXT``, ``-s``, ``NAME``."""
    if _is_argument(parameter):
        return f"`{parameter.metavar}`"
    names = (*parameter.opts, *parameter.secondary_opts)
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ("---",) * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(command_markdown(sys.argv[1]) if len(sys.argv) > 1 else markdown())
