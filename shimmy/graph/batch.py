"""What a graph runs on: a batch of tokens from several sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. Rows of a sequence are adjacent, their positions ascend by one; T rows, R outputs."""

    tokens: NDArray[np.int32]
    """(T,) token ids."""
    positions: NDArray[np.int32]
    """(T,) position of each token in its sequence, from 0."""
    slots: NDArray[np.int32]
    """(T,) row of ``block_tables`` that belongs to the token's sequence."""
    block_tables: NDArray[np.int32]
    """(S, B) ids of the KV blocks of each sequence; entries past its length are not read."""
    outputs: NDArray[np.int32]
    """(R,) ascending rows of the step whose logits are wanted."""
