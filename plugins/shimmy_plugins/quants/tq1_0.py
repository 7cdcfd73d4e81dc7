"""TQ1_0: 256 weights of -1, 0 or 1, 5 to a byte, and a scale.

A block is 54 bytes::

     0  32 bytes of 5 weights each, then 16 of 5, then 4 of 4: the first weights of all bytes, and so on
    52  scale, float16

    byte = 256/243 * (81 * first + 27 * second + ...), rounded up; weight = (digit - 1) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register TQ1_0."""
    register(QuantTypeSpec("TQ1_0", ggml_id=34, block_elements=256, block_bytes=54, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    import numpy as np

    from shimmy.gguf.quant import AffineRun, Scales

    digits = []
    for first, end, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        # What is left of the byte is a fraction of 256: times 3, its whole part is the next digit.
        powers = np.array([3**i for i in range(count)], np.uint8)[:, None]
        left = (blocks[:, None, first:end] * powers).astype(np.uint16)
        digits.append((left * 3 >> 8).astype(np.uint8).reshape(len(blocks), -1))
    # There is one scale for all groups: a unit of the block, once for each of them.
    units = np.ascontiguousarray(blocks[:, 52:]).view("<f2")
    scales = Scales(units, np.ones((len(blocks), 8), np.uint8))
    return AffineRun(np.concatenate(digits, axis=1), 2, 32, scales, 1)
