"""Clients that were not made for shimmy, against ``shimmy serve`` with a real model.

Those that have to be fetched first are part of the long suite.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serve.server_process import MODEL, ServerProcess, server_process
from tests.serve.ws_client import RefusedError, websocket

#: As people have been told to ask.
CURL = """curl -X POST http://localhost:11435/api/generate \\
  -d '{"model":"phi3-lora","prompt":"def fibonacci(n):"}'"""
CURL_STREAM = """curl -X POST http://localhost:11435/api/generate \\
  -d '{"model":"phi3-lora","prompt":"def fibonacci(n):","stream":true}'"""

SKY = "Why is the sky blue?"
#: Forbids the tokens that would end an answer.
ENDLESS = {"0": -100, "2": -100}


def run(command: list[str] | str, **environment: str) -> str:
    """What a command prints; a text is given to the shell."""
    result = subprocess.run(
        command,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl(real_server: ServerProcess) -> None:
    answer = json.loads(run(CURL.replace("11435", str(port_of(real_server)))))
    assert answer["model"] == MODEL
    assert answer["response"].strip()
    assert answer["done"] is True
    assert answer["done_reason"] in ("stop", "length")
    assert answer["usage"]["completion_tokens"] == answer["eval_count"] > 1


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_stream(real_server: ServerProcess) -> None:
    *events, rest = run(CURL_STREAM.replace("11435", str(port_of(real_server)))).split("\n\n")
    assert rest == ""
    assert events.pop() == "data: [DONE]"
    *tokens, last = [json.loads(event.removeprefix("data: ")) for event in events]
    assert last["done"] is True
    assert last["usage"]["completion_tokens"] >= len(tokens) > 1
    assert "".join(token["token"] for token in tokens).strip()


def test_websocket_and_http_give_the_same_answer(real_server: ServerProcess) -> None:
    request = {"model": MODEL, "prompt": "1, 2, 3, 4,", "max_tokens": 6, "temperature": 0}

    async def talk() -> list[Any]:
        async with websocket(port_of(real_server)) as client:
            client.send({"id": "b", "prompt": SKY, "max_tokens": 4000, "logit_bias": ENDLESS})
            frames = await client.ask({**request, "id": "a", "stream": False})
            while frames[-1]["id"] != "a":
                frames.append(await client.receive())
            client.send({"cancel": "b"})
            while frames[-1].get("done_reason") != "cancelled":
                frames.append(await client.receive())
            return frames

    frames = asyncio.run(talk())
    [answer] = [frame for frame in frames if frame["id"] == "a"]
    assert answer["response"].startswith(" 5, 6")
    curl = run(["curl", "-s", f"{real_server.url}/api/generate", "-d", json.dumps(request)])
    assert json.loads(curl)["response"] == answer["response"]
    assert frames[-1] == {"id": "b", "done": True, "done_reason": "cancelled"}


def test_a_seed_that_was_told_repeats_the_answer(real_server: ServerProcess) -> None:
    def ask(**fields: Any) -> Any:
        body = json.dumps({"prompt": SKY, "raw": False, "max_tokens": 12, **fields})
        return json.loads(run(["curl", "-s", f"{real_server.url}/api/generate", "-d", body]))

    first = ask()
    assert ask(seed=first["seed"])["response"] == first["response"]


def test_keys(tmp_path: Path) -> None:
    """The key of a server appears neither in its log nor in what it prints."""
    file = tmp_path / "keys"
    file.write_text("key-in-file\n")
    with server_process(
        tmp_path, SHIMMY_API_KEY="key-in-variable", SHIMMY_API_KEY_FILE=str(file), SHIMMY_LOG_LEVEL="debug"
    ) as server:
        server.wait_until_ready()

        def ask(key: str) -> list[str]:
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
                return [model.id for model in client.models.list()]

        for key in ("key-in-variable", "key-in-file"):
            assert MODEL in ask(key)
        with pytest.raises(openai.AuthenticationError) as caught:
            ask("key-of-a-stranger")
        assert caught.value.code == "invalid_api_key"
        file.write_text("key-changed\n")
        assert MODEL in ask("key-changed")

        async def knock() -> int:
            try:
                async with websocket(port_of(server)):
                    return 101
            except RefusedError as error:
                return error.status

        assert asyncio.run(knock()) == 401
        printed = server.banner + server.log + json.dumps(server.get("/health"))
    assert "key-in" not in printed
    assert "key-of" not in printed


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const ask = { model: process.argv[3], max_tokens: 16, temperature: 0,
              messages: [{ role: "user", content: "Why is the sky blue?" }] };
const whole = await client.chat.completions.create(ask);
let text = "", usage = null;
const options = { ...ask, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(options)) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
let status = null;
try { await client.chat.completions.create({ ...ask, model: "nothing-like-it" }); }
catch (error) { status = [error.constructor.name, error.status, error.code]; }
const models = []; for await (const model of client.models.list()) models.push(model.id);
console.log(JSON.stringify({ whole: whole.choices[0].message.content, text, usage, status, models }));
"""


