"""Adapters find their bases, in the folders that trainers leave."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from shimmy.errors import AdapterError, ConfigError, ModelError
from shimmy.lora.pairing import comparable
from shimmy.plugins import PluginChoice, Plugins, load_plugins
from tests.backend.test_lora_zoo import SMOLLM2
from tests.unit.lora.training import QK, ROBOT, base, catalog, copy, pairs, reasons
from tests.zoo import LORA, model_path


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3-2-1b-instruct"),
        ("unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit", "llama-3-2-1b-instruct"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3-2-1b-instruct"),
        ("Llama-3.2-1B-Instruct.Q4_K_M", "llama-3-2-1b-instruct"),
        ("Llama-3.2-1B-Instruct-GGUF", "llama-3-2-1b-instruct"),
        ("/home/me/models/SmolLM2-135M-Instruct/", "smollm2-135m-instruct"),
        (r"C:\models\SmolLM2 135M Instruct", "smollm2-135m-instruct"),
        ("mlx-community/SmolLM2-135M-Instruct-4bit", "smollm2-135m-instruct"),
        ("phi3-mini.IQ4_XS", "phi3-mini"),
    ],
)
def test_comparable_names(written: str, means: str) -> None:
    assert comparable(written) == means


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    """All but the source that would find the demo's model."""
    return load_plugins(PluginChoice(disabled=("source-python-packages",)))


def test_a_folder_of_experiments(tmp_path: Path, plugins: Plugins) -> None:
    base(tmp_path / "bases" / "llama_spm.F16.gguf")
    copy(QK, tmp_path / "runs" / "qk")
    copy(ROBOT, tmp_path / "runs" / "robot", base_model_name_or_path="unsloth/llama_spm-bnb-4bit")
    shutil.copy(LORA / "gguf" / "lora_llama_spm_qk.gguf", tmp_path / "runs")
    copy(LORA / "invalid" / "nan_weights", tmp_path / "runs" / "wrong_base", base_model_name_or_path="gpt-9")
    copy(LORA / "smol_pirate", tmp_path / "runs" / "pirate")
    shutil.copytree(LORA / "invalid" / "pickle_bin_only", tmp_path / "runs" / "pickled")
    found = catalog(plugins, models_dir=tmp_path)
    assert pairs(found) == {
        "qk": "llama_spm",
        "robot": "llama_spm",
        "lora_llama_spm_qk": "llama_spm",
        "wrong_base": "llama_spm",
    }
    why = reasons(found)
    assert "is a pickle" in why["pickled"]
    assert "trained on 'HuggingFaceTB/SmolLM2-135M-Instruct'" in why["pirate"]
    assert "Get a GGUF file of 'HuggingFaceTB/SmolLM2-135M-Instruct'" in why["pirate"]
    assert "lora_llama_spm_qk.gguf" not in why
    assert found.get("llama_spm:qk").adapter == tmp_path / "runs" / "qk"
    assert found.get("qk").base == found.get("llama_spm")
    assert found.default().adapter is None
    # A request for it is at fault, not the server.
    with pytest.raises(AdapterError, match="adapter 'pickled' cannot be used: .* is a pickle"):
        found.get("pickled")


def test_a_name_wins_over_shapes_and_must_fit_them(tmp_path: Path, plugins: Plugins) -> None:
    base(tmp_path / "alpha.gguf", "Alpha")
    base(tmp_path / "beta.gguf", "Beta")
    copy(QK, tmp_path / "by_name", base_model_name_or_path="someone/beta")
    copy(QK, tmp_path / "by_shape", base_model_name_or_path="someone/gamma")
    copy(
        LORA / "invalid" / "base_mismatch_hidden_128", tmp_path / "misfit", base_model_name_or_path="x/Alpha"
    )
    found = catalog(plugins, auto_discover=tmp_path)
    assert pairs(found) == {"by_name": "beta"}
    why = reasons(found)
    assert "several models have its shapes ('alpha', 'beta')" in why["by_shape"]
    assert "'alpha' has the name of its base, but" in why["misfit"]
    assert "128 x 256 there, and 64 x 128 in the adapter" in why["misfit"]


@pytest.mark.parametrize("said", ["null", "missing", "empty", "number"])
def test_an_adapter_that_names_no_base(tmp_path: Path, plugins: Plugins, said: str) -> None:
    values = {"null": None, "empty": "", "number": 5}
    for name in ("mine", "orphan"):
        source = QK if name == "mine" else LORA / "smol_pirate"
        folder = copy(source, tmp_path / name, base_model_name_or_path=values.get(said))
        if said == "missing":
            file = folder / "adapter_config.json"
            config = json.loads(file.read_text())
            del config["base_model_name_or_path"]
            file.write_text(json.dumps(config))
    base(tmp_path / "alpha.gguf", "Alpha")
    found = catalog(plugins, auto_discover=tmp_path)
    assert pairs(found) == {"mine": "alpha"}
    assert re.search(
        r"orphan: no model at hand has its shapes \('model.layers.*' is 576 x 576\). "
        r"Get a GGUF file of its base, in any quantisation",
        reasons(found)["orphan"],
    )
    base(tmp_path / "beta.gguf", "Beta")
    why = reasons(catalog(plugins, auto_discover=tmp_path))["mine"]
    assert "('alpha', 'beta'), and its files do not say which one is meant" in why


