"""What the formats share in which each tensor is the A or the B of a module, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from shimmy.errors import AdapterError
from shimmy.lora.adapter import Module, Part


def paired(
    path: Path,
    file: Path,
    names: Iterable[str],
    pattern: re.Pattern[str],
    part: Callable[[re.Match[str]], Part],
) -> dict[str, dict[str, Part]]:
    """The parts "a" and "b" of each module, as far as they are there.

    Args:
        path: the adapter.
        file: where its tensors are.
        names: those of the tensors.
        pattern: of a name, with groups ``module`` and ``kind`` (a or b).
        part: the tensor whose name matched.

    Raises:
        AdapterError: a tensor has another name, or there is none.
    """
    parts: dict[str, dict[str, Part]] = {}
    for name in names:
        match = pattern.match(name)
        if match is None:
            raise AdapterError(f"{file}: nobody knows what the tensor {name!r} is for.")
        parts.setdefault(match["module"], {})[match["kind"]] = part(match)
    if not parts:
        raise AdapterError(f"{path}: has no weights: not one module is adapted.")
    return parts


def check_ranks(folder: Path, name: str, module: Module) -> None:
    """AdapterError unless A is (rank, …), B (…, rank), of as many experts if any, and the rank above 0."""
    a, b = module.a, module.b
    assert a is not None
    assert b is not None
    for part in (a, b):
        if len(part.shape) not in (2, 3):
            raise AdapterError(f"{folder}: {part.name!r} has shape {part.shape}, expected a matrix.")
    if a.shape[:-2] != b.shape[:-2]:
        raise AdapterError(f"{folder}: A and B of {name!r} are of {a.shape[:-2]} and {b.shape[:-2]} experts.")
    if a.shape[-2] != b.shape[-1]:
        raise AdapterError(
            f"{folder}: A and B of {name!r} do not fit together: A has rank {a.shape[-2]}, B {b.shape[-1]}."
        )
    if not module.rank:
        raise AdapterError(f"{folder}: {a.name!r} has rank 0.")
