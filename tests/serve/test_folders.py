"""A Hugging Face folder served: converted at the first start, found again at the second."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.folders import FOLDER, reference
from tests.serve.server_process import server_process


def test_a_folder_is_served_like_a_file(tmp_path: Path):
    environment = {"SHIMMY_CACHE_DIR": str(tmp_path / "cache"), "SHIMMY_MODELS_DIR": str(FOLDER)}
    made = []
    for _ in range(2):
        with server_process(tmp_path, "--base-gguf", str(FOLDER / "mistral"), **environment) as server:
            server.wait_until_ready()
            assert "mistral (llama, F16)" in server.banner
            [file] = (tmp_path / "cache" / "converted").glob("*.gguf")
            made.append((file.name, file.stat().st_mtime_ns))
            names = [model["id"] for model in server.get("/v1/models")[1]["data"]]
            assert {"mistral", "llama3"} <= set(names)
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                answer = client.completions.create(
                    model="mistral", prompt="The quick brown fox", max_tokens=3, temperature=0, logprobs=2
                )
                chat = client.chat.completions.create(
                    model="mistral", messages=reference("mistral")["chat"]["messages"], max_tokens=2
                )
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == len(reference("mistral")["generations"][0]["prompt"])
            assert chat.choices[0].finish_reason in ("length", "stop")
    assert made[0] == made[1]


def test_a_broken_folder_is_told_by_name(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"")
    environment = {"SHIMMY_CACHE_DIR": str(tmp_path / "cache"), "SHIMMY_MODELS_DIR": str(tmp_path)}
    with server_process(tmp_path, "--base-gguf", str(FOLDER / "mistral"), **environment) as server:
        server.wait_until_ready()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        refusal = "'broken' cannot be used.*has no 'tokenizer.json'"
        with client, pytest.raises(openai.APIStatusError, match=refusal):
            client.completions.create(model="broken", prompt="x", max_tokens=1)
        # The server goes on.
        assert server.get("/ready")[0] == 200
