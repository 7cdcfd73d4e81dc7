"""Ops on rows of many forms, each as a small graph and the steps it is tried in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Value
from shimmy.graph.scaling import PLAIN, RopeScaling, Yarn
from shimmy.testing.plans import FLAT
from shimmy.testing.steps import Part, batch_of
from shimmy.testing.weights import AFFINE, Affine, MadeUpWeights, affine, floats

Random: TypeAlias = np.random.Generator
Layout: TypeAlias = Affine | str
Build: TypeAlias = Callable[[Graph], Value]


@dataclass(frozen=True, slots=True)
class Trial:
    """A graph whose last node is the op, and steps that follow each other."""

    weights: MadeUpWeights
    build: Build
    steps: Sequence[Batch]
    scaling: RopeScaling = PLAIN
    tolerance: float = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """An op, in one form or in several that belong together."""

    op: str
    form: str
    trials: Callable[[Random], Iterator[Trial]]

    def __str__(self) -> str:
        return f"{self.op}-{self.form}" if self.form else self.op


#: Tokens of the embeddings that serve as inputs; numbers of tokens in a step.
VOCABULARY = 19
TOKENS = (1, 2, 3, 8, 9)
#: Rows and columns of matrices; floats have rows of any length.
SHAPES = ((3, 32), (15, 96), (16, 256), (17, 32), (48, 96), (17, 512))
ODD_SHAPES = ((16, 7), (17, 33))
LAYOUTS: tuple[Layout, ...] = (*AFFINE, "f32", "f16", "bf16")
#: Layouts of experts: codes with and without offsets, with scales in units, with codebooks, floats.
OF_EXPERTS: tuple[Layout, ...] = (
    *(AFFINE[0], AFFINE[5], AFFINE[7]),
    *(form for form in AFFINE if len(form.codebook) == 16),
    *("f16", "f32"),
)
WIDTHS = (1, 7, 16, 33, 96, 576)


def matrix(rng: Random, rows: int, columns: int, layout: Layout) -> AffineRun | FloatRun:
    """Random weights in a layout."""
    if isinstance(layout, Affine):
        return affine(rng, rows, columns, layout)
    return floats(rng, rows, columns, layout)


def inputs(rng: Random, *widths: int) -> dict[str, FloatRun]:
    """Embeddings a, b, c … that serve as the inputs of an op."""
    return {"abc"[i]: floats(rng, VOCABULARY, width) for i, width in enumerate(widths)}


def steps(rng: Random) -> list[Batch]:
    """A step of each number of tokens."""
    return [batch_of([Part(rng.integers(0, VOCABULARY, n).tolist())], every_row=True) for n in TOKENS]


def _vector(rng: Random, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return rng.normal(size=size).astype(np.float32)


def _flat(g: Graph, x: Value) -> Value:
    """Heads as a row, so that it can be the graph's output."""
    return g.op(FLAT.name, x)


# -- matrices -------------------------------------------------------------------------------------


def _linear(layout: Layout, rng: Random) -> Iterator[Trial]:
    multiple = layout.columns if isinstance(layout, Affine) else 1
    for rows, columns in (*SHAPES, *(ODD_SHAPES if isinstance(layout, str) else ())):
        columns = -(-columns // multiple) * multiple
        weights = MadeUpWeights(**inputs(rng, columns), w=matrix(rng, rows, columns, layout))
        yield Trial(weights, lambda g: g.linear(g.embed("a"), "w"), steps(rng))


def _linear_with_bias(layout: Layout, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, 64), w=matrix(rng, 17, 64, layout))
    weights.with_vectors(w__bias=_vector(rng, 17))
    yield Trial(weights, lambda g: g.linear(g.embed("a"), "w"), steps(rng))


def _tied(rng: Random) -> Iterator[Trial]:
    """One tensor serves as embedding and as matrix."""
    weights = MadeUpWeights(a=affine(rng, VOCABULARY, 64, Affine(8, 32)))
    yield Trial(weights, lambda g: g.linear(g.embed("a"), "missing", tied="a"), steps(rng))


