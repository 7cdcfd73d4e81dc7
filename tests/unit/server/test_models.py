"""The model pool: shared loads, room, eviction, failure, the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shimmy import hookimpl
from shimmy.errors import EngineError, ShimmyError
from shimmy.events import ModelLoaded, ModelUnloaded
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.server.adapters import AdapterPool
from shimmy.server.errors import StoppingError
from shimmy.server.models import ModelPool
from tests.serve.fake_engine import FakeServer, eventually

NAMES = ("a", "b", "c")


class Journal:
    """A plugin that notes what it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    @hookimpl
    def model_loaded(self, event: ModelLoaded) -> None:
        self.entries.append(("loaded", event.model))

    @hookimpl
    def model_unloaded(self, event: ModelUnloaded) -> None:
        self.entries.append(("unloaded", event.model))


class Pool:
    """A pool over fake engines, for models a, b and c."""

    def __init__(self, max_loaded: int = 1) -> None:
        self.journal = Journal()
        plugins = load_plugins(PluginChoice(enabled=()), extra=[self.journal])
        self.server = FakeServer(*NAMES, plugins=plugins)
        self.engines = self.server.engines
        self.models = ModelPool(
            plugins,
            max_loaded=max_loaded,
            make_engine=lambda card: self.engines[card.name],
            read_text=lambda card: self.server.text(),
            adapters=AdapterPool(most=2, memory=1 << 20, read_text=lambda card, base: base),
        )

    def card(self, name: str) -> Any:
        return self.server.catalog.get(name)

    def states(self) -> dict[str, str]:
        return {state.name: state.state for state in self.models.states()}


def test_hook_model_loaded_and_one_load_for_all() -> None:
    async def scenario() -> Pool:
        pool = Pool()
        await asyncio.gather(*(pool.models.load(pool.card("a")) for _ in range(5)))
        return pool

    pool = asyncio.run(scenario())
    assert pool.engines["a"].starts == 1
    assert pool.journal.entries == [("loaded", "a")]
    assert pool.states() == {"a": "ready"}


def test_hook_model_unloaded_and_the_longest_unused_goes() -> None:
    async def scenario() -> Pool:
        pool = Pool(max_loaded=2)
        for name in ("a", "b", "a", "c"):
            await pool.models.load(pool.card(name))
        return pool

    pool = asyncio.run(scenario())
    assert pool.states() == {"a": "ready", "c": "ready"}
    assert ("unloaded", "b") in pool.journal.entries
    assert pool.engines["b"].state == "stopped"


def test_a_busy_model_is_not_taken_from_its_users() -> None:
    async def scenario() -> None:
        pool = Pool()
        async with pool.models.use(pool.card("a")):
            waiting = asyncio.create_task(pool.models.load(pool.card("b")))
            await eventually(lambda: pool.states() == {"b": "queued"})
            assert pool.engines["a"].state == "ready"
        await waiting
        assert pool.states() == {"b": "ready"}
        assert pool.engines["a"].state == "stopped"

    asyncio.run(scenario())


def test_a_model_asked_for_while_it_leaves_is_loaded_again() -> None:
    async def scenario() -> Pool:
        pool = Pool()
        async with pool.models.use(pool.card("a")):
            first = asyncio.create_task(pool.models.load(pool.card("b")))
            await eventually(lambda: "b" in pool.states())
            second = asyncio.create_task(pool.models.load(pool.card("a")))
            await eventually(lambda: "a" in pool.states())
        await asyncio.gather(first, second)
        return pool

    pool = asyncio.run(scenario())
    assert pool.states() == {"a": "ready"}
    assert pool.journal.entries == [
        ("loaded", "a"),
        ("unloaded", "a"),
        ("loaded", "b"),
        ("unloaded", "b"),
        ("loaded", "a"),
    ]


