"""BF16: bfloat16, the upper half of a float32, little endian. A block is one weight of 2 bytes."""

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
    """Register BF16."""
    register(QuantTypeSpec("BF16", ggml_id=30, block_elements=1, block_bytes=2, load=load))


def load() -> FloatType:
    """The type itself."""
    return FloatType("<u2", widen, narrow)


def widen(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The lower half is zero: exact."""
    return (values.astype("u4") << 16).view("f4")


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded by the lower ones; a NaN stays one."""
    import numpy as np

    bits = values.view("u4")
    rounded = bits + (0x7FFF + (bits >> 16 & 1))
    return (np.where(np.isnan(values), bits | 0x400000, rounded) >> 16).astype("u2")
