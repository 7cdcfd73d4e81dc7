"""Random weights directly as blocks of a quant type: random codes, and scales of a sane size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import ConfigError, did_you_mean
from shimmy.specs import QuantTypeSpec

#: The float16 fields of a block, at their byte offsets: multiples of the block's scale that make
#: weights centred on zero where all other bytes are random.
SCALES: dict[str, dict[int, float]] = {
    "Q4_0": {0: 1.0},
    "Q4_1": {0: 1.0, 2: -7.5},
    "Q5_0": {0: 1.0},
    "Q5_1": {0: 1.0, 2: -15.5},
    "Q8_0": {0: 1.0},
    "Q4_K": {0: 1.0, 2: 7.5},
    "Q5_K": {0: 1.0, 2: 15.5},
    "Q6_K": {208: 1.0},
    "Q2_K": {80: 1.0, 82: 1.5},
    "Q3_K": {108: 1.0},
    "IQ4_NL": {0: 1.0},
    "IQ4_XS": {0: 1.0},
    "IQ3_S": {0: 1.0},
    "IQ3_XXS": {0: 1.0},
    "IQ2_S": {0: 1.0},
    "IQ2_XS": {0: 1.0},
    "IQ2_XXS": {0: 1.0},
    "IQ1_S": {0: 1.0},
    "Q1_0": {0: 1.0},
    "Q2_0": {0: 1.0},
    "TQ1_0": {52: 1.0},
    "TQ2_0": {64: 1.0},
}
#: Where the upper quarters of four 16-bit words hold the scale, a float16, the lowest one first.
QUARTERS = {"IQ1_M": 48}
#: The byte of a block that holds its scale as an exponent of 2, less 128.
EXPONENTS = {"MXFP4": 0}
#: Where codes of two bits mean -1, 0 and 1; the fourth, which means 2, is made another 0.
TERNARY = {"TQ2_0": slice(0, 64), "Q2_0": slice(2, 18)}
FLOATS = ("F32", "F16", "BF16")
#: Enough blocks to know the spread of their weights.
_CALIBRATION_BLOCKS = 512


def check_random_type(name: str) -> None:
    """Raise a ConfigError if no random blocks of this type can be made."""
    known = [*SCALES, *QUARTERS, *EXPONENTS, *FLOATS]
    if name not in known:
        raise ConfigError(
            f"no random weights can be made of type {name!r}.",
            hint=did_you_mean(name, known),
        )


def random_blocks(
    spec: QuantTypeSpec, count: int, deviation: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """(count, bytes per block): blocks whose weights have this standard deviation."""
    if spec.name in FLOATS:
        return _floats(spec, count, deviation, random)
    unit = _blocks(spec, np.ones(_CALIBRATION_BLOCKS, np.float32), random)
    spread = float(spec.load().dequantize_blocks(unit).std())
    return _blocks(spec, random.uniform(0.5, 1.5, count) * deviation / spread, random)


def _blocks(
    spec: QuantTypeSpec, scales: NDArray[np.floating], random: np.random.Generator
) -> NDArray[np.uint8]:
    blocks = random.integers(0, 256, (len(scales), spec.block_bytes), dtype=np.uint8)
    if spec.name in EXPONENTS:
        blocks[:, EXPONENTS[spec.name]] = np.rint(np.log2(scales)) + 128
        return blocks
    if spec.name in QUARTERS:
        # Of a little-endian word of 16 bits, the upper quarter lies in its second byte.
        at = slice(QUARTERS[spec.name] + 1, QUARTERS[spec.name] + 8, 2)
        quarters = scales.astype("<f2").view("<u2")[:, None] >> np.arange(0, 16, 4) & 15
        blocks[:, at] = blocks[:, at] & 15 | quarters << 4
        return blocks
    if spec.name in TERNARY:
        codes = blocks[:, TERNARY[spec.name]]
        codes &= ~((codes & codes >> 1 & 0x55) << 1)
    for offset, factor in SCALES[spec.name].items():
        field = (scales * factor).astype("<f2")
        blocks[:, offset : offset + 2] = field.view(np.uint8).reshape(-1, 2)
    return blocks


def _floats(
    spec: QuantTypeSpec, count: int, deviation: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    values = random.standard_normal(count * spec.block_elements, dtype=np.float32) * np.float32(deviation)
    if spec.name == "F16":
        stored = values.astype("<f2").view(np.uint8)
    elif spec.name == "BF16":
        stored = (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    else:
        stored = values.view(np.uint8)
    return stored.reshape(count, spec.block_bytes)
