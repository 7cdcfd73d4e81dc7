"""A server of fake engines whose clients load adapters from a folder of three, and such a client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from shimmy.server.registered import RegisteredAdapters
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer

LOCAL = {"scope_base": {"client": ("127.0.0.1", 5000)}}
REMOTE = {"scope_base": {"client": ("192.0.2.7", 5000)}}


def make_server(folder: Path, **settings: Any) -> FakeServer:
    """The models echo and other; the adapters one, two and three in ``folder``."""
    for name in ("one", "two", "three"):
        (folder / name).mkdir(parents=True)
    made = FakeServer("echo", "other", settings=Settings(max_loaded_models=2, **settings))
    object.__setattr__(made.context, "adapters", RegisteredAdapters([folder]))
    return made


class Client:
    """Requests to an app that runs."""

    def __init__(self, running: Any) -> None:
        self._running = running

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        status, text = await self.raw(method, path, body, **options)
        return status, json.loads(text)

    async def raw(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """The answer as it comes, a stream whole."""
        sent = {**LOCAL, **options}
        if body is not None:
            sent["data"] = json.dumps(body)
        response = await getattr(self._running.test_client(), method)(path, **sent)
        return response.status_code, (await response.get_data()).decode()

    def websocket(self, path: str, **options: Any) -> Any:
        return self._running.test_client().websocket(path, **options)

    async def load(self, name: str, path: str, **fields: Any) -> tuple[int, Any]:
        return await self("post", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **fields})

    async def ask(self, model: str, **fields: Any) -> tuple[int, Any]:
        return await self("post", "/api/generate", {"model": model, "prompt": "abc", **fields})


def run(server: FakeServer, scenario: Any) -> None:
    async def start() -> None:
        async with server.app.test_app() as running:
            await scenario(Client(running))

    asyncio.run(start())
