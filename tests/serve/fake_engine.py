"""A server without models: an engine that repeats its prompt, and a tokenizer of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from quart import Quart

from shimmy.discovery.catalog import ModelCard
from shimmy.engine.protocol import AdapterLoaded, Progress, Ready, Sampling, Stats, TokenEvent
from shimmy.errors import ModelNotFoundError, ShimmyError, did_you_mean
from shimmy.plugins import Plugins, load_plugins
from shimmy.server.adapters import AdapterPool
from shimmy.server.app import create_app
from shimmy.server.context import ServerContext
from shimmy.server.listen import Listener, listen
from shimmy.server.models import ModelPool
from shimmy.server.run import server_config
from shimmy.server.sampling import sampling_defaults
from shimmy.server.text import ModelText
from shimmy.settings import Settings
from shimmy.text.chat import make_template
from shimmy.text.choose import ChosenTemplate

_ids = itertools.count(1000)
CONTEXT = 200
EOS = 256
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


class ByteTokenizer:
    """One token per byte, and an end token."""

    vocab_size = 257
    bos_id = None
    eos_id = EOS
    add_bos = False
    stop_ids = frozenset({EOS})
    control_texts = frozenset({"<end>"})

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        return bytes(i for i in ids if i < EOS).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < EOS else b""

    def token_text(self, token: int) -> str:
        return "<end>" if token == EOS else chr(token)


class FakeEngine:
    """Repeats the prompt, ``step`` tokens at a time.

    ``loading``, ``prefill`` and ``reading`` (of adapters) are gates: close them (``clear``) to hold it
    there. With ``pause_after`` it stops for good after so many steps, and tells by ``paused``.
    """

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.state = "stopped"
        self.ready: Ready | None = None
        self.progress: Progress | None = None
        self.stats: Stats | None = None
        self.step = 1
        self.endless = False
        self.pause_after: int | None = None
        self.paused = False
        self.load_error: Exception | None = None
        self.fails: tuple[int, Exception] | None = None
        self.error: ShimmyError | None = None
        self.loading, self.prefill, self.reading = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for gate in (self.loading, self.prefill, self.reading):
            gate.set()
        self.starts = 0
        self.cancelled = 0
        self.active = 0
        self.samplings: list[Sampling] = []
        self.salts: list[str] = []
        self.reused = 0
        self.adapters: set[int] = set()
        self.adapter_error: ShimmyError | None = None
        self.adapter_bytes = 400_000
        self.applied: list[list[tuple[int, float]]] = []

    async def load_adapter(self, path: Path) -> AdapterLoaded:
        await asyncio.sleep(0)
        size = self.adapter_bytes
        await self.reading.wait()
        if self.adapter_error:
            raise self.adapter_error
        adapter = next(_ids)
        self.adapters.add(adapter)
        return AdapterLoaded(adapter, rank=8, modules=2, bytes=size)

    def unload_adapter(self, adapter: int) -> None:
        self.adapters.remove(adapter)

    async def start(self) -> Ready:
        self.state = "loading"
        self.starts += 1
        self.progress = Progress("weights", 1, 2)
        await self.loading.wait()
        if self.load_error:
            self.state = "failed"
            raise self.load_error
        self.state = "ready"
        self.stats = Stats(0, 0, 0, 64)
        self.ready = facts()
        return self.ready

    async def generate(
        self,
        tokens: list[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop_ids: Iterable[int],
        salt: str,
        adapters: Sequence[tuple[int, float]],
    ) -> AsyncGenerator[list[TokenEvent], None]:
        assert {adapter for adapter, _ in adapters} <= self.adapters, "an adapter that was unloaded"
        self.applied.append(list(adapters))
        self.samplings.append(sampling)
        self.salts.append(salt)
        self.active += 1
        finished = False
        try:
            await self.prefill.wait()
            answer = tokens * (1000 if self.endless else 1)
            for number, events in enumerate(self._steps(answer, max_tokens, sampling)):
                await asyncio.sleep(0)
                if number == self.pause_after:
                    self.paused = True
                    await asyncio.Event().wait()
                if self.fails and events[0].id >= self.fails[0]:
                    finished = True
                    raise self.fails[1]
                finished = events[-1].finish is not None
                yield events
        finally:
            self.active -= 1
            self.cancelled += not finished

    def _steps(self, answer: list[int], max_tokens: int, sampling: Sampling) -> Iterable[list[TokenEvent]]:
        """The events; ``id`` counts tokens here."""
        top = (
            []
            if not sampling.logprobs
            else [(token, -0.5 - token / 512) for token in range(97, 97 + sampling.logprobs)]
        )
        logprob = None if sampling.logprobs is None else -0.5
        cut = answer[:max_tokens]
        events = [TokenEvent(i, token, None, logprob, top, reused=self.reused) for i, token in enumerate(cut)]
        finish = "length" if len(answer) >= max_tokens else "stop"
        events.append(TokenEvent(len(cut), None, finish, reused=self.reused))
        for start in range(0, len(events), self.step):
            yield events[start : start + self.step]

    async def close(self) -> None:
        self.state = "stopped"


class FakeCatalog:
    def __init__(self, *names: str) -> None:
        self.cards = {name: card(name) for name in names}
        self.own: dict[str, ModelCard] = {}
        self.further: dict[str, list[str]] = {}

    def models(self) -> list[ModelCard]:
        return list(self.cards.values())

    def own_names(self) -> dict[str, ModelCard]:
        return self.own

    def aliases(self, name: str) -> list[str]:
        return self.further.get(name, [])

    def target(self, name: str | None) -> str | None:
        return name

    def get(self, name: str) -> ModelCard:
        if name not in self.cards:
            raise ModelNotFoundError(
                f"there is no model {name!r}.", hint=did_you_mean(name, self.cards), param="model"
            )
        return self.cards[name]

    def default(self) -> ModelCard:
        return next(iter(self.cards.values()))


class FakeServer:
    """An app over fake engines, in this process; ``engines`` by model name, made before they start."""

    def __init__(
        self,
        *names: str,
        settings: Settings | None = None,
        plugins: Plugins | None = None,
        template: str | None = TEMPLATE,
        template_stops: tuple[str, ...] = (),
    ) -> None:
        self.settings = settings or Settings()
        self.plugins = plugins or load_plugins()
        self.metadata: dict[str, Any] = {}
        """What the files of all models say of sampling."""
        self.engines: dict[str, FakeEngine] = {}
        self.template, self.template_stops = template, template_stops
        self.catalog = FakeCatalog(*(names or ("echo",)))
        for known in self.catalog.models():
            self.engines[known.name] = FakeEngine(known)
        pool = ModelPool(
            self.plugins,
            max_loaded=self.settings.max_loaded_models,
            make_engine=lambda wanted: self.engines[wanted.name],
            read_text=lambda wanted: self.text(),
            adapters=AdapterPool(most=2, memory=1 << 20, read_text=lambda wanted, base: base),
        )
        self.context = ServerContext(self.settings, self.plugins, self.catalog, pool)
        self.app: Quart = create_app(self.context)

    @property
    def engine(self) -> FakeEngine:
        return next(iter(self.engines.values()))

    def text(self) -> ModelText:
        tokenizer = ByteTokenizer()
        if self.template is None:
            return ModelText(tokenizer, ChosenTemplate(None, None, "it is a test."))
        template = make_template(self.template, tokenizer, name="echo", stops=self.template_stops)
        defaults = sampling_defaults(self.metadata, self.settings)
        return ModelText(tokenizer, ChosenTemplate(template, "own", "it is a test."), defaults)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Served by hypercorn on a real socket."""
        listener = listen("127.0.0.1", None)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(self.app, server_config(listener), shutdown_trigger=stop.wait))
        try:
            yield listener
        finally:
            stop.set()
            await serving


