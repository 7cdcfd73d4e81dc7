"""Named model shapes, and the tensors and metadata of a model of some shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shimmy.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model of the architecture ``llama``."""

    name: str
    block_count: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    vocabulary: int
    context_length: int
    freq_base: float
    tied: bool
    """The output matrix is the token embedding."""

    @property
    def head_dim(self) -> int:
        return self.embedding_length // self.head_count


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192, 1e5, tied=True),
        Shape("smollm2-360m", 32, 960, 2560, 15, 5, 49152, 8192, 1e5, tied=True),
        Shape("smollm2-1.7b", 24, 2048, 8192, 32, 32, 49152, 8192, 1.3e5, tied=True),
        Shape("tinyllama-1.1b", 22, 2048, 5632, 32, 4, 32000, 2048, 1e4, tied=False),
        Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 128256, 131072, 5e5, tied=True),
        Shape("llama-3.2-3b", 28, 3072, 8192, 24, 8, 128256, 131072, 5e5, tied=True),
        Shape("phi-3-mini", 32, 3072, 8192, 32, 32, 32064, 4096, 1e4, tied=False),
        Shape("llama-3.1-8b", 32, 4096, 14336, 32, 8, 128256, 131072, 5e5, tied=False),
        Shape("mistral-7b", 32, 4096, 14336, 32, 8, 32000, 32768, 1e6, tied=False),
    )
}


def shape_named(name: str) -> Shape:
    """One of :data:`SHAPES`; a ConfigError with near names if there is none."""
    if shape := SHAPES.get(name.lower()):
        return shape
    raise ConfigError(f"--shape names {name!r}, which is no known shape.", hint=did_you_mean(name, SHAPES))


def vectors(shape: Shape) -> Iterator[tuple[str, int]]:
    """Names and lengths of the norms."""
    for block in range(shape.block_count):
        yield f"blk.{block}.attn_norm.weight", shape.embedding_length
        yield f"blk.{block}.ffn_norm.weight", shape.embedding_length
    yield "output_norm.weight", shape.embedding_length


def matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes (rows, columns) of all other tensors."""
    hidden, wide = shape.embedding_length, shape.feed_forward_length
    kv = shape.head_count_kv * shape.head_dim
    in_block = {
        "attn_q": (hidden, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (wide, hidden),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
    }
    yield "token_embd.weight", (shape.vocabulary, hidden)
    for block in range(shape.block_count):
        for name, size in in_block.items():
            yield f"blk.{block}.{name}.weight", size
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, hidden)


def metadata(shape: Shape) -> dict[str, Any]:
    """The metadata of a model of this shape, without its vocabulary."""
    sizes = {
        "context_length": shape.context_length,
        "embedding_length": shape.embedding_length,
        "block_count": shape.block_count,
        "feed_forward_length": shape.feed_forward_length,
        "attention.head_count": shape.head_count,
        "attention.head_count_kv": shape.head_count_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": float(shape.freq_base),
        "vocab_size": shape.vocabulary,
    }
    return {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in sizes.items()}
