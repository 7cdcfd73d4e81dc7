"""What ``shimmy serve`` shows while its first model loads, and what it checks before."""

from __future__ import annotations

import asyncio
import re
import sys
from types import SimpleNamespace

import pytest
from quart import Quart

from shimmy.cli import serve
from shimmy.cli.progress import LoadingBar, LoadingLog
from shimmy.engine.protocol import Progress
from shimmy.server.models import ModelState


class Bar(LoadingBar):
    """Remembers what it would show."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.shown: list[tuple[str, int, int]] = []
        self.closed = False

    def update(self, phase: str, done: int, total: int) -> None:
        self.shown.append((phase, done, total))

    def close(self) -> None:
        self.closed = True


def context(*looks: list[ModelState]) -> SimpleNamespace:
    """A server whose models are, at each look, as in ``looks``; the default one is "tiny"."""
    remaining = list(looks)
    models = SimpleNamespace(states=lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0])
    return SimpleNamespace(models=models, default=SimpleNamespace(name="tiny", error=None))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(serve, "LoadingBar", Bar)


async def serve_until_closed(app: Quart, bar: Bar) -> None:
    async with app.test_app():
        while not bar.closed:
            await asyncio.sleep(0)


@pytest.mark.parametrize("end", ["ready", "failed"])
def test_the_bar_follows_the_default_model_to_its_end(monkeypatch, end):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    half, whole = (ModelState("tiny", "loading", Progress("weights", done, 4)) for done in (2, 4))
    other = ModelState("other", "loading", Progress("weights", 1, 9))
    app = Quart("test")
    bar = serve.show_loading(app, context([], [other, half], [whole], [ModelState("tiny", end)]))
    asyncio.run(serve_until_closed(app, bar))
    assert bar.shown == [("weights", 2, 4), ("weights", 4, 4)]


def test_the_bar_ends_when_there_is_no_model(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    app, nothing = Quart("test"), context([])
    nothing.default.error = ValueError("there is no model")
    bar = serve.show_loading(app, nothing)
    asyncio.run(serve_until_closed(app, bar))
    assert bar.shown == []


def test_where_no_bar_can_be_seen_a_long_load_is_logged():
    assert isinstance(serve.show_loading(Quart("test"), context([])), LoadingLog)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--base-gguf", "nowhere.gguf"), "base_gguf is .*nowhere.gguf.*no such file"),
        (("--api-key-file", "nowhere.keys"), "api_key_file is .*nowhere.keys.*cannot be read"),
        (("--engine-backend", "llama"), "shimmy brings its own engines now; use 'auto'"),
    ],
)
def test_wrong_settings_end_it_before_it_says_that_it_listens(run, arguments, problem):
    code, out, err = run("serve", *arguments)
    assert (code, out) == (2, "")
    assert re.search(problem, err)


def test_the_banner_tells_which_weights_are_not_on_the_gpu() -> None:
    facts = {"architecture": "llama", "backend": "wgpu", "precision": "f32", "backend_reason": "asked for"}
    facts |= {"description": "Voodoo", "context": 512, "kv_bytes_per_token": 1024, "kv_type": "f32"}
    facts |= {"native_context": 512, "rope_kind": "none", "rope_factor": 1.0}
    card = SimpleNamespace(name="tiny", quantization="F16")

    def shown(host: int) -> str:
        ready = SimpleNamespace(**facts, weight_bytes=3 << 20, host_weight_bytes=host)
        return serve.banner(SimpleNamespace(card=card, facts=ready), None)

    assert shown(1 << 20).endswith("\n  weights  2.0 MiB on the GPU, 1.0 MiB in the machine's memory")
    assert "weights" not in shown(0)
