"""Folders to files: made once for each content, whole or not at all, by however many at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shimmy.engine.load import record_model
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, ModelError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.plugins import Plugins
from shimmy.testing.plans import no_progress
from tests.folders import FOLDER, all_plugins, change_json, change_tensors, copy
from tests.unit.huggingface.conftest import MakeConverter


class Steps(list[str]):
    """The phases reported, each once, and that every report makes sense."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        assert 0 < done <= total
        if phase not in self:
            self.append(phase)


def types_of(path: Path) -> dict[str, str]:
    with open_gguf(path) as file:
        weights = Weights(file, all_plugins().quant_types)
        return {name: weights.info(name).type for name in weights.names()}


def test_a_second_start_reads_nothing(converter: MakeConverter, cache: Path):
    first, second = Steps(), Steps()
    made = converter().file_of(FOLDER / "llama3", first)
    assert first == ["reading", "converting to F16"]
    assert converter().file_of(FOLDER / "llama3", second) == made
    assert second == []
    assert [path.suffix for path in sorted(cache.iterdir())] == [".json", ".gguf"]


def test_a_touched_folder_and_its_copy_keep_their_file(converter: MakeConverter, tmp_path: Path):
    folder, steps = copy("llama3", tmp_path), Steps()
    made = converter().file_of(folder, Steps())
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))
    assert converter().file_of(folder, steps) == made
    assert converter().file_of(copy("llama3", tmp_path / "elsewhere"), steps) == made
    assert steps == ["reading"]


def test_changed_weights_are_converted_and_the_old_file_goes(
    converter: MakeConverter, tmp_path: Path, cache: Path
):
    folder = copy("mistral", tmp_path)
    before = converter().file_of(folder, Steps())
    norm = np.full(48, 0.5, np.float16)
    change_tensors(folder / "model.safetensors", model__norm__weight=norm)
    after = converter().file_of(folder, Steps())
    assert after != before
    assert list(cache.glob("*.gguf")) == [after]
    with open_gguf(after) as file:
        values = Weights(file, all_plugins().quant_types).dequantize("output_norm.weight")
    assert (values == 0.5).all()


def test_a_changed_text_is_a_change_too(converter: MakeConverter, tmp_path: Path):
    folder = copy("mistral", tmp_path)
    before = converter().file_of(folder, Steps())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    after = converter().file_of(folder, Steps())
    assert after != before
    with open_gguf(after) as file:
        assert file.metadata["tokenizer.chat_template"] == "{{ messages }}"


def test_a_file_that_another_folder_has_made_stays(converter: MakeConverter, tmp_path: Path):
    folder, other = copy("mistral", tmp_path), copy("mistral", tmp_path / "other")
    made = converter().file_of(folder, Steps())
    assert converter().file_of(other, Steps()) == made
    (folder / "chat_template.jinja").write_text("new")
    converter().file_of(folder, Steps())
    assert made.exists()