CONTINUE = """
import { constructLlmApi } from "@continuedev/openai-adapters";
const api = constructLlmApi({ provider: "openai", apiKey: "none", apiBase: process.argv[2] + "/" });
const signal = new AbortController().signal;
const ask = { model: process.argv[3], max_tokens: 16, temperature: 0,
              messages: [{ role: "user", content: "Why is the sky blue?" }] };
const whole = await api.chatCompletionNonStream({ ...ask, stream: false }, signal);
let text = "";
for await (const chunk of api.chatCompletionStream({ ...ask, stream: true }, signal)) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
console.log(JSON.stringify({ whole: whole.choices[0].message.content, text }));
process.exit(0);
"""


def node_with(folder: Path, package: str, program: str, server: ServerProcess) -> Any:
    """The JSON that a program prints that uses this package."""
    run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), package])
    (folder / "ask.mjs").write_text(program)
    return json.loads(run(["node", str(folder / "ask.mjs"), f"{server.url}/v1", MODEL]))


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm here")
def test_openai_node(exact_server: ServerProcess, tmp_path: Path) -> None:
    answer = node_with(tmp_path, "openai", NODE, exact_server)
    assert "light" in answer["whole"]
    assert answer["text"] == answer["whole"]
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["status"] == ["NotFoundError", 404, "model_not_found"]
    assert MODEL in answer["models"]


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm here")
def test_the_adapter_of_continue(exact_server: ServerProcess, tmp_path: Path) -> None:
    answer = node_with(tmp_path, "@continuedev/openai-adapters", CONTINUE, exact_server)
    assert "light" in answer["whole"]
    assert answer["text"] == answer["whole"]


def python_with(folder: Path, package: str) -> Path:
    """The folder of programs of a new environment with this package."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    run([str(programs / "python"), "-m", "pip", "install", "-q", package])
    return programs


@pytest.mark.full
def test_the_llm_command(exact_server: ServerProcess, tmp_path: Path) -> None:
    programs = python_with(tmp_path / "venv", "llm")
    user = tmp_path / "user"
    user.mkdir()
    (user / "extra-openai-models.yaml").write_text(
        f'- model_id: local\n  model_name: {MODEL}\n  api_base: "{exact_server.url}/v1"\n'
    )
    llm = [str(programs / "llm"), "-m", "local", "-o", "temperature", "0", "-o", "max_tokens", "16"]
    whole = run([*llm, "--no-stream", SKY], LLM_USER_PATH=str(user))
    assert "light" in whole
    assert run([*llm, SKY], LLM_USER_PATH=str(user)) == whole


OLLAMA = """
import sys, ollama
client = ollama.Client(host=sys.argv[1])
answer = client.generate(sys.argv[2], "1, 2, 3, 4,", options={"temperature": 0, "num_predict": 6})
print(answer.response, answer.done, answer.done_reason, answer.prompt_eval_count, answer.eval_count)
assert answer.total_duration >= answer.eval_duration > 0 and answer.created_at
try:
    client.generate("nothing-like-it", "hi")
except ollama.ResponseError as error:
    print(error.status_code, error.error)
"""


@pytest.mark.full
def test_ollama_s_client(real_server: ServerProcess, tmp_path: Path) -> None:
    programs = python_with(tmp_path / "venv", "ollama")
    answer, error = run([str(programs / "python"), "-c", OLLAMA, real_server.url, MODEL]).splitlines()
    assert answer.startswith(" 5, 6")
    assert answer.split()[-4:-2] == ["True", "length"]
    assert error.startswith("404 there is no model 'nothing-like-it'")
