"""Many clients at once, over HTTP, while adapters are replaced and unloaded: every answer is its own."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.serve.server_process import ServerProcess, server_process
from tests.zoo import LORA, model_path

CLIENTS, SECONDS = 16, 120.0
#: This name means one adapter, then the other, in turns.
TURNING = "turning"
TURNS = ("llama_spm_robot", "llama_spm_qk")
ADAPTERS = ("llama_spm_qk", "llama_spm_robot", "llama_spm_patterns", "llama_spm_embed")
PROMPTS = ("What is the capital of Norway?", "Say hello.", "The opposite of hot is", "Count: one, two,")


def post(server: ServerProcess, path: str, **body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(server: ServerProcess, model: str, prompt: str) -> tuple[int, Any]:
    return post(server, "/api/generate", model=model, prompt=prompt, temperature=0, max_tokens=16)


def load(server: ServerProcess, name: str, path: str) -> None:
    status, answer = post(server, "/v1/load_lora_adapter", lora_name=name, lora_path=path, load_inplace=True)
    assert status == 200, answer


@pytest.mark.full
def test_a_crowd(tmp_path: Path, empty_home: Path) -> None:
    variables = {"HOME": str(empty_home), "SHIMMY_BASE_GGUF": str(model_path("llama_spm.q4_0"))}
    with server_process(tmp_path, "--lora-dirs", str(LORA), "--max-adapters", "6", **variables) as server:
        server.wait_until_ready()
        base = server.get("/health")[1]["models"][0]["name"]
        for name in ADAPTERS:
            load(server, name, name)
        load(server, TURNING, TURNS[0])
        alone = {(m, p): {ask(server, m, p)[1]["response"]} for m in (base, *ADAPTERS) for p in PROMPTS}
        assert len(set.union(*alone.values())) > len(ADAPTERS) * 2
        alone |= {(TURNING, p): alone[TURNS[0], p] | alone[TURNS[1], p] for p in PROMPTS}
        before = _memory(server)
        wrong: list[Any] = []
        done = [0]
        end = time.monotonic() + SECONDS

        def client(seed: int) -> None:
            chosen = random.Random(seed)
            while time.monotonic() < end:
                model, prompt = chosen.choice((base, *ADAPTERS, TURNING)), chosen.choice(PROMPTS)
                status, answer = ask(server, model, prompt)
                # The one error that is announced: an adapter that is unloaded just now.
                if (
                    not (status == 404 and model == ADAPTERS[-1])
                    and answer.get("response") not in alone[model, prompt]
                ):
                    wrong.append((model, prompt, status, answer))
                done[0] += 1

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for turn in itertools.cycle(TURNS):
            if time.monotonic() >= end:
                break
            load(server, TURNING, turn)
            replaced = random.choice(ADAPTERS)
            load(server, replaced, replaced)
            post(server, "/v1/unload_lora_adapter", lora_name=ADAPTERS[-1])
            time.sleep(0.1)
            load(server, ADAPTERS[-1], ADAPTERS[-1])
        for thread in threads:
            thread.join()
        assert not wrong, wrong[:3]
        assert done[0] > SECONDS * 5
        assert _memory(server) < before + 64 * 2**20


def _memory(server: ServerProcess) -> int:
    return sum(each.memory_info().rss for each in [psutil.Process(server.process.pid), *server.workers()])
