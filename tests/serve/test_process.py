"""The life of a server process: start, trouble, end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import psutil
import pytest

from tests.serve.server_process import MODEL, ServerProcess, server_process, wait_for

#: The server's modules must do without these: they are the worker's, or for rare occasions.
HEAVY = ("numpy", "llvmlite", "wgpu", "prometheus_client", "gguf", "rich")


#: Settings of a server that finds no model.
NO_DEMO = {"SHIMMY_PLUGINS__DISABLED": "source-python-packages"}
#: A stream that goes on until it is ended: the tokens that would end it are forbidden.
LONG = {
    "model": MODEL,
    "prompt": "Once",
    "max_tokens": 8000,
    "stream": True,
    "logit_bias": {"0": -100, "2": -100},
}


def _client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def _ask(server: ServerProcess) -> str:
    with _client(server) as client:
        answer = client.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=2, temperature=0)
        return answer.choices[0].text


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "shimmy", "serve", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_server_and_workers(tmp_path: Path, number: signal.Signals) -> None:
    with server_process(tmp_path) as server:
        server.wait_until_ready()
        workers = server.workers()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert workers
        assert not any(worker.is_running() for worker in workers)
        # A start that took long says so.
        assert all(line.startswith("INFO: loading: ") for line in server.log.splitlines())


def test_a_first_start_says_what_it_waits_for(tmp_path: Path) -> None:
    with server_process(tmp_path, SHIMMY_CACHE_DIR=str(tmp_path / "cache")) as server:
        server.wait_until_ready()
        assert server.log.count("INFO: loading: compiling kernels for this processor, once\n") == 1


def test_a_signal_while_loading_and_streaming(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        # The worker is there before anyone listens for signals.
        assert server.get("/health")[0] == 200
        assert server.workers()
        server.process.terminate()
        assert server.process.wait(30) == 0
    with server_process(tmp_path) as server:
        server.wait_until_ready()
        with _client(server) as client, client.completions.create(**LONG) as stream:
            next(iter(stream))
            server.process.terminate()
            with pytest.raises(openai.APIError, match="shutting down"):
                list(stream)
        assert server.process.wait(30) == 0


def test_killed_workers_are_replaced(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        server.wait_until_ready()
        [worker] = server.workers()
        with _client(server) as client, client.completions.create(**LONG) as stream:
            next(iter(stream))
            worker.kill()
            with pytest.raises(openai.APIError, match="ended unexpectedly"):
                list(stream)
        assert _ask(server) == " 4"
        assert server.workers() != [worker]
        assert server.metric("shimmy_requests_total") == 2


def test_a_model_that_cannot_be_loaded_leaves_the_server_up(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with server_process(tmp_path, "--models-dir", str(tmp_path), **NO_DEMO) as server:
        wait_for(lambda: server.get("/health")[1]["status"] == "failed")
        assert "error" in server.get("/health")[1]
        assert server.get("/ready")[0] == 503
        assert server.get("/v1/models") == (200, {"object": "list", "data": []})


def test_explicit_ports_that_are_busy_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = _run("--port", port)
    assert result.returncode == 2
    assert f"127.0.0.1:{port}: the port is in use" in result.stderr
    assert "--port" in result.stderr


def test_addresses_from_the_environment(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server_process(tmp_path, SHIMMY_PORT=str(port)) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert server.get("/health")[0] == 200
    with server_process(tmp_path, SHIMMY_BIND_ADDRESS=f"0.0.0.0:{port}") as server:
        assert server.get("/health")[0] == 200
        assert "without any authentication" in server.log


def test_a_light_server(tmp_path: Path) -> None:
    """Without a model: no heavy module, little memory."""
    listing = tmp_path / "modules.txt"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, pathlib, sys\n"
        f"listing = pathlib.Path({str(listing)!r})\n"
        # Workers import the same file.
        "atexit.register(lambda: 'shimmy.cli' in sys.modules and listing.write_text(' '.join(sys.modules)))\n"
    )
    with server_process(tmp_path, PYTHONPATH=str(tmp_path), **NO_DEMO) as server:
        assert server.get("/health")[0] == 200
        resident = psutil.Process(server.process.pid).memory_info().rss
        server.process.terminate()
        assert server.process.wait(30) == 0
    assert not {name for name in listing.read_text().split() if name.partition(".")[0] in HEAVY}
    assert resident <= 60 * 2**20


NETWORK_GUARD = """
import sys

LOCAL = ("127.0.0.1", "::1", "localhost", None)

def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in LOCAL:
            record(event, address)
    elif event == "socket.getaddrinfo" and arguments[0] not in LOCAL:
        record(event, arguments)
    elif event.startswith("socket.gethostby") or event == "socket.getnameinfo":
        record(event, arguments)

def record(event, what):
    with open({path!r}, "a") as file:
        file.write(f"{{event}} {{what}} in {{sys.argv}}\\n")

sys.addaudithook(guard)
"""


def test_serving_makes_no_network_call(tmp_path: Path) -> None:
    """Neither the server nor its worker asks anyone anything, whatever is asked of them."""
    record = tmp_path / "calls.txt"
    (tmp_path / "sitecustomize.py").write_text(NETWORK_GUARD.format(path=str(record)))
    with server_process(tmp_path, PYTHONPATH=str(tmp_path)) as server:
        server.wait_until_ready()
        assert _ask(server) == " 4"
        for path in ("/health", "/v1/models"):
            assert server.get(path)[0] == 200
        with urllib.request.urlopen(server.url + "/metrics") as response:
            assert response.status == 200
    assert not record.exists(), record.read_text()


def test_the_network_guard_works(tmp_path: Path) -> None:
    record = tmp_path / "calls.txt"
    guard = NETWORK_GUARD.format(path=str(record))
    call = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), 0.01)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", f"{guard}\n{call}"], check=True)
    assert "socket.connect" in record.read_text()


def test_prompts_are_not_logged(tmp_path: Path) -> None:
    with server_process(tmp_path, SHIMMY_LOG_LEVEL="debug") as server:
        server.wait_until_ready()
        with _client(server) as client:
            client.completions.create(model=MODEL, prompt="my secret word", max_tokens=1)
            with pytest.raises(openai.BadRequestError):
                client.completions.create(model=MODEL, prompt="my secret word " * 9000)
        assert "secret" not in server.log
