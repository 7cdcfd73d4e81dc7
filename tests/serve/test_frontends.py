"""APIs brought by plugins, and the hooks that report what a server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from quart import Blueprint

from shimmy import hookimpl
from shimmy.errors import PluginError, RequestError, ShimmyError
from shimmy.events import RequestFinished, RequestStarted
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.server.context import ServerContext
from shimmy.settings import Settings
from shimmy.specs import FrontendSpec
from tests.serve.fake_engine import FakeServer, chat


class Shouting:
    """An API of a third party: one route, errors in capitals."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("shouting", __name__)

        @routes.get("/shout/<name>")
        async def shout(name: str) -> dict[str, str]:
            if name == "nothing":
                raise RequestError("say something.")
            return {"says": (await context.find_model(name)).name.upper()}

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return {"oh no": str(error).upper()}

    def example(self, url: str, model: Any) -> None:
        return None


class Plugin:
    """Brings :class:`Shouting` under the given routes, and notes what is reported."""

    def __init__(self, *routes: str) -> None:
        self.routes = routes
        self.events: list[Any] = []

    @hookimpl
    def register_api_frontends(self, register: Callable[[FrontendSpec], None]) -> None:
        register(FrontendSpec("shouting", self.routes, Shouting))

    @hookimpl
    def server_started(self, context: ServerContext) -> None:
        self.events.append(("started", type(context)))

    @hookimpl
    def server_stopping(self, context: ServerContext) -> None:
        self.events.append(("stopping", context.models.stopping))

    @hookimpl
    def request_started(self, event: RequestStarted) -> None:
        self.events.append(event)

    @hookimpl
    def request_finished(self, event: RequestFinished) -> None:
        self.events.append(event)


def _get(plugin: Plugin, *paths: str) -> list[tuple[int, Any]]:
    server = FakeServer(plugins=load_plugins(extra=[plugin]))

    async def scenario() -> list[tuple[int, Any]]:
        async with server.app.test_app() as running:
            answers = [await running.test_client().get(path) for path in paths]
            return [(answer.status_code, await answer.get_json()) for answer in answers]

    return asyncio.run(scenario())


def test_hook_register_api_frontends() -> None:
    """A third party's routes and error shape stand beside the built-in ones."""
    found, refused, unknown, elsewhere = _get(
        Plugin("GET /shout/{name}"), "/shout/echo", "/shout/nothing", "/shout/a/b", "/v1/nothing"
    )
    assert found == (200, {"says": "ECHO"})
    assert refused == (400, {"oh no": "SAY SOMETHING."})
    assert unknown[0] == 404
    assert set(unknown[1]) == {"oh no"}
    assert set(elsewhere[1]) == {"error"}


def test_two_claims_to_a_route_are_a_start_up_error() -> None:
    with pytest.raises(PluginError, match="POST /v1/completions"):
        FakeServer(plugins=load_plugins(extra=[Plugin("POST /v1/completions")]))


def test_routes_that_were_not_declared_are_a_start_up_error() -> None:
    with pytest.raises(PluginError, match="frontend shouting serves 'GET /shout/<name>', which is none"):
        FakeServer(plugins=load_plugins(extra=[Plugin("GET /whisper/{name}")]))


def test_a_frontend_that_cannot_be_mounted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Shouting, "blueprint")
    with pytest.raises(
        PluginError, match=r"frontend shouting cannot be mounted: AttributeError: .*blueprint"
    ):
        FakeServer(plugins=load_plugins(extra=[Plugin("GET /shout/{name}")]))


def _events(server: FakeServer, body: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with server.app.test_app() as running:
            await running.test_client().post("/v1/chat/completions", json=body)

    asyncio.run(scenario())


def test_hook_server_started() -> None:
    plugin = Plugin("GET /shout/{name}")
    _get(plugin)
    assert plugin.events[0] == ("started", ServerContext)


def test_hook_server_stopping() -> None:
    """It is called before models are unloaded."""
    plugin = Plugin("GET /shout/{name}")
    _get(plugin)
    assert plugin.events[-1] == ("stopping", False)


def test_hook_request_started() -> None:
    plugin = Plugin("GET /shout/{name}")
    _events(FakeServer(plugins=load_plugins(extra=[plugin])), chat("hi", stream=True))
    [started] = [event for event in plugin.events if isinstance(event, RequestStarted)]
    assert (started.frontend, started.model, started.prompt_tokens, started.stream) == (
        "openai",
        "echo",
        9,
        True,
    )


def test_hook_request_finished() -> None:
    plugin = Plugin("GET /shout/{name}")
    server = FakeServer(plugins=load_plugins(extra=[plugin]))
    _events(server, chat("hi", max_tokens=3))
    [finished] = [event for event in plugin.events if isinstance(event, RequestFinished)]
    assert (finished.prompt_tokens, finished.completion_tokens, finished.outcome) == (9, 3, "length")
    assert finished.first_token_seconds is not None
    assert finished.first_token_seconds <= finished.total_seconds


def test_no_report_holds_text() -> None:
    plugin = Plugin("GET /shout/{name}")
    _events(FakeServer(plugins=load_plugins(extra=[plugin])), chat("my secret"))
    assert "secret" not in repr(plugin.events)


def _statuses(server: FakeServer, *paths: str) -> list[int]:
    async def scenario() -> list[int]:
        async with server.app.test_app() as running:
            return [(await running.test_client().get(path)).status_code for path in paths]

    return asyncio.run(scenario())


def test_only_the_chosen_apis_are_served_and_what_watches_over_them() -> None:
    paths = ("/v1/models", "/api/models", "/ws/generate", "/health")
    assert _statuses(FakeServer(), *paths) == [200, 200, 426, 200]
    chosen = FakeServer(settings=Settings(frontends=["openai"]))
    assert _statuses(chosen, *paths) == [200, 404, 404, 200]
    blind = load_plugins(PluginChoice(disabled=("frontend-ops",)))
    assert _statuses(FakeServer(plugins=blind), *paths) == [200, 200, 426, 404]


def test_apis_that_are_not_served_are_not_loaded() -> None:
    def load() -> Any:
        raise AssertionError("loaded")

    class Unwanted:
        @hookimpl
        def register_api_frontends(self, register: Callable[[FrontendSpec], None]) -> None:
            register(FrontendSpec("unwanted", ("POST /v1/completions",), load))

    plugins = load_plugins(extra=[Unwanted()])
    server = FakeServer(settings=Settings(frontends=["openai"]), plugins=plugins)
    assert _statuses(server, "/v1/models") == [200]


def test_a_third_party_s_routes_need_a_key_unless_it_says_otherwise() -> None:
    class Plugin:
        @hookimpl
        def register_api_frontends(self, register: Callable[[FrontendSpec], None]) -> None:
            routes = ("GET /shout/{name}",)
            register(FrontendSpec("shouting", routes, Shouting, public=("GET /shout/echo",)))

    server = FakeServer("echo", "two", settings=Settings(api_key="k"), plugins=load_plugins(extra=[Plugin()]))
    assert _statuses(server, "/shout/echo", "/shout/two") == [200, 401]
