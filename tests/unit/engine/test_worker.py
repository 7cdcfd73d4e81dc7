"""The worker process and its client: real processes, a real (tiny) model, real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shimmy.engine.client import EngineClient
from shimmy.engine.protocol import Sampling
from shimmy.engine.settings import EngineSettings
from shimmy.errors import GGUFError, OutOfMemoryError, RequestError, WorkerDiedError
from tests import zoo

MODEL = zoo.model_path("llama_spm.f16")
REFERENCE = EngineSettings(backend="reference")
GREEDY = Sampling(temperature=0.0)


def prompts() -> list[tuple[list[int], list[int]]]:
    """(prompt ids, the 48 greedy ids transformers gives) of the reference file."""
    reference = zoo.reference("llama_spm")
    answers = reference["transformers_f32"]["prompts"]
    return [(p["ids"], answers[p["id"]]["greedy_ids"]) for p in reference["prompts"]]


@asynccontextmanager
async def running(settings: EngineSettings = REFERENCE, model: Path = MODEL) -> AsyncIterator[EngineClient]:
    client = EngineClient("tiny", model, settings)
    try:
        yield client
    finally:
        await client.close()


async def answer(client: EngineClient, tokens: list[int], count: int) -> tuple[list[int], str | None]:
    got: list[int] = []
    finish = None
    async for events in client.generate(tokens, max_tokens=count, sampling=GREEDY, stop_ids=[]):
        got += [event.token for event in events if event.token is not None]
        finish = events[-1].finish
    return got, finish


async def first_events(client: EngineClient, tokens: list[int], count: int) -> None:
    """Take one wake-up's events of a long request, then go away."""
    stream = client.generate(tokens, max_tokens=count, sampling=GREEDY, stop_ids=[])
    async for _ in stream:
        break
    await stream.aclose()


def test_answers_side_by_side_equal_the_references() -> None:
    async def scenario() -> None:
        async with running() as client:
            ready = await client.start()
            assert (ready.architecture, ready.backend, ready.precision) == ("llama", "reference", "f32")
            answers = await asyncio.gather(*(answer(client, ids, 48) for ids, _ in prompts()))
            assert [tokens for tokens, _ in answers] == [wanted for _, wanted in prompts()]
            assert {finish for _, finish in answers} == {"length"}

    asyncio.run(scenario())


def test_a_client_that_goes_away_cancels_its_request() -> None:
    async def scenario() -> None:
        async with running() as client:
            ids, wanted = prompts()[0]
            await first_events(client, ids, 900)
            assert await answer(client, ids, 8) == (wanted[:8], "length")
            assert client.stats is not None
            assert client.stats.kv_blocks_used == 0
            assert client.stats.running == 0

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_worker_fails_its_requests_and_serves_the_next() -> None:
    async def scenario() -> None:
        async with running() as client:
            ids, wanted = prompts()[0]
            await client.start()
            first = client.pid
            assert first
            doomed = asyncio.create_task(answer(client, ids, 900))
            while client.stats is None:
                await asyncio.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(WorkerDiedError, match="signal 9"):
                await doomed
            assert client.state == "restarting"
            assert await answer(client, ids, 8) == (wanted[:8], "length")
            assert client.pid != first

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_replacement_that_dies_too_is_replaced_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running() as client:
            await client.start()
            first = client.pid
            assert first
            os.kill(first, signal.SIGKILL)
            while client.pid in (None, first):
                await asyncio.sleep(0.01)
            assert client.pid
            os.kill(client.pid, signal.SIGKILL)
            while client.state != "ready":  # nobody asks for it
                await asyncio.sleep(0.01)
            ids, wanted = prompts()[0]
            assert await answer(client, ids, 4) == (wanted[:4], "length")

    asyncio.run(scenario())
    assert "cannot be started again" in caplog.text
    assert "signal 9" in caplog.text


def test_the_worker_ends_with_its_client() -> None:
    async def scenario() -> int:
        async with running() as client:
            await client.start()
            assert client.pid
            return client.pid

    pid = asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("settings", "model", "error", "words"),
    [
        (EngineSettings(backend="reference"), zoo.FOLDER / "README.md", GGUFError, "magic"),
        (EngineSettings(backend="reference"), zoo.FOLDER / "none.gguf", GGUFError, "no such file"),
        (
            EngineSettings(backend="reference", max_ctx=1024, kv_memory=1 << 20),
            MODEL,
            OutOfMemoryError,
            "context of 1024 needs 3 MiB .* kv_memory is 1 MiB",
        ),
        (EngineSettings(backend="refrence"), MODEL, Exception, "Did you mean 'reference'"),
    ],
)
def test_a_load_that_fails_says_why(
    settings: EngineSettings, model: Path, error: type[Exception], words: str
) -> None:
    async def scenario() -> None:
        async with running(settings, model) as client:
            with pytest.raises(error, match=words):
                await client.start()
            assert client.state == "failed"

    asyncio.run(scenario())


def test_a_request_that_can_never_run_is_refused_alone() -> None:
    async def scenario() -> None:
        async with running() as client:
            ids, wanted = prompts()[0]
            with pytest.raises(RequestError, match="token id 99999"):
                await answer(client, [99999], 4)
            assert await answer(client, ids, 4) == (wanted[:4], "length")

    asyncio.run(scenario())


def test_context_is_what_fits_when_none_is_asked_for() -> None:
    async def scenario() -> None:
        settings = EngineSettings(backend="reference", kv_memory=600 * 3072)
        async with running(settings) as client:
            ready = await client.start()
            assert ready.native_context == 1024
            assert 512 <= ready.context <= 600

    asyncio.run(scenario())