@pytest.mark.parametrize("quantize", ["q8_0", "Q4_0"])
def test_types_are_those_asked_for(converter: MakeConverter, quantize: str):
    types = types_of(converter(quantize).file_of(FOLDER / "llama3", Steps()))
    assert types["blk.0.attn_q.weight"] == quantize.upper()
    assert types["token_embd.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == types["rope_freqs.weight"] == "F32"


def test_rows_that_are_no_whole_blocks_stay_halves_aloud(
    converter: MakeConverter, caplog: pytest.LogCaptureFixture
):
    types = types_of(converter("q4_0").file_of(FOLDER / "mistral", Steps()))
    # Rows of 48; those of the others are 64.
    assert types["blk.0.attn_q.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q4_0"
    expected = (
        r"1[0-9] tensors \(\S+, \.\.\.\) have rows that are no whole blocks of Q4_0; they are kept as F16"
    )
    assert re.search(expected, caplog.text)


def test_values_are_those_of_the_folder(converter: MakeConverter):
    stored = load_file(FOLDER / "mistral" / "model.safetensors")
    with open_gguf(converter().file_of(FOLDER / "mistral", Steps())) as file:
        weights = Weights(file, all_plugins().quant_types)
        found = {name: weights.dequantize(name) for name in weights.names()}
    assert len(found) == len(stored)
    np.testing.assert_array_equal(found["blk.1.ffn_up.weight"], stored["model.layers.1.mlp.up_proj.weight"])
    q = stored["model.layers.1.self_attn.q_proj.weight"]
    # Of the first head: rows 0 and 8 of the folder are the first pair of the file.
    np.testing.assert_array_equal(found["blk.1.attn_q.weight"][:2], q[[0, 8]])


def test_an_unknown_type_is_refused_with_the_known(converter: MakeConverter, cache: Path):
    with pytest.raises(ConfigError, match="'q4_k_m'.*q4_"):
        converter("q4_k_m").file_of(FOLDER / "llama3", Steps())
    assert not cache.exists()


def test_a_damaged_file_is_made_anew(converter: MakeConverter, caplog: pytest.LogCaptureFixture):
    made = converter().file_of(FOLDER / "llama3", Steps())
    content = made.read_bytes()
    made.write_bytes(content[:-1000])
    assert converter().file_of(FOLDER / "llama3", Steps()) == made
    assert made.read_bytes() == content
    assert "is damaged and is made anew" in caplog.text


def test_what_a_killed_process_left_goes(converter: MakeConverter, cache: Path):
    cache.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = cache / f"x.gguf.{ended.pid}.part", cache / f"x.gguf.{os.getppid()}.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
    converter().file_of(FOLDER / "llama3", Steps())
    assert not dead.exists()
    assert alive.exists()


def test_a_full_disk_is_said_before_anything_is_written(
    converter: MakeConverter, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**20))
    with pytest.raises(ModelError, match=r"takes 0 MiB in .*, where 1 MiB are free\. Make room"):
        converter().file_of(FOLDER / "llama3", Steps())
    assert list(cache.iterdir()) == []


def test_a_failure_while_writing_leaves_nothing(converter: MakeConverter, tmp_path: Path, cache: Path):
    folder = copy("mistral", tmp_path)
    weight = np.zeros(48, np.float16)
    weight[3] = np.nan
    change_tensors(folder / "model.safetensors", model__norm__weight=weight)
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' holds values that are no finite numbers"):
        converter().file_of(folder, Steps())
    assert list(cache.glob("*.gguf*")) == []


def test_two_processes_at_once(converter: MakeConverter, cache: Path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from shimmy.engine.load import op_table\n"
        "from shimmy.huggingface.converted import Converter\n"
        "from tests.folders import FOLDER, all_plugins\n"
        "plugins = all_plugins()\n"
        "input()\n"
        "converter = Converter(plugins, op_table(plugins), 'f16', Path(sys.argv[1]))\n"
        "print(converter.file_of(FOLDER / 'llama3', lambda *_: None))\n"
    )
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(cache)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    made = converter().file_of(FOLDER / "llama3", Steps())
    assert answers == [str(made)] * 2
    assert [path.suffix for path in sorted(cache.iterdir())] == [".json", ".gguf"]


def test_context_ends_where_a_window_does(converter: MakeConverter, tmp_path: Path):
    folder = copy("qwen2", tmp_path)
    change_json(folder / "config.json", sliding_window=128, use_sliding_window=True)
    with open_gguf(converter().file_of(folder, Steps())) as file:
        assert file.metadata["qwen2.context_length"] == 128


def test_mistrals_window_is_heeded(converter: MakeConverter, tmp_path: Path, plugins: Plugins):
    folder = copy("mistral", tmp_path)
    change_json(folder / "config.json", sliding_window=128)
    path = converter().file_of(folder, Steps())
    graph = record_model(path, path.stem, EngineSettings(), plugins, no_progress).graph
    assert {node.attrs["window"] for node in graph.nodes if node.op == "attention"} == {128}
