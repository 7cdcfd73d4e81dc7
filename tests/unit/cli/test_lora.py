"""Commands with a model that has an adapter: the variables' pair answers everywhere, not the base alone."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.zoo import LORA, adapter_reference, model_path


@pytest.fixture
def pair(tmp_path, monkeypatch):
    folder = tmp_path / "robot"
    shutil.copytree(LORA / "llama_spm_robot", folder)
    results = {"train_loss": 0.25, "epoch": 3.0}
    (folder / "training_results.json").write_text(json.dumps(results))
    state = {"global_step": 40, "log_history": [{"loss": 0.5}, {"loss": 0.125}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    monkeypatch.setenv("SHIMMY_BASE_GGUF", str(model_path("llama_spm.f16")))
    monkeypatch.setenv("SHIMMY_LORA_GGUF", str(folder / "adapter_config.json"))
    return folder


def test_generate(run, pair):
    prompt = next(p for p in adapter_reference("llama_spm_robot")["prompts"] if p["id"] == "raw")
    wanted = adapter_reference("llama_spm_robot")["transformers_peft_f32"]["raw"]["greedy_text"]
    code, out, err = run(
        "generate", "--precision", "f32", "--prompt", prompt["text"], "--raw", "--temperature", "0",
        "--max-tokens", "20", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["model"] == "robot"
    assert answer["response"].strip()
    assert wanted.strip().startswith(answer["response"].strip())


def test_probe_tells_of_the_adapter_and_its_training(run, pair):
    code, out, _ = run("probe", "--json")
    assert code == 0
    adapter = json.loads(out)["adapter"]
    assert (adapter["format"], adapter["rank"], adapter["modules"]) == ("PEFT", 8, 21)
    assert adapter["training"] == {"global_step": 40, "loss": 0.125, "epoch": 3.0, "train_loss": 0.25}
    code, out, _ = run("probe")
    assert code == 0
    assert "rank 8" in out
    assert "train_loss 0.25" in out


def test_probe_of_a_broken_one(run, monkeypatch, pair):
    monkeypatch.setenv("SHIMMY_LORA_GGUF", str(LORA / "invalid" / "nan_weights"))
    code, _, err = run("probe")
    assert code == 2
    assert "holds values that are no finite numbers" in err


def test_list_shows_pairs_and_why_others_have_no_base(run, monkeypatch, pair, tmp_path):
    shutil.copytree(LORA / "invalid" / "rank_zero", tmp_path / "broken")
    monkeypatch.setenv("SHIMMY_AUTO_DISCOVER", str(tmp_path))
    assert "robot" in run("list", "--short")[1].split()
    out = run("discover", "--all")[1]
    assert "r is 0, expected a whole number above 0" in out


def test_lists_show_bases_and_what_several_would_be_called(run, monkeypatch, pair, tmp_path):
    monkeypatch.setenv("SHIMMY_AUTO_DISCOVER", str(tmp_path))
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")
    base = "llama_spm"
    for name in ("one/final", "two/final", f"three/{base}"):
        shutil.copytree(LORA / "llama_spm_qk", tmp_path / name)
    listing = json.loads(run("list", "--json")[1])
    bases = {row["name"]: row["base"] and row["base"]["name"] for row in listing["models"]}
    adapters = ("one/final", "robot", f"three/{base}", "two/final")
    assert bases == {base: None} | dict.fromkeys(adapters, base)
    clashes = {"final": ["one/final", "two/final"], base: [base, f"three/{base}"]}
    assert listing["clashes"] == json.loads(run("discover", "--json")[1])["clashes"] == clashes
    for command in ("list", "discover"):
        table = run(command)[1].splitlines()
        [row] = [line.split() for line in table if " robot " in f" {line} "]
        assert row[-2:] == [base, str(pair)]
        assert table[0].split()[-2:] == ["BASE", "PATH"]
        assert table[-2:] == [
            "Several are called 'final': one/final, two/final.",
            f"Several are called {base!r}: {base}, three/{base}.",
        ]
