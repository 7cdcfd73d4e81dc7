"""Requests on the WGSL engine, with steps in flight, in few blocks: the events of one step at a time."""

from __future__ import annotations

from dataclasses import replace

from shimmy.engine.engine import Engine
from shimmy.engine.protocol import Sampling, Submit, TokenEvent
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests.backend.harness import LIMITS, PLUGINS, compile_with
from tests.zoo import model_path

WAYS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.9, top_p=0.9, seed=5),
    Sampling(temperature=1.2, top_k=30, seed=6, repeat_penalty=1.2, frequency_penalty=0.3),
    Sampling(temperature=0.0, logprobs=2),
    Sampling(temperature=1.5, min_p=0.02, seed=8),
]


def events(gpu: Gpu, ahead: int, kv_blocks: int) -> dict[int, list[TokenEvent]]:
    """What five requests get, of a few at a time."""
    limits = replace(LIMITS, max_sequences=3, step_tokens=24)
    plan = compile_with(WgpuBackend(PLUGINS, gpu), model_path("llama_spm.f16"), limits)
    plan.ahead = ahead
    engine = Engine(plan, context=96, vocabulary=2048, kv_blocks=kv_blocks, max_sequences=3, step_tokens=24)
    for number, way in enumerate(WAYS):
        prompt = [1, *range(40 + number, 65 + number)]
        engine.submit(Submit(number, prompt, 12, way, stop_ids=[2]))
    found: dict[int, list[TokenEvent]] = {}
    while not engine.idle:
        for event in engine.step():
            found.setdefault(event.id, []).append(event)
    return found


def test_steps_in_flight_and_preemption_change_nothing(gpu: Gpu) -> None:
    alone = events(gpu, ahead=1, kv_blocks=64)
    assert [len(alone[number]) for number in range(5)] == [12] * 5
    assert events(gpu, ahead=3, kv_blocks=4) == alone
