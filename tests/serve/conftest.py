"""One real server for the tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.server_process import ServerProcess, server_process


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[ServerProcess]:
    """``shimmy serve`` with the model of the demo package, ready; it is called phi3-lora as well."""
    folder = tmp_path_factory.mktemp("server")
    with server_process(folder, HOME=str(empty_home), SHIMMY_SERVED_MODEL_NAME="phi3-lora") as server:
        server.wait_until_ready()
        yield server
