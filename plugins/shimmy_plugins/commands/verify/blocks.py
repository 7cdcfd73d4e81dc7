"""Numbers that the plugins of types read from a file, beside those that the package ``gguf`` reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.weights import Weights
from shimmy_plugins.commands.verify.check import Check

#: Least rows of each matrix that are compared, if it has them, and least elements.
ROWS, ELEMENTS = 4, 512


def blocks(weights: Weights, random: np.random.Generator) -> Iterator[Check]:
    """The first row of each tensor, the last and others, of the types that gguf can read.

    Not a bit may differ.
    """
    from gguf import GGMLQuantizationType, quants

    for name in weights.names():
        info = weights.info(name)
        known = GGMLQuantizationType.__members__.get(info.type)
        wrong = compared = 0
        for row in _rows(info.shape, random):
            rows = slice(row, row + 1)
            try:
                with np.errstate(all="ignore"):
                    expected = None if known is None else quants.dequantize(weights.blocks(name, rows), known)
            except NotImplementedError:
                expected = None
            if expected is None:
                break
            wrong += _different(weights.dequantize(name, rows), expected)
            compared += expected.size
        if compared:
            yield Check("blocks", name, info.type, "", compared, wrong / compared, 0.0)


def _rows(shape: tuple[int, ...], random: np.random.Generator) -> list[int]:
    count = int(np.prod(shape[:-1]))
    wanted = min(count, max(ROWS, -(-ELEMENTS // shape[-1])))
    others = random.permutation(count)[:wanted].tolist()
    return list(dict.fromkeys([0, count - 1, *others]))[:wanted]


def _different(found: NDArray[np.float32], expected: NDArray[np.float32]) -> int:
    """How many numbers differ; which NaN it is does not matter."""
    found, expected = found.ravel(), expected.ravel()
    return int(np.sum((found != expected) & ~(np.isnan(found) & np.isnan(expected))))
