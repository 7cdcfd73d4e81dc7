"""Bases that an adapter does not fit, and those that fit and cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from shimmy.huggingface.folder import ModelFolder
from shimmy.lora.adapter import Adapter, Floats, Module, Part
from shimmy.lora.pairing import Candidate, misfit
from shimmy.plugins import Plugins
from tests.backend.test_lora_zoo import SMOLLM2
from tests.folders import FOLDER
from tests.unit.lora.training import QK, base, catalog, copy, pairs, reasons
from tests.zoo import LORA, model_path


def test_a_base_that_is_there_and_cannot_be_used(tmp_path: Path, plugins: Plugins) -> None:
    """Its architecture is known by name, but no plugin computes it."""
    base(tmp_path / "other.gguf", "Other")
    whole = base(tmp_path / "mistral.gguf", "Mistral").read_bytes()
    (tmp_path / "mistral.gguf").write_bytes(whole.replace(b"llama", b"xlnet"))
    copy(LORA / "smol_pirate", tmp_path / "by_name", base_model_name_or_path="mistralai/Mistral")
    copy(QK, tmp_path / "better", base_model_name_or_path="mistralai/Mistral")
    why = reasons(catalog(plugins, auto_discover=tmp_path))
    problem = "'mistral' has the name of its base, but no plugin provides its architecture 'xlnet'."
    assert why["by_name"].endswith(f"{problem} It fits 'SmolLM2-135M-Instruct'.")
    assert why["better"].endswith(f"{problem} It fits 'other'.")


def test_a_folder_that_cannot_be_used_and_a_broken_file(tmp_path: Path, plugins: Plugins) -> None:
    config = {"architectures": ["StrangeForCausalLM"]}
    shutil.copytree(FOLDER / "llama3", tmp_path / "strange")
    (tmp_path / "strange" / "config.json").write_text(json.dumps(config))
    (tmp_path / "cut.gguf").write_bytes(model_path("llama_spm.f16").read_bytes()[:5000])
    for name in ("strange", "cut"):
        copy(QK, tmp_path / "runs" / f"for_{name}", base_model_name_or_path=f"someone/{name}")
    why = reasons(catalog(plugins, auto_discover=tmp_path))
    assert "'strange' has the name of its base, but" in why["for_strange"]
    assert "no plugin converts the architecture 'StrangeForCausalLM'" in why["for_strange"]
    assert "'cut' has the name of its base, but" in why["for_cut"]


def test_nothing_speaks_for_a_folder_of_which_no_shape_is_known(tmp_path: Path, plugins: Plugins) -> None:
    shutil.copytree(FOLDER / "llama3", tmp_path / "tiny")
    shutil.copy(LORA / "gguf" / "lora_llama_spm_qk.gguf", tmp_path / "adapter.gguf")
    found = catalog(plugins, auto_discover=tmp_path)
    assert pairs(found) == {}
    assert "no model at hand has" in reasons(found)["adapter.gguf"]


def test_whole_matrices_and_tied_heads_must_fit(tmp_path: Path, plugins: Plugins) -> None:
    candidate = Candidate(catalog(plugins, base_gguf=SMOLLM2).default())
    wide, tied = Part("w", (576, 1536), _never), Part("b", (100, 2), _never)
    for module, problem in {
        Module(weight=wide): "'lm_head' is 49152 x 576 there, and 576 x 1536 in the adapter.",
        Module(Part("a", (2, 576), _never), tied): "'lm_head' is 49152 x 576 there, and 100 x 576",
    }.items():
        found = misfit(Adapter(tmp_path, "PEFT", {"lm_head": module}), candidate)
        assert found is not None
        assert problem in found
    fits = Module(Part("a", (2, 576), _never), Part("b", (49152, 2), _never))
    assert misfit(Adapter(tmp_path, "PEFT", {"lm_head": fits}), candidate) is None


def test_a_folder_must_fit_too(tmp_path: Path, plugins: Plugins) -> None:
    """Weights of Hugging Face's are compared before anything is converted."""
    shutil.copytree(FOLDER / "llama3", tmp_path / "tiny")
    shape = ModelFolder(tmp_path / "tiny").tensors["model.layers.0.self_attn.q_proj.weight"].shape
    candidate = Candidate(catalog(plugins, base_gguf=tmp_path / "tiny").default())
    for rows, problem in ((shape[0], None), (shape[0] + 1, f"is {shape[0]} x {shape[1]} there")):
        module = Module(Part("a", (2, shape[1]), _never), Part("b", (rows, 2), _never))
        adapter = Adapter(tmp_path, "PEFT", {"model.layers.0.self_attn.q_proj": module})
        found = misfit(adapter, candidate)
        assert (found is None) if problem is None else (problem in (found or ""))


def _never() -> Floats:
    raise AssertionError("a weight was read")