@contextlib.asynccontextmanager
async def connected(
    listener: Listener, method: str, path: str, body: Any = None
) -> AsyncIterator[asyncio.StreamReader]:
    """What the server answers to one request; leaving the block hangs up, in the middle if need be."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(data)}",
    )
    head = "\r\n".join((*lines, "", ""))
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        writer.write(head.encode() + data)
        await writer.drain()
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def fetch(listener: Listener, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and raw body of a whole answer."""
    async with connected(listener, method, path, body) as reader:
        head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    return int(head.split()[1]), answer.decode()


def facts(context: int = CONTEXT) -> Ready:
    return Ready(
        version=1,
        architecture="fake",
        backend="echo",
        backend_reason="the only one",
        precision="f32",
        description="repeats",
        context=context,
        native_context=context,
        vocabulary=257,
        weight_bytes=0,
        kv_type="f32",
        kv_bytes_per_token=0,
        kv_memory=0,
        plugins=[],
        fallbacks=[],
        seconds=0.0,
    )


def card(name: str) -> ModelCard:
    return ModelCard(name, Path(f"{name}.gguf"), "test", 1000, "fake", 10, "F32", CONTEXT, True)


async def eventually(condition: Any) -> None:
    """Wait until ``condition()`` holds; the test's own time limit ends the wait."""
    while not condition():
        await asyncio.sleep(0.005)


def chat(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}
