"""The command line, run inside the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.cli import main
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import Plugins
from tests import zoo

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("list", "--all")`` -> (exit code, standard output, standard error)."""

    def run_it(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_it


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small chat model, which is the default one."""
    path = zoo.model_path("llama_spm.q4_0")
    monkeypatch.setenv("SHIMMY_BASE_GGUF", str(path))
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")
    return "llama_spm"


@pytest.fixture
def base_model(tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default model is one without a chat template, as if never trained for chats."""
    target = tmp_path / "base.gguf"
    specs = types_by_id(plugins.quant_types)
    with open_gguf(zoo.model_path("llama_spm.q4_0")) as file:
        metadata = {
            key: value
            for key, value in file.metadata.items()
            if key not in ("tokenizer.chat_template", "general.name")
        }
        tensors = {
            name: RawTensor(file.raw(name, specs[info.ggml_id]).tobytes(), info.ggml_id, info.shape)
            for name, info in file.tensors.items()
        }
        write_gguf(target, metadata, tensors)
    monkeypatch.setenv("SHIMMY_BASE_GGUF", str(target))
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")
