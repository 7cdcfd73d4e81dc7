"""The WGSL of a plan as files, and the order in which its kernels run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shimmy.cli.output import plain_lines
from shimmy.errors import ConfigError
from shimmy_plugins.backends.wgpu.fallback import Fallback
from shimmy_plugins.backends.wgpu.kernel import Dispatch, Kernel, Size

#: The file that tells the order.
LISTING = "dispatches.txt"
#: Rows of the steps whose workgroups it shows, in a context of as many positions as follow.
_ROWS, _CONTEXT = (1, 8), 64
_HEADERS = ("dispatch", "computes", "kernel", *(f"workgroups for {rows}" for rows in _ROWS))

Lowered = Mapping[str, Sequence[Dispatch | Fallback]]


def dump(phases: Lowered, folder: Path) -> int:
    """Write one file for each kernel, and the listing of all dispatches; the number of kernels.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
    """
    names = kernel_names(phases)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty.", hint="Name a new folder with --out, or empty it.", param="--out"
            )
        for source, name in names.items():
            (folder / name).write_text(source, "utf-8")
        (folder / LISTING).write_text("\n".join(listing(phases, names)) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}.", param="--out") from error
    return len(names)


def kernel_names(phases: Lowered) -> dict[str, str]:
    """A file's name for each source, made of its kernel's label."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for dispatch in (item for items in phases.values() for item in items if isinstance(item, Dispatch)):
        for kernel in dispatch.kernels:
            if kernel.source not in names:
                names[kernel.source] = _free_name(kernel, taken)
    return names


def listing(phases: Lowered, names: Mapping[str, str]) -> list[str]:
    """All dispatches in order, phase by phase."""
    lines: list[str] = []
    for phase, items in phases.items():
        rows = [row for number, item in enumerate(items) for row in _rows(number, item, names)]
        lines += [f"# {phase} rows", *plain_lines(_HEADERS, rows), ""]
    return lines[:-1]


def _rows(number: int, item: Dispatch | Fallback, names: Mapping[str, str]) -> list[tuple[str, ...]]:
    if isinstance(item, Fallback):
        what = "it" if item.is_segment else item.node.op
        return [(str(number), item.node.label, f"none: the processor computes {what}", "", "")]
    return [
        (str(number), item.node, names[kernel.source], *(_workgroups(item, place, rows) for rows in _ROWS))
        for place, kernel in enumerate(item.kernels)
    ]


def _workgroups(dispatch: Dispatch, place: int, rows: int) -> str:
    """``12x1x1``, or nothing if another kernel computes a step of so many rows."""
    size = Size(rows, rows, _CONTEXT)
    grid = dispatch.kernels[place].grid(size)
    return "x".join(map(str, grid)) if dispatch.pick(size) == place and all(grid) else "-"


def _free_name(kernel: Kernel, taken: set[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.+]+", "-", kernel.label).strip("-.")
    name, count = f"{stem}.wgsl", 2
    while name in taken:
        name, count = f"{stem}-{count}.wgsl", count + 1
    taken.add(name)
    return name
