"""What the kernels of attention have in common: its sizes and rules, and the cache they work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shimmy_plugins.backends.wgpu.kernel import Columns
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS, CHUNK
from shimmy_plugins.backends.wgpu.ops.rope import Rotation


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """An attention op: heads, what scores mean, and where its inputs lie.

    ``q``, ``k`` and ``v`` may be columns of one buffer, which is then bound three times. A result row is
    (heads, v_dim).
    """

    heads: int
    kv_heads: int
    head_dim: int
    """Numbers of a query or key."""
    v_dim: int
    """Numbers of a value."""
    scale: float
    """Factor on scores."""
    window: int | None
    """Positions that a row sees, its own included; None: all."""
    softcap: float | None
    """Scores become softcap * tanh(score / softcap)."""
    rope: Rotation | None
    """How q and k are turned; None: they are turned already, or never."""
    q: Columns
    k: Columns
    v: Columns
    max_ctx: int
    """Most positions of a sequence."""
    q_norm: float | None = None
    k_norm: float | None = None
    """eps of an RMS norm of each head of q, of k, before it is turned; None: there is none."""

    @property
    def per_kv(self) -> int:
        """Query heads that share keys and values."""
        return self.heads // self.kv_heads

    @property
    def k_chunks(self) -> int:
        return -(-self.head_dim // CHUNK)

    @property
    def v_chunks(self) -> int:
        return -(-self.v_dim // CHUNK)

    @property
    def label(self) -> str:
        """What tells it from others, in names of kernels."""
        dims = f"{self.head_dim}" if self.head_dim == self.v_dim else f"{self.head_dim}/{self.v_dim}"
        window = f" window {self.window}" if self.window else ""
        return f"{self.heads}/{self.kv_heads}x{dims}{window}"

    def parameters(self, kv_type: str) -> dict[str, Any]:
        """What the shaders of attention want to know."""
        return {
            "kv_heads": self.kv_heads,
            "per_kv": self.per_kv,
            "head_dim": self.head_dim,
            "v_dim": self.v_dim,
            "k_chunks": self.k_chunks,
            "v_chunks": self.v_chunks,
            "scale": self.scale,
            "window": self.window,
            "softcap": self.softcap,
            "rope": self.rope,
            "norms": {"q": self.q_norm, "k": self.k_norm, "v": None},
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "kv_type": kv_type,
            "block_tokens": BLOCK_TOKENS,
        }


def shares_of(per_kv: int, most: int) -> tuple[int, int]:
    """Workgroups that share out the query heads of a key head; heads of each, at most ``most``."""
    shares = -(-per_kv // most)
    return shares, -(-per_kv // shares)
