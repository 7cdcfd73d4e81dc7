"""F16: 16-bit floats, little endian. A block is one weight of 2 bytes."""

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
    """Register F16."""
    register(QuantTypeSpec("F16", ggml_id=1, block_elements=1, block_bytes=2, load=load))


def load() -> FloatType:
    """The type itself."""
    return FloatType("<f2", widen, narrow)


def widen(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Float16 to float32, exact."""
    return values.astype("f4")


def narrow(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Float32 to float16: what is too large becomes infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        return values.astype("f2")
