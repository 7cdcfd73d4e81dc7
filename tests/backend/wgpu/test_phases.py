"""On the GPU a row's bits depend on its phase and position, for any number of rows beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Plan
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests.backend.harness import F32, LIMITS, PLUGINS, Part, batch_of, compile_with, rows_of
from tests.zoo import model_path

SEQUENCES = 9
#: Tokens of the prompts: less than a tile, more than one, more than two pieces of attention.
LENGTHS = [3, 33, 150, 64, 65, 20, 1, 128, 7]
BLOCKS = 6
PLAN_LIMITS = replace(LIMITS, max_ctx=192, max_sequences=SEQUENCES, step_tokens=160)


@pytest.fixture(
    params=[
        ("llama_spm", "f32", "f32"),
        ("llama_spm", "int8", "f16"),
        pytest.param(("gemma2", "int8", "f16"), marks=pytest.mark.full),
        pytest.param(("qwen3moe", "int8", "f16"), marks=pytest.mark.full),
    ],
    ids="-".join,
)
def plan(request: pytest.FixtureRequest, gpu: Gpu) -> Iterator[Plan]:
    model, precision, kv_type = request.param
    limits = replace(PLAN_LIMITS, precision=precision, kv_type=kv_type)
    plan = compile_with(WgpuBackend(PLUGINS, gpu), model_path(f"{model}.q4_k_m"), limits)
    plan.reserve(SEQUENCES * BLOCKS)
    yield plan
    plan.close()


def part(sequence: int, start: int, count: int) -> Part:
    """Some of the tokens of a sequence."""
    tokens = np.random.default_rng(sequence).integers(3, 2000, 192)[start : start + count]
    blocks = range(sequence * BLOCKS, (sequence + 1) * BLOCKS)
    return Part([int(token) for token in tokens], start, blocks)


def run(plan: Plan, generated: Sequence[Part], prompts: Sequence[Part]) -> F32:
    """The logits of the last row of each part."""
    return rows_of(plan, replace(batch_of([*generated, *prompts]), generated=len(generated)))


def test_alone_or_with_others(plan: Plan):
    prompts = [part(i, 0, length) for i, length in enumerate(LENGTHS)]
    alone = [run(plan, [], [prompt])[0] for prompt in prompts]
    # Each in a step with another, and in chunks of any size.
    for i, length in enumerate(LENGTHS):
        beside = [part(i, 0, length), part((i + 1) % SEQUENCES, 0, min(LENGTHS[(i + 1) % SEQUENCES], 9))]
        np.testing.assert_array_equal(run(plan, [], beside)[0], alone[i])
        for chunk in (1, 5) if length < 40 else (33, 64):
            for start in range(0, length, chunk):
                found = run(plan, [], [part(i, start, min(chunk, length - start))])
            np.testing.assert_array_equal(found[0], alone[i])


def test_generated_alone_or_with_others(plan: Plan):
    for i, length in enumerate(LENGTHS):
        run(plan, [], [part(i, 0, length)])
    rows = [part(i, length, 1) for i, length in enumerate(LENGTHS)]
    alone = np.concatenate([run(plan, [row], []) for row in rows])
    for count in range(2, SEQUENCES + 1):
        np.testing.assert_array_equal(run(plan, rows[:count], []), alone[:count])
    # In another order, and with a prompt that is read meanwhile.
    order = [8, 2, 5, 0]
    found = run(plan, [rows[i] for i in order], [part(7, 0, 50)])
    np.testing.assert_array_equal(found[:-1], alone[order])
