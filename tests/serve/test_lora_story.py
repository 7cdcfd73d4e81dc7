"""The promise: a training folder, two variables, ``shimmy serve``, and the adapter answers."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.backend.test_lora_zoo import SMOLLM2
from tests.serve.server_process import ServerProcess, server_process
from tests.zoo import LORA, model_path


def post(server: ServerProcess, path: str, **body: Any) -> Any:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_from_a_training_folder_to_an_api(tmp_path: Path, empty_home: Path) -> None:
    folder = tmp_path / "my-pirate-lora"
    shutil.copytree(LORA / "smol_pirate", folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }} Please.<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    variables = {
        "HOME": str(empty_home),
        "SHIMMY_BASE_GGUF": str(SMOLLM2),
        "SHIMMY_LORA_GGUF": str(folder / "adapter_model.safetensors"),
        "SHIMMY_LORA_DIRS": str(LORA),
    }
    shutil.copy(model_path("llama_spm.f16"), tmp_path / "llama_spm.gguf")
    variables["SHIMMY_MODEL_PATHS"] = str(tmp_path / "llama_spm.gguf")
    ask = {"prompt": "What is the capital of Norway?", "raw": False, "temperature": 0, "max_tokens": 12}
    with server_process(tmp_path, **variables) as server:
        server.wait_until_ready()
        assert "my-pirate-lora (llama, Q4_1)" in server.banner
        # Named after the architecture, as the variables' pair has always been.
        assert post(server, "/api/generate", model="llama-lora", **ask)["response"].strip().startswith("Arr")
        listed = {model["id"]: model["aliases"] for model in server.get("/v1/models")[1]["data"]}
        base = SMOLLM2.name.partition(".")[0]
        assert {f"{base}:my-pirate-lora", "llama-lora", f"{base}-lora"} <= {*listed["my-pirate-lora"]}
        plain = post(server, "/api/generate", model=base, **ask)
        assert not plain["response"].strip().startswith("Arr")
        assert len(server.workers()) == 1
        loaded = post(server, "/v1/load_lora_adapter", lora_name="second", lora_path="smol_pirate")
        assert loaded["base"] == plain["model"]
        mixed = post(
            server, "/api/generate", model=plain["model"], lora=[{"name": "second", "scale": 1.0}], **ask
        )
        assert mixed["response"].strip().startswith("Arr")
        # What belongs to another model at hand is told so.
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(server, "/v1/load_lora_adapter", lora_name="third", lora_path="llama_spm_qk")
        with caught.value as answer:
            problem = json.load(answer)["error"]["message"]
        assert "does not fit 'SmolLM2-135M-Instruct'" in problem
        assert problem.endswith("It fits 'llama_spm'.")
        # The default model is the pair, whose folder has a template of its own.
        default = post(server, "/api/generate", **ask)
        assert default["model"] == "my-pirate-lora"
        assert default["usage"]["prompt_tokens"] != mixed["usage"]["prompt_tokens"]
