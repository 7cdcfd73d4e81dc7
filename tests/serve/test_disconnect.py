"""Clients that go away, over real sockets: their generation ends, whatever it was doing."""

from __future__ import annotations

import asyncio

import pytest

from tests.serve.fake_engine import FakeServer, chat, connected, eventually, fetch

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
def test_a_client_that_leaves_during_prefill(stream: bool, choices: int) -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def scenario() -> str:
        async with server.listening() as listener:
            async with connected(listener, "POST", CHAT, chat("x", stream=stream, n=choices)):
                await eventually(lambda: server.engine.active == choices)
            await eventually(lambda: not server.engine.active)
            return (await fetch(listener, "GET", "/metrics"))[1]

    metrics = asyncio.run(scenario())
    assert server.engine.cancelled == choices
    assert f'outcome="cancelled"}} {choices}.0' in metrics
    assert 'shimmy_requests_active{frontend="openai",model="echo"} 0.0' in metrics


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_in_the_middle(stream: bool) -> None:
    server = FakeServer()
    server.engine.pause_after = 5

    async def scenario() -> None:
        async with server.listening() as listener:
            async with connected(listener, "POST", CHAT, chat("a long one", stream=stream)) as reader:
                await eventually(lambda: server.engine.paused)
                if stream:
                    await reader.readuntil(b'"content":"u"')
            await eventually(lambda: not server.engine.active)
            server.engine.pause_after = None
            assert (await fetch(listener, "POST", CHAT, chat("next")))[0] == 200

    asyncio.run(scenario())
    assert server.engine.cancelled == 1


def test_a_load_goes_on_without_the_client_that_caused_it() -> None:
    server = FakeServer()
    server.engine.loading.clear()

    async def scenario() -> None:
        async with server.listening() as listener:
            async with connected(listener, "POST", CHAT, chat()):
                await eventually(lambda: server.engine.starts)
            server.engine.loading.set()
            assert (await fetch(listener, "POST", CHAT, chat()))[0] == 200

    asyncio.run(scenario())
    assert server.engine.starts == 1


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    server = FakeServer()

    async def scenario() -> None:
        async with server.listening() as listener, connected(listener, "POST", CHAT, chat(stream=True)):
            for _ in range(5):
                assert (await fetch(listener, "POST", CHAT, chat()))[0] == 200

    asyncio.run(scenario())


def test_many_come_and_some_vanish() -> None:
    server = FakeServer()

    async def stay(listener: object, text: str) -> bool:
        _, answer = await fetch(listener, "POST", CHAT, chat(text))
        return f"user: {text}" in answer

    async def vanish(listener: object, text: str) -> None:
        async with connected(listener, "POST", CHAT, chat(text, stream=True)) as reader:
            await reader.readuntil(b'"content":"u"')

    async def scenario() -> list[bool]:
        async with server.listening() as listener:
            leavers = [asyncio.create_task(vanish(listener, f"leaver {i}")) for i in range(50)]
            stayed = await asyncio.gather(*(stay(listener, f"stayer {i}") for i in range(16)))
            await asyncio.gather(*leavers)
            await eventually(lambda: not server.engine.active)
            return stayed

    assert asyncio.run(scenario()) == [True] * 16
