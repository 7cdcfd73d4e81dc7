"""One shape per API for every error: status, code and parameter, whatever went wrong where.

The OpenAI routes answer {"error": {message, type, param, code}}, shimmy's own {"error": message, param,
code}, and everything else as OpenAI without ``type``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shimmy import hookimpl
from shimmy.errors import OutOfMemoryError, WorkerDiedError
from shimmy.plugins import load_plugins
from shimmy.server import app as app_module
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer, chat

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/api/generate"
LONG = "x" * 300


def request(server: FakeServer, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""

    async def send() -> tuple[int, Any, Any]:
        async with server.app.test_app() as running:
            response = await running.test_client().open(path, method=method, **options)
            assert response.content_type == "application/json"
            return response.status_code, await response.get_json(), response.headers

    return asyncio.run(send())


def check(
    server: FakeServer, method: str, path: str, status: int, code: str, **options: Any
) -> dict[str, Any]:
    """Assert an error of the right shape; its members."""
    found, body, _ = request(server, method, path, **options)
    if path.startswith(("/api", "/ws")):
        assert set(body) == {"error", "param", "code"}
        error: dict[str, Any] = {**body, "message": body["error"]}
    else:
        members = {"message", "param", "code"} | ({"type"} if path.startswith("/v1") else set())
        assert set(body) == {"error"}
        error = body["error"]
        assert set(error) == members
    assert (found, error["code"]) == (status, code)
    if "type" in error:
        assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", CHAT, chat(model="ecko"), 404, "model_not_found", "model"),
        ("GET", "/v1/models/ecko", None, 404, "model_not_found", "model"),
        ("POST", CHAT, chat(temperature=3), 400, "invalid_request", "temperature"),
        ("POST", CHAT, {}, 400, "invalid_request", "messages"),
        ("POST", CHAT, chat(tools=[{"type": "function"}]), 400, "invalid_request", "tools"),
        ("POST", CHAT, chat(LONG), 400, "context_length_exceeded", "prompt"),
        ("POST", CHAT, chat("x" * 2**20), 400, "context_length_exceeded", "prompt"),
        ("POST", CHAT, chat(max_tokens=1000), 400, "context_length_exceeded", "max_tokens"),
        ("POST", CHAT, chat(logit_bias={"999": 1}), 400, "invalid_request", "logit_bias"),
        ("POST", CHAT, chat(logit_bias={"x": 1}), 400, "invalid_request", "logit_bias"),
        ("POST", CHAT, chat([{"type": "image_url"}]), 400, "invalid_request", "messages[0].content[0]"),
        ("POST", COMPLETIONS, {"prompt": ""}, 400, "invalid_request", "prompt"),
        ("POST", COMPLETIONS, {"prompt": [1, 999]}, 400, "invalid_request", "prompt"),
        ("POST", COMPLETIONS, {"prompt": ["x"] * 129}, 400, "invalid_request", "prompt"),
        ("POST", COMPLETIONS, {"prompt": "x" * 2**20}, 400, "context_length_exceeded", "prompt"),
        ("POST", COMPLETIONS, {"prompt": "x", "echo": True}, 400, "invalid_request", "echo"),
        ("POST", GENERATE, {"prompt": "hi", "model": "ecko"}, 404, "model_not_found", "model"),
        ("POST", GENERATE, {"prompt": "hi", "top_p": 2}, 400, "invalid_request", "top_p"),
        ("POST", GENERATE, {"prompt": LONG}, 400, "context_length_exceeded", "prompt"),
        ("POST", GENERATE, {"prompt": "hi", "tools": [{}]}, 400, "invalid_request", "tools"),
        ("GET", GENERATE, None, 405, "method_not_allowed", None),
        ("POST", "/api/chat", {}, 404, "route_not_found", None),
        ("GET", "/ws/generate", None, 426, "wrong_protocol", None),
        ("GET", CHAT, None, 405, "method_not_allowed", None),
        ("POST", "/v1/embeddings", {}, 404, "route_not_found", None),
        ("GET", "/nowhere", None, 404, "route_not_found", None),
        ("POST", "/health", {}, 405, "method_not_allowed", None),
    ],
)
def test_requests_that_cannot_be_served(
    method: str, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    assert check(FakeServer(), method, path, status, code, json=body)["param"] == param


def test_streams_are_refused_before_they_begin() -> None:
    check(FakeServer(), "POST", CHAT, 400, "context_length_exceeded", json=chat(LONG, stream=True))


def test_unknown_models_get_near_names() -> None:
    error = check(FakeServer(), "POST", CHAT, 404, "model_not_found", json=chat(model="ecko"))
    assert "'echo'" in error["message"]


def test_context_errors_have_both_counts() -> None:
    error = check(FakeServer(), "POST", CHAT, 400, "context_length_exceeded", json=chat("hi", max_tokens=500))
    for count in ("9 tokens in the prompt", "500 requested", "200 tokens", "509"):
        assert count in error["message"]


def test_other_than_json() -> None:
    check(FakeServer(), "POST", CHAT, 400, "invalid_request", data="not json")


def test_models_without_a_template_do_not_chat() -> None:
    error = check(FakeServer(template=None), "POST", CHAT, 400, "template_error", json=chat())
    assert "completion route" in error["message"]
    assert request(FakeServer(template=None), "POST", COMPLETIONS, json={"prompt": "hi"})[0] == 200


def test_templates_may_refuse_messages() -> None:
    server = FakeServer(template="{{ raise_exception('roles must alternate') }}")
    error = check(server, "POST", CHAT, 400, "template_error", json=chat())
    assert "roles must alternate" in error["message"]


def test_bodies_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_BODY_BYTES", 1000)
    check(FakeServer(), "POST", CHAT, 413, "request_too_large", json=chat("x" * 2000))


def test_wrong_methods_are_told_the_right_ones() -> None:
    _, _, headers = request(FakeServer(), "GET", CHAT)
    assert "POST" in headers["Allow"]


def test_strangers_are_refused_in_the_same_shape() -> None:
    check(FakeServer(), "POST", CHAT, 403, "forbidden", json=chat(), headers={"Host": "evil.example"})
    check(FakeServer(), "GET", "/health", 403, "forbidden", headers={"Origin": "https://evil.example"})


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE, "/metrics", "/ws/generate", "/nowhere"])
def test_whoever_has_no_key_is_refused_in_the_same_shape(path: str) -> None:
    """Whatever there is behind the door, or not."""
    server = FakeServer(settings=Settings(api_key="right"))
    check(server, "POST", path, 401, "invalid_api_key", json={})


def test_watching_needs_no_key() -> None:
    server = FakeServer(settings=Settings(api_key="right"))
    assert request(server, "GET", "/health")[0] == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
def test_bodies_that_are_no_json(path: str) -> None:
    check(FakeServer(), "POST", path, 400, "invalid_request", data="[" * 100_000)


@pytest.mark.parametrize("stream", [False, True])
def test_models_that_cannot_be_loaded(stream: bool) -> None:
    server = FakeServer()
    server.engine.load_error = OutOfMemoryError("needs 9 GiB, has 8 GiB.")
    check(server, "POST", CHAT, 507, "out_of_memory", json=chat(stream=stream))


def test_engines_that_die() -> None:
    server = FakeServer()
    server.engine.fails = (0, WorkerDiedError("gone.", hint="Send it again."))
    error = check(server, "POST", CHAT, 503, "engine_died", json=chat())
    assert error["message"] == "gone. Send it again."


def test_bugs_tell_nothing_of_themselves(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.engine.fails = (0, ValueError("secret prompt"))
    error = check(server, "POST", CHAT, 500, "internal_error", json=chat())
    assert "secret" not in error["message"] + caplog.text
    assert "ValueError" in caplog.text


def test_hook_handle_error() -> None:
    """A plugin's answer replaces the frontend's."""

    class Teapot:
        @hookimpl
        def handle_error(self, error: Exception) -> Any:
            return {"teapot": type(error).__name__}, 418

    server = FakeServer(plugins=load_plugins(extra=[Teapot()]))
    assert request(server, "GET", "/nowhere")[:2] == (418, {"teapot": "NotFound"})
