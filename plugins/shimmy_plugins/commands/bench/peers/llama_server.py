"""llama.cpp as its own program, ``llama-server`` on PATH."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.peers.child import Child
from shimmy_plugins.commands.bench.peers.http import HttpRunner

_PROGRAM = "llama-server"
_PATIENCE = 300.0


class LlamaServer:
    """A llama.cpp built for this machine is the strongest form of it."""

    name = _PROGRAM
    family = "llama.cpp"

    def find(self) -> str | None:
        """None if the program is there."""
        return None if shutil.which(_PROGRAM) else "no such program on PATH"

    def start(self, setup: Setup, meter: Meter) -> HttpRunner:
        """Start the server on a free port and wait until the model is loaded."""
        program = shutil.which(_PROGRAM)
        assert program is not None
        port = _free_port()
        child = Child(_PROGRAM, [program, *arguments(setup), "--host", "127.0.0.1", "--port", str(port)])
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_healthy(child, url)
        except BaseException:
            child.close()
            raise
        return HttpRunner(child, url, _version(program), meter)


def arguments(setup: Setup) -> list[str]:
    """Processor only, one slot of the cache per sequence, steps of 512 tokens."""
    values = {
        "--model": setup.model,
        "--threads": setup.threads,
        "--threads-batch": setup.threads,
        "--ctx-size": setup.context * setup.sequences,
        "--parallel": setup.sequences,
        "--ubatch-size": 512,
        "--n-gpu-layers": 0,
        "--cache-type-k": setup.kv_type,
        "--cache-type-v": setup.kv_type,
    }
    return [part for flag, value in values.items() for part in (flag, str(value))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(child: Child, url: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if not child.running:
            raise child.failure("ended while loading the model")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - our own child
                return
        except OSError:
            time.sleep(0.05)
    raise child.failure(f"did not load the model in {_PATIENCE:.0f} s")


def _version(program: str) -> str:
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return next((f"llama.cpp, {line}" for line in lines if line.startswith("version")), "llama.cpp")