def _embed(layout: Layout, rng: Random) -> Iterator[Trial]:
    """Weights as they are, exactly."""
    weights = MadeUpWeights(a=matrix(rng, 37, 512, layout))
    batch = batch_of([Part(range(37), blocks=[0, 1])], every_row=True)
    yield Trial(weights, lambda g: g.embed("a"), [batch], tolerance=0.0)


def _position_embed(width: int, rng: Random) -> Iterator[Trial]:
    """Rows of the positions, not of the tokens; the first and the last of them."""
    weights = MadeUpWeights(**inputs(rng, width), p=floats(rng, 200, width))
    parts = [Part([1, 2, 3], 0, [0]), Part([4], 199, [0] * 7), Part([5, 6], 31, [0, 1])]
    yield Trial(weights, lambda g: g.embed("a") + g.position_embed("p"), [batch_of(parts, every_row=True)])


# -- rows -----------------------------------------------------------------------------------------


def _norm(op: str, bias: bool, width: int, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, width)).with_vectors(norm__weight=_vector(rng, width))
    if bias:
        weights.with_vectors(norm__bias=_vector(rng, width))
    yield Trial(weights, lambda g: _normed(g, op, g.embed("a"), 1e-5), steps(rng))


def _norm_of_heads(op: str, head_dim: int, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, 3 * head_dim)).with_vectors(norm__weight=_vector(rng, head_dim))
    yield Trial(weights, lambda g: _flat(g, _normed(g, op, g.heads(g.embed("a"), 3), 1e-6)), steps(rng))


def _normed(g: Graph, op: str, x: Value, eps: float) -> Value:
    return g.layer_norm(x, "norm", eps=eps) if op == "layer_norm" else g.rms_norm(x, "norm", eps=eps)


def _row_op(count: int, apply: Callable[..., Value], width: int, rng: Random) -> Iterator[Trial]:
    """An op of so many rows, of numbers and of heads of them."""
    weights = MadeUpWeights(**inputs(rng, *[width] * count))

    def rows(g: Graph) -> list[Value]:
        return [g.embed(name) for name in "abc"[:count]]

    yield Trial(weights, lambda g: apply(g, *rows(g)), steps(rng))
    if width % 3 == 0:
        yield Trial(weights, lambda g: _flat(g, apply(g, *(g.heads(x, 3) for x in rows(g)))), steps(rng))


def _slice(start: int, size: int, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, 96))
    yield Trial(weights, lambda g: g.slice(g.embed("a"), start, size), steps(rng))


def _sigmoid_gate(width: int, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, width, 1))
    yield Trial(weights, lambda g: g.sigmoid_gate(g.embed("a"), g.embed("b")), steps(rng))


