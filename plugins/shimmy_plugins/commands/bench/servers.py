"""Servers that are measured from outside: processes of their own, on a free port of this machine."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shimmy import __version__
from shimmy.settings import Settings, settings_table
from shimmy.settings.sources import DEFAULT
from shimmy_plugins.commands.bench.child import Child

#: Requests to children of this process, which no proxy of the environment must see.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PATIENCE = 300.0
#: Seconds between two looks at a server that starts: a hundredth of what a start takes.
_LOOK = 0.005
#: Settings of the command line that reach a server of our own.
PASSED_ON = (
    "engine_backend",
    "gpu",
    "gpu_memory",
    "precision",
    "threads",
    "instructions",
    "max_ctx",
    "kv_type",
    "kv_memory",
    "max_sequences",
    "step_tokens",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server for a model."""

    name: str
    description: str
    """Name, version and what was chosen for it, for people."""
    command: Callable[[int], Sequence[str]]
    """The command line for a port."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides those of this process."""


class ServerProcess:
    """A started server; ``with`` ends it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.started = time.perf_counter()
        environment = {**os.environ, **launch.environment}
        self.child = Child(launch.name, launch.command(port), environment, silent=True)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def wait_until_healthy(self) -> float:
        """Until ``/health`` answers 200; the seconds since the start. Raises EngineError if it ends."""
        while (waited := time.perf_counter() - self.started) < _PATIENCE:
            if not self.child.running:
                raise self.child.failure("ended while loading the model")
            try:
                with OPENER.open(f"{self.url}/health", timeout=5):
                    return time.perf_counter() - self.started
            except OSError:
                time.sleep(_LOOK)
        raise self.child.failure(f"did not load the model in {waited:.0f} s")

    def close(self) -> None:
        """End the server."""
        self.child.close()


def own_launch(model: Path, settings: Settings, environment: Mapping[str, str] | None = None) -> Launch:
    """``shimmy serve`` of this installation, with the settings in force."""
    table = settings_table()
    given = {key: getattr(settings, key) for key in PASSED_ON if settings.origin(key) != DEFAULT}
    options = [
        part
        for key, value in given.items()
        for part in (table[key].flag, "auto" if value is None else str(value))
    ]
    arguments = [sys.executable, "-m", "shimmy", "serve", "--base-gguf", str(model), *options]
    return Launch(
        name="shimmy",
        description=" ".join([f"shimmy {__version__}", *options]),
        command=lambda port: [*arguments, "--host", "127.0.0.1", "--port", str(port)],
        environment=environment or {},
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
