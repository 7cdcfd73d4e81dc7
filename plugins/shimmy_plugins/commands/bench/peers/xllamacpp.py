"""llama.cpp from the package xllamacpp, which has its server inside."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.peers.http import HttpRunner, start_runner
from shimmy_plugins.commands.bench.servers import Launch


class XLlamaCpp:
    """Its wheels are built for AVX2; a llama.cpp compiled for the machine may be faster."""

    name = "xllamacpp"
    family = "llama.cpp"

    def find(self) -> str | None:
        """None if the package is installed beside shimmy."""
        return None if find_spec("xllamacpp") else "the package is not installed"

    def launch(self, setup: Setup) -> Launch:
        """This module as a program."""
        values = json.dumps({**asdict(setup), "model": str(setup.model)})
        return Launch(
            name=self.name,
            description=f"llama.cpp, package xllamacpp {version('xllamacpp')}; KV cache {setup.kv_type}",
            command=lambda port: [sys.executable, "-m", __name__, values, str(port)],
        )

    def start(self, setup: Setup, meter: Meter) -> HttpRunner:
        """Start the server and wait until the model is loaded."""
        return start_runner(self.launch(setup), meter)


def serve(values: dict[str, str | int], port: int) -> None:
    """Serve until standard input ends."""
    # Not a dependency, and not typed.
    xllamacpp: Any = import_module("xllamacpp")

    parameters = xllamacpp.CommonParams()
    parameters.model.path = values["model"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = values["threads"]
    parameters.n_ctx = int(values["context"]) * int(values["sequences"])
    parameters.n_parallel = values["sequences"]
    parameters.n_ubatch = 512
    parameters.n_gpu_layers = 0
    kv_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{str(values['kv_type']).upper()}")
    parameters.cache_type_k = parameters.cache_type_v = kv_type
    # As for llama-server: prompts are never alike.
    parameters.cache_ram_mib = 0
    parameters.port = port
    # Alive as long as it has a name.
    _server = xllamacpp.Server(parameters)
    sys.stdin.read()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), int(sys.argv[2]))
