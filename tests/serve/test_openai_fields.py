"""What becomes of the fields of OpenAI requests: those of sampling, and those nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from shimmy.server.reply import IGNORED_HEADER
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer, chat
from tests.serve.test_openai_routes import CHAT, ask, with_client


def test_sampling_fields_reach_the_engine() -> None:
    server = FakeServer()
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"104": -100},
        "seed": 7,
    }
    ask(CHAT, chat("hi", **fields), server)
    [sampling] = server.engine.samplings
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    assert (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (
        1.1,
        0.5,
        -0.5,
    )
    assert sampling.logit_bias == {104: -100.0}
    assert sampling.seed == 7


def test_a_random_seed_is_told() -> None:
    server = FakeServer()

    async def post(client: Client) -> str:
        return str((await client.post(CHAT, json=chat("hi"))).headers["X-Shimmy-Seed"])

    told = asyncio.run(with_client(server, post))
    assert server.engine.samplings[0].seed == int(told)


def _headers(body: dict[str, Any], server: FakeServer | None = None, path: str = CHAT) -> tuple[int, Any]:
    async def post(client: Client) -> tuple[int, Any]:
        response = await client.post(path, json=body)
        return response.status_code, response.headers

    found: tuple[int, Any] = asyncio.run(with_client(server or FakeServer(), post))
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_fields_are_told_in_a_header(stream: bool) -> None:
    body = chat("hi", stream=stream, colour=1, a_b=2) | {"new\r\nline": 3}
    status, headers = _headers(body)
    assert status == 200
    assert headers[IGNORED_HEADER] == "colour, a_b, new%0D%0Aline"
    assert IGNORED_HEADER not in _headers(chat("hi", stream=stream, user="me"))[1]


def test_strict_servers_refuse_unknown_fields_only() -> None:
    def strict() -> FakeServer:
        return FakeServer(settings=Settings(strict=True))

    assert _headers(chat("hi", colour=1), strict())[0] == 400
    known = {"user": "me", "store": True, "metadata": {}, "tools": [], "n": 1, "stream_options": None}
    assert _headers(chat("hi", **known), strict())[0] == 200


def test_defaults_of_file_settings_and_request() -> None:
    server = FakeServer(settings=Settings(sampling={"top_p": 0.5}))
    server.metadata = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_p": 0.9,
        "general.sampling.top_k": 20,
    }
    ask(CHAT, chat("hi", top_k=0), server)
    [sampling] = server.engine.samplings
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.5, 0)
