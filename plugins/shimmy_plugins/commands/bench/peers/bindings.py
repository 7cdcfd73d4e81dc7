"""llama.cpp and its forks through their C functions, as ctypes bindings from a package."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from shimmy.errors import EngineError
from shimmy_plugins.commands.bench.child import Child, python_child
from shimmy_plugins.commands.bench.noise import Meter, Timed
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.workload import Prompts

_CHILD = "shimmy_plugins.commands.bench.peers.bindings_child"


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
        values = {**asdict(setup), "model": str(setup.model), "module": self._module}
        child = python_child(self.name, _CHILD, json.dumps(values))
        try:
            child.read_line()
        except BaseException:
            child.close()
            raise
        description = f"{self.family}, package {self.name} {version(self.name)}; KV cache {setup.kv_type}"
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
