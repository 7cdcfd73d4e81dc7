"""``shimmy serve`` as its users run it: a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

MODEL = "SmolLM2-135M-Instruct"

#: Seconds after which waiting is given up: far more than anything takes on a busy machine.
PATIENCE = 60.0


class ServerProcess:
    """A running server; ``banner`` is what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        assert process.stdout
        self.banner = process.stdout.readline()
        if not self.banner:
            raise AssertionError(f"the server did not start:\n{self.log}")
        self.url = self.banner.split()[-1]

    @property
    def log(self) -> str:
        """What the server and its workers wrote to stderr."""
        return self._log.read_text()

    def wait_until_ready(self) -> None:
        """Until the default model is loaded and the banner complete."""
        wait_for(lambda: self.get("/health")[1]["status"] not in ("idle", "loading"))
        assert self.get("/ready")[0] == 200, f"{self.get('/health')}\n{self.log}"
        assert self.process.stdout
        while "curl" not in self.banner:
            self.banner += self.process.stdout.readline()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        try:
            with urllib.request.urlopen(self.url + path) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(self.url + "/metrics") as response:
            lines = response.read().decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        )

    def workers(self) -> list[psutil.Process]:
        """The engine processes."""
        return psutil.Process(self.process.pid).children()


@contextlib.contextmanager
def server_process(folder: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """A server on a port of its own, ended with the block."""
    log = folder / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "shimmy", "serve", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            yield ServerProcess(process, log)
        finally:
            process.terminate()


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
