"""Named model shapes, and the tensors and metadata of a model of some shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shimmy.errors import ConfigError, did_you_mean
from shimmy_plugins.commands.bench.families import FAMILIES, Family


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    name: str
    block_count: int
    embedding_length: int
    feed_forward_length: int
    """Of each expert, where there are some."""
    head_count: int
    head_count_kv: int
    vocabulary: int
    context_length: int
    freq_base: float
    tied: bool
    """The output matrix is the token embedding."""
    architecture: str = "llama"
    """One of :data:`~.families.FAMILIES`."""
    key_length: int | None = None
    """Numbers of a head, if heads do not share out the embedding."""
    rotated: int | None = None
    """Of these, the first that are rotated, if not all."""
    experts: int = 0
    experts_used: int = 0

    @property
    def head_dim(self) -> int:
        return self.key_length or self.embedding_length // self.head_count

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192, 1e5, tied=True),
        Shape("smollm2-360m", 32, 960, 2560, 15, 5, 49152, 8192, 1e5, tied=True),
        Shape("smollm2-1.7b", 24, 2048, 8192, 32, 32, 49152, 8192, 1.3e5, tied=True),
        Shape("tinyllama-1.1b", 22, 2048, 5632, 32, 4, 32000, 2048, 1e4, tied=False),
        Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 128256, 131072, 5e5, tied=True),
        Shape("llama-3.2-3b", 28, 3072, 8192, 24, 8, 128256, 131072, 5e5, tied=True),
        Shape("phi-3-mini", 32, 3072, 8192, 32, 32, 32064, 4096, 1e4, tied=False, architecture="phi3"),
        Shape("llama-3.1-8b", 32, 4096, 14336, 32, 8, 128256, 131072, 5e5, tied=False),
        Shape("mistral-7b", 32, 4096, 14336, 32, 8, 32000, 32768, 1e6, tied=False),
        Shape("gpt2", 12, 768, 3072, 12, 12, 50257, 1024, 1e4, tied=True, architecture="gpt2"),
        Shape(
            *("phi-2", 32, 2560, 10240, 32, 32, 51200, 2048, 1e4),
            tied=False,
            architecture="phi2",
            rotated=32,
        ),
        Shape(
            *("starcoder2-3b", 30, 3072, 12288, 24, 2, 49152, 16384, 999999.4),
            tied=True,
            architecture="starcoder2",
        ),
        Shape(
            *("gemma-3-270m", 18, 640, 2048, 4, 1, 262144, 32768, 1e6),
            tied=True,
            architecture="gemma3",
            key_length=256,
        ),
        Shape(
            *("gemma-2-2b", 26, 2304, 9216, 8, 4, 256000, 8192, 1e4),
            tied=True,
            architecture="gemma2",
            key_length=256,
        ),
        Shape("qwen2-7b", 28, 3584, 18944, 28, 4, 152064, 32768, 1e6, tied=False, architecture="qwen2"),
        Shape(
            *("qwen3-30b-a3b", 48, 2048, 768, 32, 4, 151936, 40960, 1e6),
            tied=False,
            architecture="qwen3moe",
            key_length=128,
            experts=128,
            experts_used=8,
        ),
    )
}


def shape_named(name: str) -> Shape:
    """One of :data:`SHAPES`; a ConfigError with near names if there is none."""
    if shape := SHAPES.get(name.lower()):
        return shape
    raise ConfigError(f"--shape names {name!r}, which is no known shape.", hint=did_you_mean(name, SHAPES))


def vectors(shape: Shape) -> Iterator[tuple[str, int]]:
    """Names and lengths of the weights of norms, and of biases."""
    family, hidden = shape.family, shape.embedding_length
    lengths = {name: size[-2] for name, size in matrices(shape)}
    norms = [f"blk.{block}.{norm}" for block in range(shape.block_count) for norm in family.norms]
    for norm in (*norms, "output_norm"):
        yield f"{norm}.weight", hidden
        if family.centred:
            yield f"{norm}.bias", hidden
    if family.head_norms:
        for block in range(shape.block_count):
            yield f"blk.{block}.attn_q_norm.weight", shape.head_dim
            yield f"blk.{block}.attn_k_norm.weight", shape.head_dim
    for name, length in lengths.items():
        matrix = name.removesuffix(".weight")
        if matrix.rpartition(".")[2] in family.biases:
            yield f"{matrix}.bias", length


def matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes (rows, columns), of experts (experts, rows, columns), of all other tensors."""
    hidden = shape.embedding_length
    in_block = _attention(shape) | (_experts(shape) if shape.experts else _feed_forward(shape))
    yield "token_embd.weight", (shape.vocabulary, hidden)
    if shape.family.positions:
        yield "position_embd.weight", (shape.context_length, hidden)
    for block in range(shape.block_count):
        for name, size in in_block.items():
            yield f"blk.{block}.{name}.weight", size
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, hidden)


def _attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden = shape.embedding_length
    q, kv = shape.head_count * shape.head_dim, shape.head_count_kv * shape.head_dim
    parts = {"attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden)}
    if shape.family.merged:
        parts = {"attn_qkv": (q + 2 * kv, hidden)}
    return {**parts, "attn_output": (hidden, q)}


def _feed_forward(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, wide = shape.embedding_length, shape.feed_forward_length
    gate = {"ffn_gate": (wide, hidden)} if shape.family.gate == "own" else {}
    up = 2 * wide if shape.family.gate == "merged" else wide
    return {**gate, "ffn_up": (up, hidden), "ffn_down": (hidden, wide)}


def _experts(shape: Shape) -> dict[str, tuple[int, ...]]:
    count, hidden, wide = shape.experts, shape.embedding_length, shape.feed_forward_length
    return {
        "ffn_gate_inp": (count, hidden),
        "ffn_gate_exps": (count, wide, hidden),
        "ffn_up_exps": (count, wide, hidden),
        "ffn_down_exps": (count, hidden, wide),
    }


def metadata(shape: Shape) -> dict[str, Any]:
    """The metadata of a model of this shape, without its vocabulary."""
    family = shape.family
    sizes = {
        "context_length": shape.context_length,
        "embedding_length": shape.embedding_length,
        "block_count": shape.block_count,
        "feed_forward_length": shape.feed_forward_length,
        "attention.head_count": shape.head_count,
        "attention.head_count_kv": shape.head_count_kv,
        f"attention.layer_norm_{'' if family.centred else 'rms_'}epsilon": 1e-5,
        "vocab_size": shape.vocabulary,
    }
    if not family.positions:
        sizes |= {
            "rope.dimension_count": shape.rotated or shape.head_dim,
            "rope.freq_base": float(shape.freq_base),
        }
    if shape.key_length:
        sizes |= {"attention.key_length": shape.key_length, "attention.value_length": shape.key_length}
    if shape.experts:
        sizes |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.experts_used,
            "expert_feed_forward_length": shape.feed_forward_length,
        }
    own = {f"{shape.architecture}.{key}": value for key, value in (sizes | dict(family.keys)).items()}
    return {"general.architecture": shape.architecture} | own
