"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from shimmy import hookimpl
from shimmy.errors import EngineError, GGUFError
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.settings import Settings
from shimmy.specs import MetricSpec
from tests.serve.fake_engine import FakeServer, chat, eventually, facts


async def get(client: Client, path: str) -> tuple[int, Any]:
    response = await client.get(path)
    return response.status_code, await response.get_json()


async def metrics(client: Client) -> dict[str, float]:
    """Samples by name and labels."""
    response = await client.get("/metrics")
    assert response.content_type.startswith("text/plain; version=0.0.4")
    lines = (await response.get_data(as_text=True)).splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_health_tells_the_truth_while_loading() -> None:
    server = FakeServer()
    server.engine.loading.clear()

    async def scenario() -> None:
        async with server.app.test_app() as running:
            client = running.test_client()
            assert (await get(client, "/health"))[1]["status"] == "idle"
            load = asyncio.create_task(server.context.default.load(server.context))
            await eventually(lambda: server.engine.starts)
            status, body = await get(client, "/health")
            assert (status, body["status"]) == (200, "loading")
            assert body["models"] == [
                {"name": "echo", "state": "loading", "progress": {"phase": "weights", "done": 1, "total": 2}}
            ]
            assert (await get(client, "/ready"))[0] == 503
            server.engine.loading.set()
            await load
            status, body = await get(client, "/health")
            assert (status, body["status"]) == (200, "ok")
            assert body["models"][0]["backend"] == "echo"
            assert body["models"][0]["description"] == facts().description
            assert (await get(client, "/ready"))[0] == 200

    asyncio.run(scenario())


def test_health_tells_why_loading_failed_and_the_next_request_tries_again() -> None:
    server = FakeServer()
    server.engine.load_error = GGUFError("broken at byte 7.")

    async def scenario() -> None:
        async with server.app.test_app() as running:
            client = running.test_client()
            with pytest.raises(GGUFError):
                await server.context.default.load(server.context)
            status, body = await get(client, "/health")
            assert (status, body["status"]) == (200, "failed")
            assert body["error"] == {"message": "broken at byte 7.", "code": "invalid_gguf"}
            assert body["models"][0]["error"] == body["error"]
            assert (await get(client, "/ready"))[0] == 503
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 500
            server.engine.load_error = None
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            assert (await get(client, "/ready"))[0] == 200

    asyncio.run(scenario())


def test_health_tells_what_keeps_an_engine_from_coming_back() -> None:
    server = FakeServer()

    async def scenario() -> None:
        async with server.app.test_app() as running:
            client = running.test_client()
            await server.context.default.load(server.context)
            server.engine.state, server.engine.error = "restarting", EngineError("no memory for it.")
            _, body = await get(client, "/ready")
            assert body["status"] == "restarting"
            assert body["models"][0]["error"] == {"message": "no memory for it.", "code": "engine_error"}
            server.engine.state = "ready"
            status, body = await get(client, "/ready")
            assert (status, "error" in body["models"][0]) == (200, False)

    asyncio.run(scenario())


def test_a_loaded_model_is_served_without_its_file(tmp_path: Path) -> None:
    server = FakeServer()
    path = tmp_path / "echo.gguf"
    path.touch()
    server.catalog.cards["echo"] = replace(server.catalog.cards["echo"], path=path)

    async def scenario() -> None:
        async with server.app.test_app() as running:
            client = running.test_client()
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            assert "warning" not in (await get(client, "/health"))[1]["models"][0]
            path.unlink()
            server.catalog.cards.clear()
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            assert (await get(client, "/v1/models/echo"))[0] == 200
            assert [model["id"] for model in (await get(client, "/v1/models"))[1]["data"]] == ["echo"]
            status, body = await get(client, "/ready")
            assert status == 200
            assert "its file is gone" in body["models"][0]["warning"]

    asyncio.run(scenario())


def test_metrics() -> None:
    server = FakeServer()

    async def scenario() -> dict[str, float]:
        async with server.app.test_app() as running:
            client = running.test_client()
            assert (await metrics(client))["shimmy_models_loaded"] == 0
            await client.post("/v1/chat/completions", json=chat("hi"))
            await client.post("/v1/chat/completions", json=chat("hi", max_tokens=2))
            return await metrics(client)

    found = asyncio.run(scenario())
    by = 'frontend="openai",model="echo"'
    assert found[f'shimmy_requests_total{{{by},outcome="stop"}}'] == 1
    assert found[f'shimmy_requests_total{{{by},outcome="length"}}'] == 1
    assert found[f"shimmy_prompt_tokens_total{{{by}}}"] == 18
    assert found[f"shimmy_completion_tokens_total{{{by}}}"] == 11
    assert found[f"shimmy_requests_active{{{by}}}"] == 0
    assert found[f"shimmy_request_duration_seconds_count{{{by}}}"] == 2
    assert found[f"shimmy_time_to_first_token_seconds_count{{{by}}}"] == 2
    assert found["shimmy_models_loaded"] == 1
    assert found['shimmy_kv_blocks_total{model="echo"}'] == 64
    assert found['shimmy_sequences_running{model="echo"}'] == 0
    assert found['shimmy_memory_bytes{process="server"}'] > 1e6


def test_hook_register_metrics(caplog: pytest.LogCaptureFixture) -> None:
    """Plugins' numbers are shown; one that cannot be read hides no other."""

    class Numbers:
        @hookimpl
        def register_metrics(self, register: Any) -> None:
            register(MetricSpec("moons", "gauge", "Moons of Mars.", lambda: 2))
            register(MetricSpec("broken", "gauge", "Never works.", lambda: 1 / 0))
            register(MetricSpec("orbits", "counter", "Orbits.", lambda: 5))

    server = FakeServer(plugins=load_plugins(extra=[Numbers()]))

    async def scenario() -> dict[str, float]:
        async with server.app.test_app() as running:
            return await metrics(running.test_client())

    found = asyncio.run(scenario())
    assert found["shimmy_moons"] == 2
    assert found["shimmy_orbits_total"] == 5
    assert "shimmy_broken" not in found
    assert "'broken'" in caplog.text


def _statuses(server: FakeServer) -> tuple[int, int]:
    async def scenario() -> tuple[int, int]:
        async with server.app.test_app() as running:
            client = running.test_client()
            return (await client.get("/health")).status_code, (await client.get("/v1/models")).status_code

    return asyncio.run(scenario())


def test_naming_frontends_keeps_ops_on() -> None:
    assert _statuses(FakeServer()) == (200, 200)
    assert _statuses(FakeServer(settings=Settings(frontends=("openai",)))) == (200, 200)
    assert _statuses(FakeServer(settings=Settings(frontends=("ops",)))) == (200, 404)


def test_ops_goes_with_its_plugin() -> None:
    plugins = load_plugins(PluginChoice(disabled=("frontend-ops",)))
    assert _statuses(FakeServer(plugins=plugins)) == (404, 200)


def test_two_servers_count_by_themselves() -> None:
    async def scenario() -> tuple[dict[str, float], dict[str, float]]:
        one, two = FakeServer(), FakeServer()
        async with one.app.test_app() as running, two.app.test_app() as other:
            await running.test_client().post("/v1/chat/completions", json=chat("hi"))
            return await metrics(running.test_client()), await metrics(other.test_client())

    counted, empty = asyncio.run(scenario())
    assert any(name.startswith("shimmy_requests_total") for name in counted)
    assert not any(name.startswith("shimmy_requests_total") for name in empty)
