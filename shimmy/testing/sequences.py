"""Attention over made-up queries, keys and values, and a small layer around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Value
from shimmy.testing.plans import graph_of
from shimmy.testing.steps import Part, batch_of
from shimmy.testing.weights import AFFINE, MadeUpWeights, affine, floats

VOCABULARY = 40


@dataclass(frozen=True)
class Attention:
    """Sizes and rules of an attention, in a model of nothing else."""

    heads: int = 4
    kv_heads: int = 4
    key_dim: int = 64
    value_dim: int = 64
    window: int | None = None
    softcap: float | None = None

    def weights(self) -> MadeUpWeights:
        """Embeddings a, b, c that serve as queries, keys and values."""
        rng = np.random.default_rng(12)
        sizes = self.heads * self.key_dim, self.kv_heads * self.key_dim, self.kv_heads * self.value_dim
        return MadeUpWeights(**{n: floats(rng, VOCABULARY, s) for n, s in zip("abc", sizes, strict=True)})

    def graph(self, weights: MadeUpWeights) -> Graph:
        """Two layers that read the same rows with different scales; their sum."""

        def build(g: Graph) -> Value:
            q = g.heads(g.embed("a"), self.heads)
            k, v = (g.heads(g.embed(name), self.kv_heads) for name in "bc")
            first, second = (
                g.attention(q, k, v, layer=i, scale=scale, window=self.window, softcap=self.softcap)
                for i, scale in enumerate((self.key_dim**-0.5, 0.3))
            )
            return g.last(first + second)

        return graph_of(weights, build)


#: What the conformance kit tries; few, for each is compiled.
SHAPES = (
    *(Attention(heads, kv_heads, dim, dim) for heads, kv_heads, dim in ((4, 4, 64), (6, 2, 80), (6, 2, 96))),
    *(Attention(2, 1, dim, dim) for dim in (128, 256)),
    *(Attention(6, 3, 48, 16), Attention(5, 1, 20, 20)),
    *(
        Attention(6, 2, window=5),
        Attention(6, 2, 20, 20, softcap=2.0),
        Attention(4, 1, window=33, softcap=0.5),
    ),
)


def tokens(count: int, seed: int = 0) -> list[int]:
    """Any tokens; the same ones each time."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCABULARY, count)]


def continued_steps() -> Iterator[Batch]:
    """Sequences side by side, blocks out of order, positions continuing, block borders crossed."""
    for parts in _continued():
        yield batch_of(parts, every_row=True)


def _continued() -> Iterator[Sequence[Part]]:
    yield [Part(tokens(40), 0, [5, 2])]
    yield [Part(tokens(24), 40, [5, 2]), Part(tokens(1), 0, [7])]
    yield [Part(tokens(1), 64, [5, 2, 0]), Part(tokens(33), 1, [7, 1]), Part(tokens(2), 0, [3])]
    yield [Part(tokens(1), 65, [5, 2, 0]), Part(tokens(1), 34, [7, 1]), Part(tokens(1), 2, [3])]


def small_layer() -> tuple[MadeUpWeights, Graph]:
    """A layer as models have them: norm, products of codes, rotations, grouped attention, feed-forward."""
    rng = np.random.default_rng(13)
    sizes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "gate": (96, 64), "up": (96, 64)}
    matrices = {name: affine(rng, *size, AFFINE[0]) for name, size in (sizes | {"down": (64, 96)}).items()}
    weights = MadeUpWeights(a=floats(rng, VOCABULARY, 64), head=floats(rng, VOCABULARY, 64), **matrices)
    weights.with_vectors(norm__weight=np.ones(64, np.float32))

    def build(g: Graph) -> Value:
        x = g.embed("a")
        y = g.rms_norm(x, "norm", eps=1e-5)
        q, k, v = (g.heads(g.linear(y, name), heads) for name, heads in (("q", 4), ("k", 2), ("v", 2)))
        q, k = (g.rope(each, base=10000.0, dims=16, style="half") for each in (q, k))
        x = x + g.linear(g.attention(q, k, v, layer=0, scale=0.25), "o")
        y = g.rms_norm(x, "norm", eps=1e-5)
        x = x + g.linear(g.swiglu(g.linear(y, "gate"), g.linear(y, "up")), "down")
        return g.linear(g.rms_norm(g.last(x), "norm", eps=1e-5), "head")

    return weights, graph_of(weights, build)
