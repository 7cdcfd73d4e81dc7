"""Adapters in the engine and its worker: versions, places, and answers that are each adapter's own."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from shimmy.engine.adapters import lora_rows
from shimmy.engine.client import EngineClient
from shimmy.engine.engine import Engine
from shimmy.engine.protocol import Sampling, Submit
from shimmy.engine.settings import EngineSettings
from shimmy.errors import AdapterError, EngineError, RequestError, WorkerDiedError
from tests.unit.engine.fake_plan import VOCABULARY, FakePlan, expected
from tests.zoo import LORA, adapter_reference, model_path

GREEDY = Sampling(temperature=0.0)
ROBOT, QK = LORA / "llama_spm_robot", LORA / "llama_spm_qk"
#: Exact arithmetic, as the references have it.
SETTINGS = EngineSettings(backend="cpu", precision="f32", threads=2, kv_memory=64 << 20, max_adapters=64)


def make_engine(plan: FakePlan, places: int = 2) -> Engine:
    return Engine(
        plan, context=64, vocabulary=VOCABULARY, kv_blocks=64, max_sequences=8, step_tokens=16,
        kept_blocks=32, adapter_places=places,
    )  # fmt: skip


def finish(engine: Engine) -> list[int]:
    tokens = []
    while not engine.idle:
        tokens += [event.token for event in engine.step() if event.token is not None]
    return tokens


def test_a_request_keeps_the_version_it_began_with() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    engine.adapters.put(7, {})
    engine.submit(Submit(1, [1, 2, 3], 5, GREEDY, adapters=[(7, 1.0)]))
    engine.step()
    engine.adapters.forget(7)
    engine.adapters.put(8, {})
    assert list(plan.adapters) == [0, 1]
    with pytest.raises(EngineError, match="adapter 7 is not loaded"):
        engine.submit(Submit(2, [1, 2, 3], 5, GREEDY, adapters=[(7, 1.0)]))
    with pytest.raises(EngineError, match="all 2 places for adapters are taken"):
        engine.adapters.put(9, {})
    finish(engine)
    assert list(plan.adapters) == [1]
    assert all(step.lora is not None and set(step.lora.adapters.tolist()) == {0} for step in plan.steps)


def test_cancelled_requests_give_their_adapters_back() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    engine.adapters.put(7, {})
    engine.submit(Submit(1, [1, 2, 3], 5, GREEDY, adapters=[(7, 1.0)]))
    engine.adapters.forget(7)
    engine.cancel(1)
    assert not plan.adapters


def test_too_many_and_twice() -> None:
    engine = make_engine(FakePlan(), places=8)
    for adapter in range(5):
        engine.adapters.put(adapter, {})
    for wanted in ([(1, 1.0), (1, 0.5)], [(adapter, 1.0) for adapter in range(5)]):
        with pytest.raises(RequestError, match="expected at most 4 different ones"):
            engine.submit(Submit(1, [1], 1, GREEDY, adapters=wanted))
    assert engine.idle


def test_a_step_without_adapters_says_so() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    engine.submit(Submit(1, [1, 2, 3], 2, GREEDY))
    assert finish(engine) == expected([1, 2, 3], 2)
    assert all(step.lora is None for step in plan.steps)


def test_prompts_share_blocks_only_under_the_same_adapters() -> None:
    engine = make_engine(FakePlan())
    engine.adapters.put(3, {})
    prompt = list(range(20))
    reused = []
    for number, adapters in enumerate([[], [], [(3, 1.0)], [(3, 1.0)], [(3, 0.5)], []]):
        engine.submit(Submit(number, prompt, 1, GREEDY, adapters=adapters))
        reused.append(sum(event.reused for event in engine.step() + engine.step()))
        finish(engine)
    assert [bool(count) for count in reused] == [False, True, False, True, False, True]


def test_entries_are_ordered_by_place_then_row() -> None:
    rows = lora_rows([(2, ((1, 0.5),)), (1, ()), (2, ((0, 1.0), (1, 2.0)))])
    assert rows is not None
    assert rows.adapters.tolist() == [0, 0, 1, 1, 1, 1]
    assert rows.rows.tolist() == [3, 4, 0, 1, 3, 4]
    assert rows.scales.tolist() == [1.0, 1.0, 0.5, 0.5, 2.0, 2.0]


async def answer(client: EngineClient, prompt: list[int], adapters: list[tuple[int, float]]) -> list[int]:
    got: list[int] = []
    stream = client.generate(prompt, max_tokens=24, sampling=GREEDY, stop_ids=[], adapters=adapters)
    async for events in stream:
        got += [event.token for event in events if event.token is not None]
    return got


def answers(reference: str, key: str) -> dict[str, list[int]]:
    return {name: row["greedy_ids"][:24] for name, row in adapter_reference(reference)[key].items()}


def test_many_clients_while_adapters_are_replaced() -> None:
    """16 clients, two adapters and the base at random; versions come and go; every answer is its own."""
    prompts = {p["id"]: p["ids"] for p in adapter_reference("llama_spm_robot")["prompts"]}
    wanted = {
        ROBOT: answers("llama_spm_robot", "transformers_peft_f32"),
        QK: answers("llama_spm_qk", "transformers_peft_f32"),
        None: answers("llama_spm_robot", "without_adapter"),
    }
    random.seed(1)

    async def scenario() -> None:
        client = EngineClient("tiny", model_path("llama_spm.f16"), SETTINGS)
        current = {path: (await client.load_adapter(path)).id for path in (ROBOT, QK)}
        done = 0

        async def ask() -> None:
            nonlocal done
            for _ in range(6):
                path: Path | None = random.choice(list(wanted))  # type: ignore[arg-type]
                name = random.choice(list(prompts))
                adapters = [(current[path], 1.0)] if path else []
                assert await answer(client, prompts[name], adapters) == wanted[path][name]
                done += 1

        async def replace() -> None:
            while done < 80:
                path = random.choice(list(current))
                old, current[path] = current[path], (await client.load_adapter(path)).id
                client.unload_adapter(old)
                await asyncio.sleep(0.02)

        await asyncio.gather(replace(), *(ask() for _ in range(16)))
        assert done == 96
        await client.close()

    asyncio.run(scenario())


def test_a_broken_adapter_leaves_the_worker_serving() -> None:
    async def scenario() -> None:
        client = EngineClient("tiny", model_path("llama_spm.f16"), SETTINGS)
        for folder in sorted((LORA / "invalid").iterdir()):
            with pytest.raises(AdapterError, match=folder.name):
                await client.load_adapter(folder)
        prompt = adapter_reference("llama_spm_qk")["prompts"][0]
        loaded = await client.load_adapter(QK)
        expected_ids = answers("llama_spm_qk", "transformers_peft_f32")[prompt["id"]]
        assert await answer(client, prompt["ids"], [(loaded.id, 1.0)]) == expected_ids
        assert (loaded.rank, loaded.modules) == (4, 6)
        await client.close()

    asyncio.run(scenario())


def test_a_worker_that_dies_has_no_adapters() -> None:
    async def scenario() -> None:
        client = EngineClient("tiny", model_path("llama_spm.f16"), SETTINGS)
        loaded = await client.load_adapter(QK)
        assert client.adapters == {loaded.id}
        assert client._process is not None
        client._process.kill()
        with pytest.raises(WorkerDiedError):
            await answer(client, [1, 2, 3] * 100, [(loaded.id, 1.0)])
        assert not client.adapters
        await client.close()

    asyncio.run(scenario())


def test_one_more_than_may_stay_is_read_and_one_that_nobody_waits_for_any_more_is_gone() -> None:
    async def scenario() -> None:
        settings = replace(SETTINGS, max_adapters=1)
        client = EngineClient("tiny", model_path("llama_spm.f16"), settings)
        before = await client.load_adapter(ROBOT)
        for _ in range(3):
            task = asyncio.create_task(client.load_adapter(QK))
            while not client._loading_adapters:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        beside = await client.load_adapter(QK)
        assert client.adapters == {before.id, beside.id}
        with pytest.raises(EngineError, match="all 2 places for adapters are taken"):
            await client.load_adapter(QK)
        await client.close()

    asyncio.run(scenario())


def test_limits() -> None:
    async def scenario() -> None:
        settings = EngineSettings(backend="reference", max_lora_rank=7, kv_memory=64 << 20)
        client = EngineClient("tiny", model_path("llama_spm.f16"), settings)
        with pytest.raises(AdapterError, match="has rank 8, at most 7 is allowed"):
            await client.load_adapter(ROBOT)
        await client.load_adapter(QK)
        await client.close()
        client = EngineClient("tiny", model_path("llama_spm.f16"), EngineSettings(lora_memory=1000))
        with pytest.raises(AdapterError, match=r"takes at least 0\.0 MiB, at most 0\.0 MiB are allowed"):
            await client.load_adapter(QK)
        await client.close()

    asyncio.run(scenario())
