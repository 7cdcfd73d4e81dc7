"""Mixtures of experts: one tensor for all in GGUF files; in folders one for each, or one with gate and up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shimmy.huggingface.safetensors import StoredTensor

_STACKED = 3
_EXPERT = re.compile(r"(?<=\.experts)\.(\d+)(?=\.)")


def split_expert(name: str) -> tuple[str, int | None]:
    """``mlp.experts.gate_proj`` and 3 of ``mlp.experts.3.gate_proj``; other names as they are, and None."""
    found = _EXPERT.search(name)
    return (name, None) if found is None else (_EXPERT.sub("", name, count=1), int(found[1]))


@dataclass(frozen=True, slots=True)
class HalfTensor:
    """One half of the rows of each expert, (experts, rows / 2, columns)."""

    stored: StoredTensor
    second: bool

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def path(self) -> Path:
        return self.stored.path

    @property
    def shape(self) -> tuple[int, ...]:
        experts, rows, *columns = self.stored.shape
        return experts, rows // 2, *columns

    def read(self) -> NDArray[Any]:
        """Its values, as float32 or float16."""
        values = self.stored.read()
        half = self.shape[1]
        return values[:, half:] if self.second else values[:, :half]


def split_stacked(name: str, stored: StoredTensor) -> Iterator[tuple[str, StoredTensor | HalfTensor]]:
    """A tensor by the name it would have for each expert; ``experts.gate_up_proj`` is two."""
    module, _, last = name.rpartition(".")
    if module.endswith(".experts") and last == "gate_up_proj" and len(stored.shape) == _STACKED:
        yield f"{module}.gate_proj.weight", HalfTensor(stored, second=False)
        yield f"{module}.up_proj.weight", HalfTensor(stored, second=True)
    elif module.endswith(".experts") and last == "down_proj":
        yield f"{name}.weight", stored
    else:
        yield name, stored


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """The tensors of all experts as one, (experts, rows, columns); none is read yet."""

    parts: tuple[StoredTensor, ...]

    @property
    def name(self) -> str:
        return self.parts[0].name

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.parts), *self.parts[0].shape

    def read(self) -> NDArray[Any]:
        """Their values, as float32 or float16."""
        import numpy as np

        return np.stack([part.read() for part in self.parts])


def stacked(experts: Mapping[int, StoredTensor]) -> StackedTensor:
    """The tensors of experts, by number. ModelError if one is missing or has another shape."""
    first = next(iter(experts.values()))
    for number in range(len(experts)):
        if number not in experts:
            raise ModelError(
                f"{first.path}: there are {len(experts)} tensors like {first.name!r}, but none of expert "
                f"{number}.",
                hint="The folder is incomplete: copy or download it again.",
            )
        if (found := experts[number].shape) != first.shape:
            raise ModelError(
                f"{first.path}: experts differ: {experts[number].name!r} has shape {found}, "
                f"{first.name!r} {first.shape}."
            )
    return StackedTensor(tuple(experts[number] for number in range(len(experts))))
