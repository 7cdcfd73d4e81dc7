"""What becomes of products before they are stored."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: The product is y, or is added to y; y = gelu(product); or y = silu(gate) * up, y = gelu(gate) * up of a
#: matrix whose first half of rows are the gate's, the others those of up.
Ending: TypeAlias = Literal["store", "add", "gelu", "swiglu", "geglu"]

GATED = frozenset(("swiglu", "geglu"))


def width_of(rows: int, ending: Ending) -> int:
    """Columns of y that come of a matrix of so many rows."""
    return rows // 2 if ending in GATED else rows