def _rope(style: str, head_dim: int, dims: int, scaling: RopeScaling, rng: Random) -> Iterator[Trial]:
    """Two kinds of rotation in one graph: one with the model's scaling, one without."""
    weights = MadeUpWeights(**inputs(rng, 3 * head_dim))
    weights.with_vectors(rope_freqs__weight=rng.uniform(1, 4, dims // 2).astype(np.float32))

    def build(g: Graph) -> Value:
        heads = g.heads(g.embed("a"), 3)
        plain = g.rope(heads, base=10000.0, dims=dims, style=style, scaled=False)
        return _flat(g, plain + g.rope(heads, base=10000.0, dims=dims, style=style))

    parts = [Part([1, 2, 3], 0, [0]), Part([4], 200, [0] * 7), Part([5, 6], 31, [0, 1])]
    yield Trial(weights, build, [batch_of(parts, every_row=True)], scaling)


def _last(rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, 33)).with_vectors(norm__weight=np.ones(33, np.float32))
    batch = batch_of([Part([1, 2, 3]), Part([4]), Part([5, 6])])
    yield Trial(weights, lambda g: g.rms_norm(g.last(g.embed("a")), "norm", eps=1e-5), [batch])


# -- experts --------------------------------------------------------------------------------------


def _top_experts(used: int, normalize: bool, rng: Random) -> Iterator[Trial]:
    weights = MadeUpWeights(**inputs(rng, 11))
    yield Trial(
        weights,
        lambda g: _flat(g, g.top_experts(g.embed("a"), used, normalize=normalize, scale=2.5)),
        steps(rng),
    )


def _experts(layout: Layout, rng: Random) -> Iterator[Trial]:
    """Up, with one row for all chosen experts; down, with a row for each; their weighted sum."""
    multiple = layout.columns if isinstance(layout, Affine) else 1
    for experts, used, width, inner in ((5, 2, 64, 96), (8, 3, 32, 32)):
        width, inner = (-(-n // multiple) * multiple for n in (width, inner))
        up, down = (matrix(rng, experts * r, c, layout) for r, c in ((inner, width), (width, inner)))
        weights = MadeUpWeights(**inputs(rng, width, experts), up=up, down=down)
        weights.stacked(up=experts, down=experts)
        for stop in ("expert_linear", "expert_sum"):
            yield Trial(weights, partial(_mixture, used=used, stop=stop), steps(rng), tolerance=2e-5)


def _mixture(g: Graph, used: int, stop: str) -> Value:
    x = g.embed("a")
    chosen = g.top_experts(g.embed("b"), used, normalize=True)
    y = g.expert_linear(g.expert_linear(x, "up", chosen), "down", chosen)
    return _flat(g, y) if stop == "expert_linear" else g.expert_sum(y, chosen)


#: Ops of one or more rows of the same shape.
_ROW_OPS: dict[str, tuple[int, Callable[..., Value]]] = {
    "add": (2, lambda _g, x, y: x + y),
    "swiglu": (2, lambda g, gate, up: g.swiglu(gate, up)),
    "geglu": (2, lambda g, gate, up: g.geglu(gate, up)),
    "gelu": (1, lambda g, x: g.gelu(x)),
    "scale": (1, lambda g, x: g.scale(x, 0.37)),
    "softcap": (1, lambda g, x: g.softcap(x, 1.5)),
}
_SCALINGS = {
    "factors": RopeScaling(factors="rope_freqs.weight"),
    "yarn": RopeScaling(linear=2.0, yarn=Yarn(4.0, 64.0), magnitude=1.1),
}

#: Every op but attention and adapters, which have tests of their own.
CASES: tuple[Case, ...] = (
    *(Case("linear", str(layout), partial(_linear, layout)) for layout in LAYOUTS),
    *(Case("linear", f"bias {x}", partial(_linear_with_bias, x)) for x in (Affine(4, 32), "f32")),
    Case("linear", "tied", _tied),
    *(Case("embed", str(layout), partial(_embed, layout)) for layout in LAYOUTS),
    *(Case("position_embed", str(width), partial(_position_embed, width)) for width in (33, 64)),
    *(Case("rms_norm", str(width), partial(_norm, "rms_norm", False, width)) for width in WIDTHS),
    *(Case("layer_norm", str(width), partial(_norm, "layer_norm", False, width)) for width in WIDTHS[1:]),
    *(Case("layer_norm", f"bias {width}", partial(_norm, "layer_norm", True, width)) for width in WIDTHS[1:]),
    *(
        Case(op, f"heads of {dim}", partial(_norm_of_heads, op, dim))
        for op in ("rms_norm", "layer_norm")
        for dim in (6, 16, 20)
    ),
    *(
        Case(op, str(width), partial(_row_op, count, apply, width))
        for op, (count, apply) in _ROW_OPS.items()
        for width in (1, 15, 33, 96)
    ),
    *(
        Case("slice", f"{start}+{size}", partial(_slice, start, size))
        for start, size in ((0, 96), (5, 1), (31, 64))
    ),
    *(Case("sigmoid_gate", str(width), partial(_sigmoid_gate, width)) for width in (1, 33, 96)),
    *(
        Case("rope", f"{style} {dims} of {head_dim} {name}", partial(_rope, style, head_dim, dims, scaling))
        for style in ("interleaved", "half")
        for head_dim, dims in ((8, 8), (64, 64), (80, 72), (20, 12), (2, 2))
        for name, scaling in _SCALINGS.items()
    ),
    Case("last", "", _last),
    *(
        Case("top_experts", f"{used}{' normalized' * normalize}", partial(_top_experts, used, normalize))
        for used, normalize in ((1, False), (3, True), (3, False), (11, True))
    ),
    *(Case("experts", str(layout), partial(_experts, layout)) for layout in OF_EXPERTS),
)
