"""Which context a model is loaded with: native, asked for, stretched, or what memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from shimmy.engine.context import Context, check_positions, choose_context, fit_context
from shimmy.engine.load import automatic_kv_memory
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, GGUFError, OutOfMemoryError
from shimmy.graph.builder import Graph
from shimmy.graph.scaling import PLAIN, RopeScaling, Yarn
from tests.unit.engine.fake_plan import FakePlan
from tests.unit.graph.tensors import Tensors

FREQS = "rope_freqs.weight"
LONGROPE = ("rope_factors_long.weight", "rope_factors_short.weight")
YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 256, "yarn_attn_factor": 1.1}
TRAINED = Yarn(4.0, 256, attention=1.1)


def choose(
    max_ctx: int | None = None,
    rope_scale: float | None = None,
    tensors: Sequence[str] = (),
    native: int | None = 1024,
    **scaling: Any,
) -> Context:
    """For a model of ``native`` positions; ``scaling`` are keys below ``rope.scaling``."""
    metadata = {f"x.rope.scaling.{key}": value for key, value in scaling.items()}
    if native:
        metadata["x.context_length"] = native
    settings = EngineSettings(max_ctx=max_ctx, rope_scale=rope_scale)
    return choose_context(settings, native, metadata, "x", Tensors(*tensors))


@pytest.mark.parametrize(
    ("max_ctx", "rope_scale", "positions", "yarn"),
    [
        (None, None, 1024, None),
        (512, None, 512, None),
        (1024, None, 1024, None),
        (1025, None, 1025, Yarn(1025 / 1024, 1024)),
        (2048, None, 2048, Yarn(2.0, 1024)),
        (131072, None, 131072, Yarn(128.0, 1024)),
        (2048, 4.0, 2048, Yarn(4.0, 1024)),
        (512, 4.0, 512, Yarn(4.0, 1024)),
        (None, 4.0, 4096, Yarn(4.0, 1024)),
        (None, 2.5, 2560, Yarn(2.5, 1024)),
        (2048, 1.0, 2048, None),
        (None, 1.0, 1024, None),
    ],
)
def test_a_plain_model(
    max_ctx: int | None, rope_scale: float | None, positions: int, yarn: Yarn | None
) -> None:
    found = choose(max_ctx, rope_scale)
    assert (found.positions, found.native, found.scaling) == (positions, 1024, RopeScaling(yarn=yarn))
    assert found.explicit == (max_ctx is not None)
    assert found.stretched == (yarn is not None)


@pytest.mark.parametrize(
    ("max_ctx", "rope_scale", "positions", "yarn"),
    [
        (None, None, 1024, TRAINED),
        (512, None, 512, TRAINED),
        (2048, None, 2048, Yarn(8.0, 256)),
        (2048, 16.0, 2048, Yarn(16.0, 256)),
        (None, 8.0, 2048, Yarn(8.0, 256)),
        (None, 1.0, 256, None),
    ],
)
def test_a_model_that_yarn_has_stretched(
    max_ctx: int | None, rope_scale: float | None, positions: int, yarn: Yarn | None
) -> None:
    """Factors count from its original context, and its own magnitude belongs to its own factor."""
    found = choose(max_ctx, rope_scale, **YARN)
    assert (found.positions, found.scaling) == (positions, RopeScaling(yarn=yarn))


def test_other_scalings_stay_below_yarn() -> None:
    assert choose(2048, tensors=[FREQS]).scaling == RopeScaling(factors=FREQS, yarn=Yarn(2.0, 1024))
    linear = choose(2048, type="linear", factor=4.0).scaling
    assert linear == RopeScaling(linear=4.0, yarn=Yarn(2.0, 256))
    assert (linear.kind, linear.factor) == ("linear+yarn", 8.0)


def test_longrope_is_served_as_it_is_and_not_stretched() -> None:
    keys = {"original_context_length": 512}
    assert choose(tensors=LONGROPE, **keys).scaling.factors == LONGROPE[0]
    assert choose(512, tensors=LONGROPE, **keys).scaling.factors == LONGROPE[1]
    assert choose(1024, 1.0, tensors=LONGROPE, **keys).scaling.longrope
    for settings in ((2048, None), (None, 2.0)):
        with pytest.raises(ConfigError, match="LongRoPE .* its 1024 positions already. Set max_ctx"):
            choose(*settings, tensors=LONGROPE, **keys)


def test_a_file_that_does_not_say_its_context() -> None:
    assert choose(native=None).positions == 512
    assert choose(2048, 1.0, native=None).positions == 2048
    with pytest.raises(ConfigError, match="no 'x.context_length', .* Set rope_scale to 1"):
        choose(2048, native=None)
    with pytest.raises(GGUFError, match="'dynamic'"):
        choose(type="dynamic")


def graph_of(*, rotary: bool, scaling: RopeScaling = PLAIN, scaled: bool = True) -> Graph:
    graph = Graph(Tensors("token_embd.weight", shape=(16, 64)), scaling=scaling)
    heads = graph.heads(graph.embed("token_embd"), 2)
    if rotary:
        graph.rope(heads, base=1e4, dims=32, style="half", scaled=scaled)
    return graph


@pytest.mark.parametrize("settings", [(2048, None), (2048, 1.0), (None, 2.0)])
def test_learned_positions_cannot_be_stretched(settings: tuple[int | None, float | None]) -> None:
    context = choose(*settings)
    check_positions(context, graph_of(rotary=True, scaling=context.scaling))
    check_positions(choose(1024), graph_of(rotary=False))
    with pytest.raises(ConfigError, match="needs rotary positions, .* learned its 1024 positions"):
        check_positions(context, graph_of(rotary=False))


def test_fewer_learned_positions_than_the_file_says() -> None:
    graph = Graph(Tensors("position_embd.weight", shape=(600, 64)))
    graph.position_embed("position_embd")
    check_positions(choose(600), graph)
    with pytest.raises(ConfigError, match="'position_embd.weight' has 600. Set max_ctx to at most 600"):
        check_positions(choose(), graph)


def test_rotations_that_all_opt_out_do_not_follow() -> None:
    context = choose(2048)
    with pytest.raises(ConfigError, match="needs rotary positions"):
        check_positions(context, graph_of(rotary=True, scaling=context.scaling, scaled=False))


class Plan(FakePlan):
    """1 KiB per position."""

    block_tokens = 32
    block_bytes = 32 << 10


@pytest.mark.parametrize(
    ("kv_memory", "explicit", "context"),
    [(1 << 20, False, 1024), (1 << 20, True, 1024), (600 << 10, False, 576), (512 << 10, False, 512)],
)
def test_memory_has_its_say(kv_memory: int, explicit: bool, context: int) -> None:
    assert fit_context(Plan(), replace(choose(), explicit=explicit), kv_memory) == context


@pytest.mark.parametrize(
    ("kv_memory", "explicit", "words"),
    [
        (
            600 << 10,
            True,
            r"of 1024 needs 1 MiB of KV cache \(1.0 KiB per token\), .* context of 576",
        ),
        (100 << 10, False, "Raise kv_memory to 1 MiB, for a context of 512"),
    ],
)
def test_too_little_memory_shows_the_arithmetic(kv_memory: int, explicit: bool, words: str) -> None:
    with pytest.raises(OutOfMemoryError, match=words):
        fit_context(Plan(), replace(choose(), explicit=explicit), kv_memory)


def test_on_a_gpu_too_little_memory_may_be_helped_by_the_machine_s() -> None:
    plan = Plan()
    plan.device_memory = 1 << 20
    with pytest.raises(OutOfMemoryError) as caught:
        fit_context(plan, choose(), 100 << 10)
    assert "lower gpu_layers" in (caught.value.hint or "")


def test_settings_that_leave_room_for_a_context_are_named() -> None:
    class Advising(Plan):
        def settings_for(self, positions: int) -> str:
            return f"gpu_layers to {positions // 100}"

    for automatic in (True, False):
        with pytest.raises(OutOfMemoryError) as caught:
            fit_context(Advising(), replace(choose(), explicit=True), 600 << 10, automatic=automatic)
        advice = "Or set gpu_layers to 10: the CPU computes the rest from the machine's memory."
        assert (advice in (caught.value.hint or "")) == automatic


def test_the_kv_cache_takes_a_share_of_the_memory_it_lies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimmy.engine.load.available_memory", lambda: 1000)
    plan = FakePlan()
    assert automatic_kv_memory(plan) == 500
    plan.mapped_bytes = 200
    assert automatic_kv_memory(plan) == 400
    plan.device_memory = 100
    assert automatic_kv_memory(plan) == 80
