"""What types share whose weights come from a grid, several at a time: their codes and signs, in NumPy.

A code is the place of a weight among the values that the grid has; the bit above says which sign it has.
The grids are those of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from shimmy_plugins.quants._blocks import codebook

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.quant import AffineRun, Units

    #: Integers; Any because to NumPy's annotations uint8 >> int is some signed integer.
    Integers: TypeAlias = NDArray[Any]

#: What codes of IQ1_S and IQ1_M stand for, in eighths: -1, 0 and 1 moved up, or down where the sign says so.
IQ1_VALUES = (-7, 1, 9, 0, -9, -1, 7, 0)
#: Columns of a block of each of these types.
_COLUMNS = 256


@cache
def grid(name: str) -> tuple[Integers, tuple[int, ...]]:
    """For each entry an integer, whose bytes are codes of 8 or 4 weights without signs; their values."""
    import numpy as np
    from gguf import quants

    kind: Any = getattr(quants, name)
    kind.init_grid()
    entries, weights = kind.grid_shape
    places = np.searchsorted(kind.grid_map, kind.grid.reshape(entries, weights))
    return places.astype(np.uint8).view(f"<u{weights}").ravel(), tuple(kind.grid_map)


@cache
def _sign_codes(bit: int) -> Integers:
    """For each byte of 8 signs an integer of 8 bytes, which have them at this bit."""
    import numpy as np

    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return (signs << np.uint8(bit)).view("<u8").ravel()


def either_sign(values: Sequence[int]) -> tuple[int, ...]:
    """Values for codes: as many as codes can have, then these with a minus."""
    whole = (*values, *[0] * ((1 << (len(values) - 1).bit_length()) - len(values)))
    return (*whole, *(-value for value in whole))


def part(blocks: Integers, at: int, count: int, kind: str = "<u1") -> Integers:
    """``count`` numbers of a kind from byte ``at`` of each block on: (blocks, count)."""
    import numpy as np

    size = np.dtype(kind).itemsize
    numbers: Integers = np.ascontiguousarray(blocks[:, at : at + count * size]).view(kind)
    return numbers


def fraction(scale: NDArray[Any], divisor: int) -> NDArray[np.float32]:
    """A float16, divided by a power of two, exactly."""
    import numpy as np

    return scale.astype(np.float32) / np.float32(divisor)


def fields(numbers: Integers, firsts: Sequence[int], bits: int) -> Integers:
    """(blocks, n) -> (blocks, n * fields) of uint16: of each number the fields from bits ``firsts`` on."""
    import numpy as np

    shifted = numbers[:, :, None] >> np.array(firsts, numbers.dtype)
    found: Integers = shifted & numbers.dtype.type(2**bits - 1)
    return found.astype(np.uint16).reshape(len(numbers), -1)


def nibbles_of(bytes_: Integers) -> Integers:
    """(blocks, n) -> (blocks, 2 n): the low one of each byte first."""
    return fields(bytes_, (0, 4), 4)


def bits_of(bytes_: Integers) -> Integers:
    """(blocks, n) -> (blocks, 8 n) of 0 or 1, the lowest of each byte first."""
    import numpy as np

    return np.unpackbits(bytes_, axis=1, bitorder="little")


def even_signs(sevens: Integers) -> Integers:
    """(blocks, n) of 7 bits -> bytes: the eighth bit makes the number of ones even."""
    import numpy as np

    whole = np.array([seven | (seven.bit_count() & 1) << 7 for seven in range(128)], np.uint8)
    return whole[sevens]


def grid_run(
    name: str,
    indices: Integers,
    signs: Integers,
    values: Sequence[int],
    units: Units,
    factors: Integers,
) -> AffineRun:
    """A run with a row for each block.

    Args:
        name: that of the grid.
        indices: (blocks, n), entries of the grid.
        signs: (blocks, 32) bytes, bit i that of weight i of eight, 1 for a minus; or fewer, each for some
            neighbours.
        values: what codes stand for, those with a minus last.
        units: (blocks, 1).
        factors: (blocks, groups), below 16.
    """
    import numpy as np

    from shimmy.gguf.quant import AffineRun, Scales

    bits = (len(values) - 1).bit_length()
    eights = grid(name)[0][indices].view("<u8")
    signs = signs.repeat(eights.shape[1] // signs.shape[1], axis=1)
    odd = (2 * factors + 1).astype(np.uint8)
    zero, numbers = codebook(values)
    return AffineRun(
        codes=(eights | _sign_codes(bits - 1)[signs]).view(np.uint8),
        bits=bits,
        group=_COLUMNS // factors.shape[1],
        scales=Scales(units, odd),
        offsets=zero,
        codebook=numbers,
    )
