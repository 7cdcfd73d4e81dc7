"""From Hugging Face's weights to GGUF's: names, and how converters rearrange values.

The names are those of ``gguf``'s own table. What happens to the values only an architecture knows,
so it declares it (:class:`FromHuggingFace`): that serves its adapters and whole fine-tunes alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from shimmy.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rearranges the output rows (the first axis) of a weight, of B, or of a bias.
Transform: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"

_WITHIN = "language_model."
_LAYER = re.compile(r"(?<=\.)(\d+)(?=\.)")


@runtime_checkable
class FromHuggingFace(Protocol):
    """An architecture that says how its GGUF tensors come from Hugging Face's."""

    def hf_transforms(self, p: Any, /) -> Mapping[str, Transform]:
        """By tensor name without layer and suffix (``attn_q``); tensors not named are as they are."""
        ...


@dataclass(frozen=True, slots=True)
class RotaryPairs:
    """Rows of each head in the order of the file: rotated pairs are neighbours (2i, 2i + 1).

    Hugging Face has them half a head apart, (i, i + dims / 2).
    """

    heads: int

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        half = len(rows) // self.heads // 2
        split = rows.reshape(self.heads, 2, half, *rows.shape[1:])
        return split.swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class Transposed:
    """A weight that Hugging Face keeps as (columns, rows); a bias and B of an adapter are as they are."""

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows


def plus_one(weight: NDArray[Any]) -> NDArray[Any]:
    """Of a norm that multiplies by 1 + weight; in F32, whatever it is stored as."""
    import numpy as np

    return np.float32(1) + weight


#: The output matrix, there and here.
_HEAD, _OUTPUT = "lm_head", "output"


class TensorNames:
    """Hugging Face's module names as GGUF's, for a model of so many layers.

    ``whose`` is what errors call that model.

    Raises:
        ModelError: the table of names does not know the architecture.
    """

    def __init__(self, architecture: str, layers: int, *, whose: str = "the base") -> None:
        # Takes a tenth of a second, and few models need it.
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
        if architecture not in known:
            raise ModelError(
                f"how tensors of architecture {architecture!r} are called elsewhere is not known."
            )
        self._map = get_tensor_name_map(known[architecture], layers)
        self._layers = layers
        self._whose = whose

    def gguf_name(self, module: str) -> str:
        """``blk.0.attn_q`` for ``model.layers.0.self_attn.q_proj``.

        Raises:
            ModelError: the model has no such layer, or the architecture no such module.
        """
        # Where it is a part of a model that sees too, the language model's names are else its own.
        if found := self._map.get_name(module) or self._map.get_name(module.replace(_WITHIN, "", 1)):
            return str(found)
        if module == _HEAD:
            # The table leaves it out where models share the embedding's matrix; fine-tunes may not.
            return _OUTPUT
        layer = _LAYER.search(module)
        if layer and int(layer[0]) >= self._layers and self._map.get_name(_LAYER.sub("0", module, count=1)):
            raise ModelError(
                f"{module!r} is of layer {layer[0]}, but {self._whose} has {self._layers} layers, from 0 on.",
                hint="It belongs to another, larger model.",
            )
        known = [str(name) for name in self._map.mapping if not layer or f".{layer[0]}." in str(name)]
        raise ModelError(f"{module!r} is no module of {self._whose}.", hint=did_you_mean(module, known))
