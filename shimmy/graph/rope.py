"""The numbers of rotary embeddings: angle per position of each pair, and the magnitude of the rotation.

Every engine takes its cosines and sines from here, so a scaling means the same on all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import GGUFError
from shimmy.graph.scaling import RopeScaling, Yarn

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class RopeFrequencies(NamedTuple):
    """What a rotation is made of: pair i of position p turns by ``p * inverse[i]`` radians."""

    inverse: F64
    """(dims / 2,) radians per position; one over the wavelength, times 2 pi."""
    magnitude: float
    """Factor on cosine and sine."""

    def cos_sin(self, positions: NDArray[np.int32]) -> tuple[F32, F32]:
        """Cosine and sine, each (T, dims / 2), of T positions; angles are computed in float64."""
        angles = positions[:, None] * self.inverse
        cos, sin = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        return cos.astype(np.float32), sin.astype(np.float32)


def rope_frequencies(
    base: float, dims: int, scaling: RopeScaling, factors: F32 | None = None
) -> RopeFrequencies:
    """Frequencies base^(-2i/dims) (Su et al. 2021, arXiv:2104.09864), scaled.

    ``factors``, (dims / 2,), are the values of the tensor that ``scaling.factors`` names; GGUFError
    if one of them is no divisor.
    """
    inverse: F64 = base ** (-np.arange(0, dims, 2, dtype=np.float64) / dims) / scaling.linear
    if factors is not None:
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise GGUFError(f"the tensor {scaling.factors!r} has values that are not finite and above 0.")
        inverse = inverse / factors
    if scaling.yarn is None:
        return RopeFrequencies(inverse, scaling.magnitude)
    kept = _kept(base, dims, scaling.yarn)
    inverse = inverse * (kept + (1.0 - kept) / scaling.yarn.factor)
    return RopeFrequencies(inverse, scaling.magnitude * scaling.yarn.magnitude)


def _kept(base: float, dims: int, yarn: Yarn) -> F64:
    """The share of each pair's own frequency that stays (arXiv:2309.00071, section 3.2).

    The paper's ramp is between numbers of rotations; as in the authors' program, it is laid
    between the pairs that have these numbers, rounded outwards, and is linear in the pair.
    """

    def pair_with(rotations: float) -> float:
        return dims * math.log(yarn.original_context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(pair_with(yarn.beta_fast)), 0)
    last = min(math.ceil(pair_with(yarn.beta_slow)), dims - 1)
    ramp = (np.arange(dims // 2, dtype=np.float64) - first) / max(last - first, 0.001)
    kept: F64 = (1.0 - np.clip(ramp, 0.0, 1.0)) * yarn.kept_share
    return kept
