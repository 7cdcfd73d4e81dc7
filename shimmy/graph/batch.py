"""What a graph runs on: a batch of tokens from several sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LoraRows:
    """Which adapters act on which rows of a step: E entries, a row once for each of its adapters.

    Entries are ordered by adapter, then by row, so that a row's sum does not depend on its batch.
    """

    rows: NDArray[np.int32]
    """(E,) row of the step."""
    adapters: NDArray[np.int32]
    """(E,) ascending places of adapters in the plan, from 0."""
    scales: NDArray[np.float32]
    """(E,) factor on top of the adapter's own."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. Rows of a sequence are adjacent, their positions ascend by one; T rows, R outputs.

    A row is of the *prompt* or the *generated* phase, by its position: a generated token's own row is of
    the latter. For plans that tell them apart no sequence has rows of both in one step.
    """

    tokens: NDArray[np.int32]
    """(T,) token ids. ``-1 - k`` is the token chosen for output row k of the step submitted just before,
    which need not be known yet; plans with ``ahead`` = 1 see none. If that row chose no token (its logits
    were not numbers) any will do: what comes of it is dropped."""
    positions: NDArray[np.int32]
    """(T,) position of each token in its sequence, from 0."""
    slots: NDArray[np.int32]
    """(T,) row of ``block_tables`` that belongs to the token's sequence."""
    block_tables: NDArray[np.int32]
    """(S, B) ids of the KV blocks of each sequence; entries past its length are not read."""
    outputs: NDArray[np.int32]
    """(R,) ascending rows of the step whose logits are wanted."""
    lora: LoraRows | None = None
    """None: no row has an adapter, and the step costs what it costs without any."""
    generated: int = 0
    """Rows before this one are generated, of a sequence each; those from it on are parts of prompts, or,
    for plans that do not tell phases apart, of what a sequence computes again."""
