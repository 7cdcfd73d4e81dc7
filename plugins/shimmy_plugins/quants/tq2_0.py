"""TQ2_0: 256 weights of -1, 0 or 1, 4 to a byte, and a scale.

A block is 66 bytes::

     0  64 bytes of codes, 32 for each half of the block: 32 in the lowest two bits, and so on
    64  scale, float16

    weight = (code - 1) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import ternary_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register TQ2_0."""
    register(QuantTypeSpec("TQ2_0", ggml_id=35, block_elements=256, block_bytes=66, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    import numpy as np

    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = blocks[:, :64].reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    return ternary_run(codes.reshape(len(blocks), -1), blocks[:, 64:])
