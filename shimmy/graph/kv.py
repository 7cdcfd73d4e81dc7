"""What keys and values are stored as, and what storing does to them: one definition for every engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

KV_TYPES = ("f32", "f16", "q8_0")
#: Neighbouring dimensions of a head that share a scale in "q8_0"; a head's last group may be smaller.
SCALE_GROUP = 32
_LARGEST_CODE = 127


def stored(x: F32, kv_type: str) -> F32:
    """Keys or values as they come back from a cache of a type; the last axis is a head's dimensions.

    "f16" rounds to half floats. In "q8_0" a number is code * scale: the scale is the largest
    magnitude of a group over 127, rounded to a half float, and the code the nearest integer. What
    exceeds half floats becomes infinite or NaN: damage that can be seen.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        match kv_type:
            case "f16":
                return x.astype(np.float16).astype(np.float32)
            case "q8_0":
                starts = range(0, x.shape[-1], SCALE_GROUP)
                return np.concatenate([_by_scale(x[..., i : i + SCALE_GROUP]) for i in starts], axis=-1)
            case _:
                return x


def _by_scale(group: F32) -> F32:
    largest = np.abs(group).max(axis=-1, keepdims=True)
    scale = (largest / np.float32(_LARGEST_CODE)).astype(np.float16).astype(np.float32)
    codes = np.rint(np.divide(group, scale, out=np.zeros_like(group), where=scale > 0))
    numbers: F32 = codes.clip(-_LARGEST_CODE, _LARGEST_CODE) * scale
    return numbers