def test_checkpoints(tmp_path: Path, plugins: Plugins) -> None:
    base(tmp_path / "llama_spm.gguf")
    for number in (5, 20, 100):
        copy(QK, tmp_path / "running" / f"checkpoint-{number}")
        copy(QK, tmp_path / "done" / f"checkpoint-{number}")
    (tmp_path / "running" / "checkpoint-200").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(QK / name, tmp_path / "done")
    found = catalog(plugins, models_dir=tmp_path)
    names = {f"{run}@checkpoint-{number}" for run in ("running", "done") for number in (5, 20, 100)}
    assert pairs(found).keys() == {"done", "running", *names} - {"running@checkpoint-100"}
    assert found.get("running").adapter == tmp_path / "running" / "checkpoint-100"
    assert found.get("done").adapter == tmp_path / "done"


def test_the_latest_checkpoint_that_is_whole_stands_for_the_training(
    tmp_path: Path, plugins: Plugins
) -> None:
    run = tmp_path / "run"
    for number in (5, 20):
        copy(QK, run / f"checkpoint-{number}")
    shutil.copytree(LORA / "invalid" / "truncated", run / "checkpoint-30")
    base_gguf = model_path("llama_spm.f16")
    for settings in ({"models_dir": tmp_path}, {"lora_gguf": run}):
        found = catalog(plugins, base_gguf=base_gguf, **settings)
        assert found.get("run").adapter == run / "checkpoint-20"
        assert found.get("run@checkpoint-5").adapter == run / "checkpoint-5"
        assert "ends at byte" in reasons(found)["checkpoint-30"]
    assert found.default().name == "run"
    explicit = catalog(plugins, base_gguf=base_gguf, lora_gguf=run / "checkpoint-5")
    assert explicit.default().name == "run@checkpoint-5"


def test_news_that_are_held_back_change_nothing(tmp_path: Path, plugins: Plugins) -> None:
    run, own = tmp_path / "run", copy(QK, tmp_path / "own")
    copy(QK, run / "checkpoint-5")
    found = catalog(plugins, base_gguf=model_path("llama_spm.f16"), models_dir=tmp_path)
    before = pairs(found)
    known = found.adapters()
    new = copy(ROBOT, run / "checkpoint-6")
    (own / "adapter_model.safetensors").write_bytes(b"half")
    found.publish(found.survey({new: "not yet", own: "not yet"}))
    # Whoever looks again has no say in it.
    found.refresh()
    assert found.adapters() == known
    assert pairs(found) == before
    assert reasons(found)["checkpoint-6"] == "not yet"
    found.publish(found.survey())
    assert found.get("run").adapter == new
    assert "4 bytes" in reasons(found)["own"]


def test_equal_names_take_their_folders_along(tmp_path: Path, plugins: Plugins) -> None:
    base(tmp_path / "llama_spm.gguf")
    for run in ("a", "b"):
        copy(QK, tmp_path / run / "final")
    copy(QK, tmp_path / "c" / "llama_spm")
    assert pairs(catalog(plugins, models_dir=tmp_path)).keys() == {"a/final", "b/final", "c/llama_spm"}


@pytest.mark.parametrize("given", ["", "adapter_model.safetensors", "adapter_config.json"])
def test_the_pair_of_the_variables(tmp_path: Path, plugins: Plugins, given: str) -> None:
    path = copy(QK, tmp_path / "my-lora", base_model_name_or_path="who/knows")
    found = catalog(plugins, base_gguf=model_path("llama_spm.f16"), lora_gguf=path / given)
    card = found.default()
    assert (card.name, card.adapter, card.path) == ("my-lora", path, model_path("llama_spm.f16"))
    for name in ("llama-lora", f"{card.base.name}-lora", f"{card.base.name}:my-lora", "my-lora"):
        assert found.get(name) == card
    assert found.get(card.base.name).adapter is None


def test_only_the_adapter_is_named(tmp_path: Path, plugins: Plugins) -> None:
    base(tmp_path / "llama_spm.gguf")
    copy(QK, tmp_path / "elsewhere" / "my-lora")
    found = catalog(
        plugins, model_paths=(tmp_path / "llama_spm.gguf",), lora_gguf=tmp_path / "elsewhere/my-lora"
    )
    assert found.default().base.path == tmp_path / "llama_spm.gguf"


def test_the_variables_name_another_base(plugins: Plugins) -> None:
    adapter, other = LORA / "smol_pirate", model_path("llama_spm.f16")
    found = catalog(plugins, base_gguf=other, lora_gguf=adapter, model_paths=(SMOLLM2,))
    with pytest.raises(ModelError, match="does not fit 'llama_spm.*It fits 'SmolLM2-135M-Instruct'"):
        found.default()


def test_a_named_base_that_is_at_hand_need_not_be_got(plugins: Plugins) -> None:
    """It is the right one by name, so it is the adapter that is another one's, or broken."""
    path = model_path("llama_spm.f16")
    found = catalog(plugins, base_gguf=path, lora_gguf=LORA / "invalid" / "layer_out_of_range")
    with pytest.raises(ModelError, match="does not fit 'llama_spm'.*Is it the same model") as caught:
        found.default()
    assert "Get a GGUF file" not in str(caught.value)


def test_an_adapter_that_is_not_there(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="lora_gguf is '.*missing' .*there is no such file or folder"):
        catalog(plugins, lora_gguf=tmp_path / "missing").default()


def test_a_broken_adapter_that_is_named(tmp_path: Path, plugins: Plugins) -> None:
    found = catalog(plugins, base_gguf=model_path("llama_spm.f16"), lora_gguf=LORA / "invalid" / "rank_zero")
    with pytest.raises(ModelError, match="r is 0, expected a whole number above 0"):
        found.default()
