"""What clients on other machines are told of a broken file: what is wrong with it, not where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shimmy.errors import AdapterError, GGUFError
from tests.serve.fake_engine import FakeServer
from tests.serve.lora_client import LOCAL, REMOTE, Client, make_server, run

KEY = {"Authorization": "Bearer sesame"}
MIXED = [{"name": "two"}]
ASKS = {
    "native": ("/api/generate", {"model": "two", "prompt": "abc"}),
    "native stream": ("/api/generate", {"model": "echo", "prompt": "abc", "lora": MIXED, "stream": True}),
    "openai": ("/v1/completions", {"model": "two", "prompt": "abc"}),
    "openai stream": ("/v1/completions", {"model": "echo", "prompt": "abc", "lora": MIXED, "stream": True}),
}


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return make_server(tmp_path / "my files", admin_key=SecretStr("sesame"))


@pytest.mark.parametrize("way", ASKS)
def test_broken_adapters(server: FakeServer, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "my files" / "two"

    async def scenario(client: Client) -> None:
        await client.load("two", "two")
        server.context.models.adapters.end("two")
        server.engine.adapter_error = AdapterError(
            f"{folder}/adapter_config.json: r is 'a/b'.", hint=f"See '{folder}'."
        )
        path, body = ASKS[way]
        status, answer = await client.raw("post", path, body, **REMOTE)
        assert "adapter_config.json: r is 'a/b'. See 'two'." in answer
        assert "my files" not in answer
        for options in (LOCAL, {**REMOTE, "headers": KEY}):
            told = await client.raw("post", path, body, **options)
            assert (told[0], f"See '{folder}'." in told[1]) == (status, True)

    run(server, scenario)


@pytest.mark.parametrize("headers", [{}, KEY])
def test_over_websocket(server: FakeServer, tmp_path: Path, headers: dict[str, str]) -> None:
    server.engine.load_error = GGUFError(f"{tmp_path}/x.gguf: ends early.")

    async def scenario(client: Client) -> None:
        async with client.websocket("/ws/generate", headers=headers) as socket:
            await socket.send(json.dumps({"model": "echo", "prompt": "abc"}))
            answer: dict[str, Any] = json.loads(await socket.receive())
        assert answer["error"] == (f"{tmp_path}/" if headers else "") + "x.gguf: ends early."
        assert answer["code"] == "invalid_gguf"

    run(server, scenario)


def test_health(server: FakeServer, tmp_path: Path) -> None:
    server.context.default.error = GGUFError(f"{tmp_path}/x.gguf: ends early.")

    async def scenario(client: Client) -> None:
        for options, shown in ((REMOTE, "x.gguf: ends early."), (LOCAL, f"{tmp_path}/x.gguf: ends early.")):
            assert (await client("get", "/health", **options))[1]["error"]["message"] == shown

    run(server, scenario)
