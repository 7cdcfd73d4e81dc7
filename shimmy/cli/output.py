"""Tables and JSON on standard output: rich tables for people, plain aligned text for pipes. Errors."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from shimmy.errors import ShimmyError

#: What drives a terminal or turns the order of writing around; half characters, which Python makes of
#: bytes that are no text; and breaks of lines.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` as one harmless line, with escapes where need be: a file may have any name."""
    return _UNSAFE.sub(lambda unsafe: unsafe[0].encode("unicode_escape").decode(), text)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at ``stream``, on a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def print_error(what: str, error: ShimmyError) -> None:
    """Print ``what`` went wrong, and the next step, on standard error."""
    for introduction, text in ((what, error.message), ("hint", error.hint)):
        if text:
            # Some messages are several lines by intention.
            lines = "\n".join(map(printable, text.split("\n")))
            print(f"{introduction}: {lines}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON; paths become text."""
    lines = json.dumps(value, indent=2, ensure_ascii=False, default=str).split("\n")
    print("\n".join(_UNSAFE.sub(lambda unsafe: f"\\u{ord(unsafe[0]):04x}", line) for line in lines))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their headers."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _print_rich(headers, rows)
    else:
        print("\n".join(plain_lines(headers, rows)))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one thing, a line for each fact: its name, and what it is."""
    rows = list(facts)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name.ljust(width)}  {printable(text)}")


def plain_lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The table as lines, columns two spaces apart."""
    table = [[header.upper() for header in headers], *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # 100 ms of import, worth it only where a person looks on.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        # Text: square brackets in names and paths are no markup.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(table)


def readable_size(size: int) -> str:
    """``98362432`` -> ``93.8 MiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def readable_count(count: int) -> str:
    """``134515008`` -> ``135M``."""
    amount = count / 1000
    for unit in ("K", "M"):
        # 999.5 would be rounded to 1e+03.
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}B"


def readable_context(context: int, native: int, rope: str, factor: float) -> str:
    """``8192 tokens (native 8192)``, and how rotary positions are scaled, if they are."""
    if rope == "none":
        return f"{context} tokens (native {native})"
    stretch = "" if factor == 1.0 else f" \N{MULTIPLICATION SIGN}{factor:.3g}"
    return f"{context} tokens (native {native}, {rope}{stretch})"
