"""Comparisons of numbers, with failures that tell how far off they are and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def assert_close(found: F32, expected: F32, tolerance: float = 1e-5, what: str = "the result") -> None:
    """Rows differ by at most ``tolerance`` of the expected row's norm."""
    assert found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}."
    found, expected = (x.reshape(len(x), -1) for x in (found, expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    if not len(errors) or errors.max() <= tolerance:
        return
    row = int(np.nanargmax(errors)) if np.isfinite(errors).any() else 0
    column = int(np.nanargmax(np.abs(found[row] - expected[row]))) if np.isfinite(found[row]).any() else 0
    raise AssertionError(
        f"{what} differs in row {row} of {len(errors)} by {errors[row]:.3g} of its norm, at most "
        f"{tolerance:.3g} is allowed; most in column {column}: found {found[row, column]:.8g}, "
        f"expected {expected[row, column]:.8g}."
    )


def assert_same_bits(found: NDArray[Any], expected: NDArray[Any], what: str = "the result") -> None:
    """Equal bit for bit, -0 unlike +0; which NaN it is does not matter."""
    assert found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}."
    assert found.dtype == expected.dtype, f"{what} is of {found.dtype}, expected {expected.dtype}."
    nan = np.isnan(found) & np.isnan(expected)
    wrong = ~nan & ((found != expected) | (np.signbit(found) != np.signbit(expected)))
    if not wrong.any():
        return
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise AssertionError(
        f"{what} differs in {int(wrong.sum())} of {wrong.size} numbers, first at {at}: "
        f"found {found[at]!r}, expected {expected[at]!r}."
    )
