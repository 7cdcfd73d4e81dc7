"""``python -m shimmy.cli.docs``: the settings table of docs/configuration.md, from the code."""

from __future__ import annotations

from shimmy.settings import settings_table

HEADERS = ("shimmy.toml", "Environment", "Flag", "Takes", "Default", "What it is")


def markdown() -> str:
    """Every setting in all its spellings, as a Markdown table."""
    rows = [HEADERS, ("---",) * len(HEADERS)]
    rows += [
        (f"`{info.key}`", f"`{info.variable}`", f"`{info.flag}`", info.expected, info.default, info.help)
        for info in settings_table().values()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(markdown())
