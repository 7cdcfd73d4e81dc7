"""Mixtures of experts: a tensor for each of them in Hugging Face's folders, one for all in GGUF files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shimmy.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shimmy.huggingface.safetensors import StoredTensor

_EXPERT = re.compile(r"(?<=\.experts)\.(\d+)(?=\.)")


def split_expert(name: str) -> tuple[str, int | None]:
    """``mlp.experts.gate_proj`` and 3 of ``mlp.experts.3.gate_proj``; other names as they are, and None."""
    found = _EXPERT.search(name)
    return (name, None) if found is None else (_EXPERT.sub("", name, count=1), int(found[1]))


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
