"""Weights as blocks of a type: for converters and whoever merges adapters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import ConfigError, ModelError, did_you_mean
from shimmy.gguf.quant import WritableQuantType
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec


class Encoder:
    """Makes tensors of one type.

    Args:
        spec: the type, one of :func:`writable_types`.

    Raises:
        ConfigError: the type can only be read.
    """

    def __init__(self, spec: QuantTypeSpec) -> None:
        quant = spec.load()
        if not isinstance(quant, WritableQuantType):
            raise ConfigError(f"the type {spec.name} can be read, but not written.")
        self.spec = spec
        self._quant = quant

    def fits(self, columns: int) -> bool:
        """Whether rows of so many weights are whole blocks."""
        return columns % self.spec.block_elements == 0

    def n_bytes(self, shape: Sequence[int]) -> int:
        """What a tensor of this shape takes."""
        return int(np.prod(shape)) // self.spec.block_elements * self.spec.block_bytes

    def encode(self, weights: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
        """The blocks of a tensor, as flat bytes.

        Args:
            weights: rows of whole blocks, of any shape.
            name: of the tensor, for errors.

        Raises:
            ModelError: a weight is no finite number, or too large for the type.
        """
        blocks = np.ascontiguousarray(weights, np.float32).reshape(-1, self.spec.block_elements)
        peak = np.abs(blocks).max(axis=1, initial=0.0)
        if not np.isfinite(peak).all():
            raise ModelError(
                f"tensor {name!r} holds values that are no finite numbers.",
                hint="The training has diverged, or the file is damaged; take an earlier checkpoint.",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            encoded = self._quant.quantize_blocks(blocks)
            # Where the largest weight fits, all do.
            largest = self._quant.dequantize_blocks(encoded[[peak.argmax()]]) if len(peak) else peak
        if not np.isfinite(largest).all():
            raise ModelError(
                f"tensor {name!r} has a weight of {peak.max():.3g}, too large for the type {self.spec.name}.",
                hint="Take the type bf16 or f32.",
            )
        return encoded.reshape(-1)


def writable_types(registry: Registry[QuantTypeSpec]) -> list[str]:
    """The names, in small letters, of the types that can be written."""
    return [spec.name.lower() for spec in registry if isinstance(spec.load(), WritableQuantType)]


def writable_type(name: str, registry: Registry[QuantTypeSpec]) -> QuantTypeSpec:
    """The type of this name, in capitals or not, that can be written.

    Raises:
        ConfigError: there is none; names those there are.
    """
    known = writable_types(registry)
    if name.lower() not in known:
        if name.upper() in registry:
            raise ConfigError(
                f"the type {name.upper()} can be read, but not written.",
                hint=f"Types that can be: {', '.join(sorted(known))}.",
            )
        raise ConfigError(f"no type that can be written is called {name!r}.", hint=did_you_mean(name, known))
    return registry.get(name.upper())
