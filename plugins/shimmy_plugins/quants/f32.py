"""F32: 32-bit floats, little endian. A block is one weight of 4 bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import FloatType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register F32."""
    register(QuantTypeSpec("F32", ggml_id=0, block_elements=1, block_bytes=4, load=load))


def load() -> FloatType:
    """The type itself."""
    return FloatType("<f4", widen, narrow)


def widen(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 as it is; a view."""
    return values


def narrow(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 as it is."""
    return values
