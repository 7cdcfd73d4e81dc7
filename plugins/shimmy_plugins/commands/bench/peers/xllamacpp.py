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
from shimmy_plugins.commands.bench.peers.child import python_child
from shimmy_plugins.commands.bench.peers.http import HttpRunner


class XLlamaCpp:
    """Its wheels are built for AVX2; a llama.cpp compiled for the machine may be faster."""

    name = "xllamacpp"
    family = "llama.cpp"

    def find(self) -> str | None:
        """None if the package is installed beside shimmy."""
        return None if find_spec("xllamacpp") else "the package is not installed"

    def start(self, setup: Setup, meter: Meter) -> HttpRunner:
        """Start this module as a program and wait for the server's address."""
        values = {**asdict(setup), "model": str(setup.model)}
        child = python_child(self.name, __name__, json.dumps(values))
        try:
            url = child.read_line()
        except BaseException:
            child.close()
            raise
        return HttpRunner(child, url, f"llama.cpp in xllamacpp {version('xllamacpp')}", meter)


def serve(values: dict[str, str | int]) -> None:
    """Serve until standard input ends; the address is the only line on standard output."""
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
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
