"""The NumPy definitions of mixtures of experts (Shazeer et al. 2017, arXiv:1701.06538).

Each token is computed by some of many feed-forward networks. ``chosen``, (T, 2, used), says by which:
row 0 has their numbers, as floats, row 1 their weights. One row is computed like any other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def top_experts(logits: F32, *, used: int, normalize: bool, scale: float) -> F32:
    """(T, 2, used), the largest logit first, of equal ones the lower number.

    Weights are softmax over all experts; if ``normalize``, divided by the sum of the chosen ones'.
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    numbers = np.argsort(-logits, axis=1, kind="stable")[:, :used]
    best = np.take_along_axis(weights, numbers, axis=1)
    if normalize:
        best = best / best.sum(axis=1, keepdims=True)
    return np.stack([numbers.astype(np.float32), best * np.float32(scale)], axis=1)


def expert_linear(x: F32, chosen: F32, *, weight: F32) -> F32:
    """(T, used, rows) of x (T, columns) or (T, used, columns) and weight (experts, rows, columns)."""
    numbers = chosen[:, 0].astype(int)
    if x.ndim == 2:
        x = np.broadcast_to(x[:, None], (*numbers.shape, x.shape[1]))
    y = np.empty((*numbers.shape, weight.shape[1]), np.float32)
    for row, experts in enumerate(numbers):
        for at, expert in enumerate(experts):
            y[row, at] = weight[expert] @ x[row, at]
    return y


def expert_sum(y: F32, chosen: F32) -> F32:
    """(T, n) of y (T, used, n): added in the order of ``chosen``."""
    total = np.zeros((len(y), y.shape[2]), np.float32)
    for at in range(y.shape[1]):
        total += chosen[:, 1, at, None] * y[:, at]
    return total
