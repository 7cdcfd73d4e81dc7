"""``serve --watch``: what a trainer writes beside a running server is taken once it is whole."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.folders import FOLDER
from tests.serve.server_process import ServerProcess, server_process, wait_for
from tests.zoo import LORA, model_path

QK, ROBOT = LORA / "llama_spm_qk", LORA / "llama_spm_robot"
PROMPT = "What is the capital of Norway?"


@contextmanager
def watching(tmp_path: Path, home: Path, *arguments: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that watches, with the zoo's model as base."""
    variables = {"HOME": str(home), "SHIMMY_BASE_GGUF": str(model_path("llama_spm.q4_0")), **variables}
    with server_process(tmp_path, "--watch", *arguments, **variables) as server:
        yield server


def post(server: ServerProcess, path: str, **body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def answer(server: ServerProcess, model: str, tokens: int = 12) -> str:
    body = {"prompt": PROMPT, "raw": False, "temperature": 0, "max_tokens": tokens}
    status, reply = post(server, "/api/generate", model=model, **body)
    assert status == 200, reply
    return str(reply["response"])


def names(server: ServerProcess) -> set[str]:
    return {row["id"] for row in server.get("/v1/models")[1]["data"]}


def write_in_pieces(adapter: Path, to: Path, pieces: int, pause: float) -> None:
    """As a trainer on a slow disk: the weights bit by bit, then the configuration."""
    to.mkdir(parents=True, exist_ok=True)
    content = (adapter / "adapter_model.safetensors").read_bytes()
    size = -(-len(content) // pieces)
    with (to / "adapter_model.safetensors").open("wb", buffering=0) as file:
        for start in range(0, len(content), size):
            file.write(content[start : start + size])
            time.sleep(pause)
    shutil.copy(adapter / "adapter_config.json", to)


def test_a_new_checkpoint_is_taken_once_it_is_written(tmp_path: Path, empty_home: Path) -> None:
    run = tmp_path / "out" / "tune"
    shutil.copytree(QK, run / "checkpoint-1")
    with watching(tmp_path, empty_home, "--auto-discover", str(run.parent)) as server:
        server.wait_until_ready()
        first = answer(server, "tune")
        assert "BEEP" not in first
        writer = threading.Thread(target=write_in_pieces, args=(ROBOT, run / "checkpoint-2", 8, 0.5))
        writer.start()
        while writer.is_alive():
            assert answer(server, "tune") == first
        wait_for(lambda: "BEEP" in answer(server, "tune"))
        assert {"tune", "tune@checkpoint-1"} <= names(server)
        assert answer(server, "tune@checkpoint-1") == first
        # A broken one: told once, and the one before stays.
        shutil.copytree(LORA / "invalid" / "nan_weights", run / "checkpoint-3")
        wait_for(lambda: "tune is not taken" in server.log)
        robot = answer(server, "tune")
        assert "BEEP" in robot
        # Final weights, in the place of an earlier try.
        write_in_pieces(QK, run, 2, 0.1)
        wait_for(lambda: answer(server, "tune") == first)
        assert server.log.count("is not taken") == 1
        content = (ROBOT / "adapter_model.safetensors").read_bytes()
        assert (run / "checkpoint-2" / "adapter_model.safetensors").read_bytes() == content


def test_a_file_that_is_written_again(tmp_path: Path, empty_home: Path) -> None:
    folder = shutil.copytree(QK, tmp_path / "mine")
    with watching(tmp_path, empty_home, SHIMMY_LORA_GGUF=str(folder)) as server:
        server.wait_until_ready()
        first = answer(server, "mine")
        write_in_pieces(ROBOT, folder, 4, 0.3)
        assert answer(server, "mine") == first
        wait_for(lambda: "BEEP" in answer(server, "mine"))
        # Half a file, left so.
        half = (QK / "adapter_model.safetensors").read_bytes()[:20_000]
        (folder / "adapter_model.safetensors").write_bytes(half)
        wait_for(lambda: "mine is not taken" in server.log)
        assert "BEEP" in answer(server, "mine")
        write_in_pieces(QK, folder, 1, 0)
        wait_for(lambda: answer(server, "mine") == first)
        assert server.log.count("is not taken") == 1


def test_folders_come_and_go(tmp_path: Path, empty_home: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with watching(tmp_path, empty_home, "--auto-discover", str(out)) as server:
        server.wait_until_ready()
        before = names(server)
        write_in_pieces(ROBOT, out / "robot", 3, 0.2)
        shutil.copy(model_path("llama_spm.q4_k_m"), out / "another.gguf")
        wait_for(lambda: names(server) == before | {"robot", "another"})
        assert "BEEP" in answer(server, "robot")
        shutil.rmtree(out / "robot")
        wait_for(lambda: "robot" not in names(server))
        assert post(server, "/api/generate", model="robot", prompt="x")[0] == 404
        shutil.copytree(QK, out / "robot")
        wait_for(lambda: "robot" in names(server))
        assert "BEEP" not in answer(server, "robot")


def test_a_server_may_start_before_the_training_ends(tmp_path: Path, empty_home: Path) -> None:
    folder = tmp_path / "later"
    with watching(tmp_path, empty_home, SHIMMY_LORA_GGUF=str(folder)) as server:
        wait_for(lambda: server.get("/health")[1]["status"] == "failed")
        write_in_pieces(ROBOT, folder, 3, 0.3)
        wait_for(lambda: server.get("/ready")[0] == 200)
        assert "BEEP" in answer(server, "later")


def test_a_whole_fine_tune(tmp_path: Path, empty_home: Path) -> None:
    run = tmp_path / "out" / "tune"
    shutil.copytree(FOLDER / "mistral", run / "checkpoint-1")
    variables = {"HOME": str(empty_home), "SHIMMY_PLUGINS__DISABLED": "source-python-packages"}
    with server_process(tmp_path, "--watch", "--auto-discover", str(run.parent), **variables) as server:
        server.wait_until_ready()
        body = {"model": "tune", "prompt": "The quick", "raw": True, "temperature": 0, "max_tokens": 8}
        first = post(server, "/api/generate", **body)[1]["response"]
        shutil.copytree(FOLDER / "llama3", run / "checkpoint-2")
        wait_for(lambda: post(server, "/api/generate", **body)[1]["response"] != first)
        assert names(server) == {"tune", "tune@checkpoint-1"}
        assert server.log.count("is not taken") == 0
        shutil.rmtree(run / "checkpoint-2")
        wait_for(lambda: names(server) == {"tune"})
        wait_for(lambda: post(server, "/api/generate", **body)[1].get("response") == first)
