"""llama.cpp and its forks through their C functions: a package's ctypes bindings, or shared libraries."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from shimmy.errors import ConfigError, EngineError
from shimmy_plugins.commands.bench.child import Child, python_child
from shimmy_plugins.commands.bench.noise import Meter, Timed
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.peers.llama_server import PROGRAM
from shimmy_plugins.commands.bench.peers.programs import Locate, describe
from shimmy_plugins.commands.bench.workload import Prompts

_CHILD = "shimmy_plugins.commands.bench.peers.bindings_child"
_LIBRARY = "libllama.so"


class BindingsPeer:
    """A package ``name`` whose ``module`` holds the functions of ``llama.h``."""

    def __init__(self, name: str, family: str, module: str) -> None:
        self.name = name
        self.family = family
        self._module = module

    def find(self) -> str | None:
        """None if the package is installed beside shimmy."""
        package = self._module.partition(".")[0]
        return None if find_spec(package) else "the package is not installed"

    def start(self, setup: Setup, meter: Meter) -> BindingsRunner:
        """Start a child that loads the model, and wait until it has."""
        description = f"{self.family}, package {self.name} {version(self.name)}; KV cache {setup.kv_type}"
        return _start(self.name, setup, {"module": self._module}, description, meter)


class LibraryPeer:
    """llama.cpp's shared libraries, which compute all layers on the GPU that they find."""

    def __init__(self, name: str, family: str, locate: Locate) -> None:
        self.name = name
        self.family = family
        self._locate = locate

    def find(self) -> str | None:
        """None if the libraries are there."""
        return None if self._locate(_LIBRARY) else f"there is no {_LIBRARY}"

    def start(self, setup: Setup, meter: Meter) -> BindingsRunner:
        """Start a child that loads the model, and wait until it has.

        Raises:
            ConfigError: another type of the KV cache than the one it takes by itself.
        """
        if setup.kv_type != "f16":
            raise ConfigError(
                f"--vs {self.name}: its KV cache is f16, and {setup.kv_type} is wanted.",
                hint="Add --kv-type f16, or --peer-kv-type f16.",
            )
        library = self._locate(_LIBRARY)
        assert library is not None
        # Its version is that of the program beside it.
        description = f"{describe(library.with_name(PROGRAM))}, on the GPU; KV cache {setup.kv_type}"
        return _start(self.name, setup, {"folder": str(library.parent)}, description, meter)


def _start(name: str, setup: Setup, source: dict[str, str], description: str, meter: Meter) -> BindingsRunner:
    """``source``: where the child finds the functions."""
    values = {**asdict(setup), "model": str(setup.model), **source}
    child = python_child(name, _CHILD, json.dumps(values))
    try:
        child.read_line()
    except BaseException:
        child.close()
        raise
    return BindingsRunner(child, description, meter)


class BindingsRunner:
    """Asks a child to compute; the child times what it does."""

    def __init__(self, child: Child, description: str, meter: Meter) -> None:
        self.description = description
        self._child = child
        self._meter = meter

    def prefill(self, prompts: Prompts) -> Timed:
        """The time until every prompt has its logits."""
        return self._timed({"prompts": prompts})

    def decode(self, prompts: Prompts, steps: int) -> Timed:
        """The time of the steps after the prompts, which are not part of it."""
        self._ask({"prompts": prompts})
        return self._timed({"steps": steps})

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _timed(self, question: dict[str, Any]) -> Timed:
        with self._meter.window() as window:
            seconds = self._ask(question)
        return Timed(seconds, window.result().foreign)

    def _ask(self, question: dict[str, Any]) -> float:
        self._child.write_line(json.dumps(question))
        answer = json.loads(self._child.read_line())
        if "error" in answer:
            raise EngineError(f"{self._child.name}: {answer['error']}")
        return float(answer["seconds"])
