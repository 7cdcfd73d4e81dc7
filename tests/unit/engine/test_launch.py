"""Workers that are started before anyone wants them."""

from __future__ import annotations

import asyncio

import pytest

from shimmy.engine.client import EngineClient
from shimmy.engine.launch import Workers, early_start
from shimmy.engine.settings import EngineSettings
from tests.zoo import model_path

SETTINGS = EngineSettings(backend="reference")


def test_the_first_engine_takes_the_worker_that_waits() -> None:
    with early_start() as early:

        async def scenario() -> tuple[int | None, int | None]:
            assert early.workers._spare
            waiting = early.workers._spare.pid
            client = EngineClient("tiny", model_path("llama_spm.q4_0"), SETTINGS, early.workers)
            await client.start()
            taken = client.pid
            await client.close()
            return waiting, taken

        waiting, taken = early.runner.run(scenario())
    assert waiting == taken


def test_the_second_gets_one_of_its_own() -> None:
    async def scenario() -> None:
        workers = Workers()
        await workers.prepare()
        first, second = await workers.take(), await workers.take()
        assert first.pid != second.pid
        for process in (first, second):
            process.kill()
            await process.wait()

    asyncio.run(scenario())


def test_a_worker_that_has_died_waiting_is_not_given_out() -> None:
    async def scenario() -> None:
        workers = Workers()
        await workers.prepare()
        assert workers._spare
        dead = workers._spare
        dead.kill()
        await dead.wait()
        process = await workers.take()
        assert process.pid != dead.pid
        process.kill()
        await process.wait()

    asyncio.run(scenario())


def test_a_worker_nobody_takes_ends_with_the_block() -> None:
    with early_start() as early:
        assert early.workers._spare
        spare = early.workers._spare
        assert spare.returncode is None
    assert spare.returncode is not None


def test_a_system_that_starts_no_process_says_so_when_one_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_command: str, **_pipes: int) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)

    async def scenario() -> None:
        workers = Workers()
        await workers.prepare()
        with pytest.raises(OSError, match="no more"):
            await workers.take()
        await workers.close()

    asyncio.run(scenario())
