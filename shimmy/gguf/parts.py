"""Models split over several files: ``name-00001-of-00003.gguf`` and so on.

The first part holds the metadata, every part some of the tensors, and ``split.no``, ``split.count``
and ``split.tensors.count`` say how they belong together. No NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shimmy.errors import GGUFError
from shimmy.gguf.header import Header, TensorInfo

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_FETCH = "Download or copy all parts again, into one folder."


@dataclass(frozen=True, slots=True)
class PartName:
    """What the name of a file says of a split model."""

    stem: str
    """The name without number, count and suffix: the model's own."""
    number: int
    """Counted from 1."""
    count: int

    def sibling(self, path: Path, number: int) -> Path:
        """Part ``number`` of the model that ``path`` is a part of."""
        return path.with_name(f"{self.stem}-{number:05}-of-{self.count:05}{path.suffix}")


def part_name(path: Path) -> PartName | None:
    """What the file's name says; None if it is not that of a part."""
    match = _PART.fullmatch(path.stem)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return None
    return PartName(match["stem"], int(match["number"]), int(match["count"]))


def model_stem(path: Path) -> str:
    """The file's name without suffix and, where it is a part, without number and count."""
    name = part_name(path)
    return name.stem if name else path.stem


def part_paths(path: Path) -> list[Path]:
    """All files of the model whose first one is ``path``; by their names, whether they exist or not."""
    name = part_name(path)
    if name is None or name.number != 1:
        return [path]
    return [path, *(name.sibling(path, number) for number in range(2, name.count + 1))]


def paths_of_parts(path: Path, header: Header) -> list[Path]:
    """``path`` and the other files its head says it needs.

    Raises:
        GGUFError: it is not the first part, or its name does not tell what the others are called.
    """
    count = _number(path, header, "split.count", 1)
    if count <= 1:
        return [path]
    number = _number(path, header, "split.no", None) + 1
    name = part_name(path)
    if name is None or (name.number, name.count) != (number, count):
        raise GGUFError(
            f"{path}: is part {number} of {count} (metadata 'split.no' and 'split.count'), "
            f"expected a name that ends in '-{number:05}-of-{count:05}{path.suffix}'.",
            hint="Give all parts the names they were published under.",
        )
    if number != 1:
        raise GGUFError(f"{path}: is part {number} of {count}.", hint=f"Open {name.sibling(path, 1).name!r}.")
    return part_paths(path)


def join_headers(paths: Sequence[Path], headers: Sequence[Header]) -> Header:
    """One head for all parts: metadata of the first, tensors of all.

    Raises:
        GGUFError: a part is of another model, or in the wrong place; or there are more or fewer
            tensors than announced.
    """
    first, count = headers[0], len(headers)
    tensors: dict[str, TensorInfo] = {}
    for index, (path, header) in enumerate(zip(paths, headers, strict=True)):
        for key, expected in (("split.no", index), ("split.count", count)):
            if (found := _number(path, header, key, None)) != expected:
                raise GGUFError(f"{path}: metadata {key!r} is {found}, expected {expected}.", hint=_FETCH)
        for name, info in header.tensors.items():
            if name in tensors:
                other = paths[tensors[name].part]
                raise GGUFError(f"{path}: tensor {name!r} is in {other.name!r} as well.", hint=_FETCH)
            tensors[name] = replace(info, part=index)
    announced = _number(paths[0], first, "split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise GGUFError(
            f"{paths[0]}: metadata 'split.tensors.count' is {announced}, "
            f"but the {count} parts hold {len(tensors)} tensors.",
            hint=_FETCH,
        )
    return Header(first.version, first.metadata, tensors)


def _number(path: Path, header: Header, key: str, default: int | None) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int:
        found = "missing" if value is None else f"{type(value).__name__}, expected a whole number"
        raise GGUFError(f"{path}: metadata {key!r} is {found}.", hint=_FETCH)
    return value