def test_idle_models_go_before_busy_ones() -> None:
    async def scenario() -> None:
        pool = Pool(max_loaded=2)
        async with pool.models.use(pool.card("a")):
            await pool.models.load(pool.card("b"))
            await pool.models.load(pool.card("c"))
            assert set(pool.states()) == {"a", "c"}

    asyncio.run(scenario())


def test_failures_are_told_and_the_next_request_tries_again() -> None:
    async def scenario() -> None:
        pool = Pool()
        pool.engines["a"].load_error = EngineError("no.")
        results = await asyncio.gather(
            *(pool.models.load(pool.card("a")) for _ in range(3)), return_exceptions=True
        )
        assert [str(result) for result in results] == ["no."] * 3
        [state] = pool.models.states()
        assert (state.state, str(state.error)) == ("failed", "no.")
        pool.engines["a"].load_error = None
        await pool.models.load(pool.card("a"))
        assert pool.states() == {"a": "ready"}
        assert pool.engines["a"].starts == 2

    asyncio.run(scenario())


def test_a_failed_model_leaves_its_room() -> None:
    async def scenario() -> None:
        pool = Pool()
        pool.engines["a"].load_error = EngineError("no.")
        with pytest.raises(EngineError):
            await pool.models.load(pool.card("a"))
        await pool.models.load(pool.card("b"))
        assert pool.states() == {"a": "failed", "b": "ready"}

    asyncio.run(scenario())


def test_unload() -> None:
    async def scenario() -> Pool:
        pool = Pool()
        await pool.models.load(pool.card("a"))
        await pool.models.unload("a", "asked to")
        await pool.models.unload("a", "twice is nothing")
        return pool

    pool = asyncio.run(scenario())
    assert pool.states() == {}
    assert pool.journal.entries == [("loaded", "a"), ("unloaded", "a")]


def test_draining_refuses_new_requests_and_waits_for_running_ones() -> None:
    async def scenario() -> None:
        pool = Pool()
        async with pool.models.use(pool.card("a")):
            draining = asyncio.create_task(pool.models.drain(60))
            await asyncio.sleep(0)
            with pytest.raises(StoppingError):
                await pool.models.load(pool.card("a"))
            assert not draining.done()
        await draining
        await pool.models.close()
        assert pool.engines["a"].state == "stopped"

    asyncio.run(scenario())


def test_draining_has_an_end() -> None:
    async def scenario() -> None:
        pool = Pool()
        async with pool.models.use(pool.card("a")):
            await pool.models.drain(0.01)

    asyncio.run(scenario())


def test_closing_while_loading() -> None:
    async def scenario() -> None:
        pool = Pool()
        pool.engines["a"].loading.clear()
        load = asyncio.create_task(pool.models.load(pool.card("a")))
        await eventually(lambda: pool.engines["a"].starts)
        await pool.models.close()
        with pytest.raises(StoppingError):
            await load
        assert pool.journal.entries == []

    asyncio.run(scenario())


def test_a_bug_while_loading_is_a_failed_load(caplog: pytest.LogCaptureFixture) -> None:
    """Known by its name only: the message of an unforeseen error may hold anything."""

    async def scenario() -> None:
        pool = Pool()
        pool.engines["a"].load_error = ValueError("secret")
        with pytest.raises(ShimmyError, match="internal error"):
            await pool.models.load(pool.card("a"))
        assert pool.states() == {"a": "failed"}
        assert pool.models.loaded("a") is None

    asyncio.run(scenario())
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_loaded() -> None:
    async def scenario() -> None:
        pool = Pool()
        assert pool.models.loaded("a") is None
        pool.engines["a"].loading.clear()
        loading = asyncio.create_task(pool.models.load(pool.card("a")))
        await eventually(lambda: pool.engines["a"].starts)
        assert pool.models.loaded("a") is None
        pool.engines["a"].loading.set()
        model = await loading
        assert pool.models.loaded("a") is model

    asyncio.run(scenario())
