"""Real servers for the tests that only ask them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serve.server_process import ServerProcess, server_process


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[ServerProcess]:
    """``shimmy serve`` with the model of the demo package, ready; it is called phi3-lora as well."""
    with _ready(tmp_path_factory, empty_home, SHIMMY_SERVED_MODEL_NAME="phi3-lora") as server:
        yield server


@pytest.fixture(scope="session")
def exact_server(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[ServerProcess]:
    """The same model in F32, so that the words of its answers are known from elsewhere."""
    with _ready(tmp_path_factory, empty_home, SHIMMY_PRECISION="f32") as server:
        yield server


@contextmanager
def _ready(folders: pytest.TempPathFactory, home: Path, **environment: str) -> Iterator[ServerProcess]:
    with server_process(folders.mktemp("server"), HOME=str(home), **environment) as server:
        server.wait_until_ready()
        yield server
