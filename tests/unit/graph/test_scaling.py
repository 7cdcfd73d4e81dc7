"""What a file says of its rope scaling, read; and how the graph builder hands it to rotations."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shimmy.errors import GGUFError, GraphError
from shimmy.graph.builder import Graph
from shimmy.graph.ops import CORE_OPS
from shimmy.graph.scaling import PLAIN, RopeScaling, Yarn, read_scaling
from tests.unit.graph.tensors import Tensors

FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def read(*tensors: str, context: int = 4096, **keys: Any) -> RopeScaling:
    """The scaling of a model of 4,096 positions; ``keys`` are below ``rope.scaling``."""
    metadata = {f"x.rope.scaling.{key}": value for key, value in keys.items()}
    return read_scaling({"x.context_length": 4096, **metadata}, "x", Tensors(*tensors), context)


@pytest.mark.parametrize(
    ("keys", "tensors", "expected", "kind"),
    [
        ({}, (), PLAIN, "none"),
        ({"original_context_length": 1024}, (), PLAIN, "none"),
        ({"type": "none", "factor": 4.0}, (), PLAIN, "none"),
        ({"factor": 4.0}, (), RopeScaling(linear=4.0), "linear"),
        ({"type": "linear", "factor": 4}, (), RopeScaling(linear=4.0), "linear"),
        ({"type": "linear"}, (), PLAIN, "none"),
        ({"factor": 0.0}, (), PLAIN, "none"),
        ({"attn_factor": 1.25}, (), RopeScaling(magnitude=1.25), "none"),
        ({}, (FREQS,), RopeScaling(factors=FREQS), "llama3"),
        ({"type": "llama3"}, (FREQS,), RopeScaling(factors=FREQS), "llama3"),
        ({"type": "linear", "factor": 2.0}, (FREQS,), RopeScaling(2.0, FREQS), "llama3+linear"),
        ({}, (FREQS, LONG, SHORT), RopeScaling(factors=FREQS), "llama3"),
        ({"type": "yarn", "factor": 2.0}, (), RopeScaling(yarn=Yarn(2.0, 4096)), "yarn"),
        ({"type": "yarn", "original_context_length": 1024}, (), RopeScaling(yarn=Yarn(4.0, 1024)), "yarn"),
        ({"type": "yarn", "factor": 2.0, "yarn_ext_factor": 0.0}, (), RopeScaling(linear=2.0), "linear"),
        (
            {
                "type": "yarn",
                "factor": 2.0,
                "yarn_beta_fast": 16,
                "yarn_beta_slow": 0,
                "yarn_ext_factor": 0.5,
            },
            (),
            RopeScaling(yarn=Yarn(2.0, 4096, beta_fast=16.0, beta_slow=1.0, kept_share=0.5)),
            "yarn",
        ),
        (
            {"type": "yarn", "factor": 2.0, "yarn_attn_factor": 1.0, "attn_factor": 1.5, "finetuned": True},
            (),
            RopeScaling(yarn=Yarn(2.0, 4096), magnitude=1.5),
            "yarn",
        ),
    ],
)
def test_kinds(keys: dict[str, Any], tensors: tuple[str, ...], expected: RopeScaling, kind: str) -> None:
    found = read(*tensors, **keys)
    assert found == expected
    assert found.kind == kind


def test_the_older_name_of_the_linear_factor() -> None:
    assert read_scaling({"x.rope.scale_linear": 4.0}, "x", Tensors(), 512) == RopeScaling(linear=4.0)


def test_longrope_chooses_by_context() -> None:
    keys = {"type": "longrope", "original_context_length": 1024}
    magnitude = math.sqrt(1 + math.log(4) / math.log(1024))
    assert read(LONG, SHORT, context=1024, **keys) == RopeScaling(1.0, SHORT, None, magnitude, longrope=True)
    assert read(LONG, SHORT, context=1025, **keys) == RopeScaling(1.0, LONG, None, magnitude, longrope=True)
    assert read(LONG, SHORT, attn_factor=1.1, **keys).magnitude == 1.1


def test_temperature() -> None:
    assert Yarn(4.0, 1024).magnitude == pytest.approx(0.1 * math.log(4) + 1)
    assert Yarn(0.5, 1024).magnitude == 1.0
    assert Yarn(4.0, 1024, log_multiplier=1.0).magnitude == 1.0
    assert Yarn(4.0, 1024, attention=0.7).magnitude == 0.7


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "yarm"}, "'x.rope.scaling.type' is 'yarm', .* Did you mean 'yarn'"),
        ({"type": "dynamic"}, "'dynamic', which shimmy does not know"),
        ({"type": 3}, "'x.rope.scaling.type' is int 3, expected str"),
        ({"type": "llama3"}, "'llama3', but the file has no tensor 'rope_freqs.weight'"),
        ({"type": "longrope"}, "needs .* the tensor 'rope_factors_short.weight'"),
        ({"factor": -1.0}, "'x.rope.scaling.factor' is -1.0, expected a finite number"),
        ({"type": "yarn", "factor": math.nan}, "'x.rope.scaling.factor' is nan"),
        ({"type": "yarn", "yarn_beta_fast": math.inf}, "yarn_beta_fast' is inf"),
        ({"type": "yarn", "original_context_length": -5}, "original_context_length' is -5"),
    ],
)
def test_what_cannot_be_honoured_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(GGUFError, match=words):
        read(**keys)


def test_yarn_that_does_not_say_from_where() -> None:
    with pytest.raises(GGUFError, match="does not say by what factor"):
        read_scaling({"x.rope.scaling.type": "yarn"}, "x", Tensors(), 512)


def test_stretched_keeps_what_the_model_is() -> None:
    trained = RopeScaling(linear=2.0, factors=FREQS, magnitude=1.5)
    assert trained.stretched(3.0, 1024) == RopeScaling(2.0, FREQS, Yarn(3.0, 512), 1.5)
    again = RopeScaling(yarn=Yarn(2.0, 1024, beta_fast=16.0, attention=1.1)).stretched(4.0, 1024)
    assert again == RopeScaling(yarn=Yarn(4.0, 1024, beta_fast=16.0))
    assert again.stretched(1.0, 1024) == PLAIN


def test_every_rotation_follows_unless_it_opts_out() -> None:
    scaling = RopeScaling(factors=FREQS, yarn=Yarn(2.0, 1024))
    graph = Graph(Tensors(FREQS, "token_embd.weight", shape=(16, 64)), CORE_OPS, scaling)
    heads = graph.heads(graph.embed("token_embd"), 2)
    graph.rope(heads, base=1e4, dims=32, style="half", scaled=False)
    local = graph.nodes[-1]
    assert (local.attrs["scaling"], local.weights) == (PLAIN, {})
    with pytest.raises(GraphError, match=r"rope_1: 16 frequency factors are needed"):
        graph.rope(heads, base=1e4, dims=32, style="half")


@pytest.mark.parametrize("base", [1.0, 0.0, -5.0, math.nan, math.inf])
def test_a_base_that_is_none(base: float) -> None:
    graph = Graph(Tensors("token_embd.weight", shape=(16, 64)))
    heads = graph.heads(graph.embed("token_embd"), 2)
    with pytest.raises(GraphError, match="base of rotations is .* above 1"):
        graph.rope(heads, base=base, dims=32, style="half")
