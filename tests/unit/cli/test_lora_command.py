"""``shimmy lora``: what it tells, and that what it writes computes the same."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from tests.backend.harness import compile_model, generate_greedy
from tests.backend.test_lora_zoo import SMOLLM2
from tests.lora import PLUGINS, fitted
from tests.zoo import LORA, adapter_reference, model_path

QK, ROBOT = LORA / "llama_spm_qk", LORA / "llama_spm_robot"
BASE = model_path("llama_spm.f16")


def test_inspect(run):
    code, out, _ = run("lora", "inspect", str(ROBOT), "--json")
    assert code == 0
    facts = json.loads(out)
    assert (facts["format"], facts["rank"], facts["base"]) == ("PEFT", 8, "zoo/llama_spm")
    assert "q_proj" in run("lora", "inspect", str(ROBOT))[1]


def test_inspect_tells_to_which_model_an_adapter_belongs(run, tmp_path):
    shutil.copy(BASE, tmp_path / "tiny.gguf")
    where = ("--models-dir", str(tmp_path))
    facts = json.loads(run("lora", "inspect", str(ROBOT), "--json", *where)[1])
    assert (facts["belongs_to"], facts["unpaired"]) == ("tiny", None)
    facts = json.loads(run("lora", "inspect", str(ROBOT), "--json")[1])
    assert facts["belongs_to"] is None
    assert "Get a GGUF file of 'zoo/llama_spm'" in facts["unpaired"]
    assert "trained on 'zoo/llama_spm'" in run("lora", "inspect", str(ROBOT))[1]


def test_merging_into_the_wrong_base_names_the_right_one(run, tmp_path):
    shutil.copy(BASE, tmp_path / "tiny.gguf")
    out = tmp_path / "merged.gguf"
    code, _, err = run("lora", "merge", str(SMOLLM2), str(ROBOT), str(out), "--models-dir", str(tmp_path))
    assert code == 1
    assert "256 x 512 in the adapter.\nhint: It fits 'tiny'." in err
    assert not out.exists()


def test_inspect_names_what_is_broken(run):
    code, _, err = run("lora", "inspect", str(LORA / "invalid" / "rank_a_b_differ"))
    assert code == 1
    assert "A has rank 4, B 2" in err


@pytest.mark.parametrize("given", [True, False], ids=["named", "found"])
def test_convert_writes_what_llama_cpp_writes(run, tmp_path, given):
    out = tmp_path / "out.gguf"
    shutil.copy(BASE, tmp_path / "llama_spm.gguf")
    where = ["--base", str(BASE)] if given else ["--models-dir", str(tmp_path)]
    assert run("lora", "convert", str(QK), str(out), *where) == (0, "", "")
    with open_gguf(out) as ours, open_gguf(LORA / "gguf" / "lora_llama_spm_qk.gguf") as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert ours.metadata["adapter.lora.alpha"] == theirs.metadata["adapter.lora.alpha"]
        tables = [Weights(file, PLUGINS.quant_types) for file in (ours, theirs)]
        for name in ours.tensors:
            assert np.array_equal(*(table.dequantize(name) for table in tables))
    code, _, err = run("lora", "convert", str(QK), str(out), *where)
    assert (code, "is there already" in err) == (2, True)


def test_a_converted_adapter_with_patterns_is_as_strong(run, tmp_path):
    folder = tmp_path / "patterns"
    shutil.copytree(QK, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {"k_proj": 2}}))
    assert run("lora", "convert", str(folder), str(tmp_path / "o.gguf"), "--base", str(BASE))[0] == 0
    before, after = fitted(folder, BASE), fitted(tmp_path / "o.gguf", BASE)
    assert before.keys() == after.keys()
    for label, term in before.items():
        np.testing.assert_allclose(after[label].scale * after[label].b, term.scale * term.b, rtol=1e-6)


def test_merge(run, tmp_path):
    out = tmp_path / "merged.gguf"
    assert run("lora", "merge", str(BASE), str(ROBOT), str(out)) == (0, "", "")
    plan = compile_model("cpu", out)
    reference = adapter_reference("llama_spm_robot")
    for prompt in reference["prompts"]:
        answer = reference["transformers_peft_f32"][prompt["id"]]
        found, logits = generate_greedy(plan, prompt["ids"], 16)
        assert found == answer["greedy_ids"][:16]
        top, values = (np.array(column) for column in zip(*answer["last_logits"]["top20"], strict=True))
        # The merged weights are rounded to half floats.
        np.testing.assert_allclose(logits[top.astype(int)], values, atol=0.05)
    plan.close()


def test_merge_says_which_types_it_cannot_write(run, tmp_path):
    out = tmp_path / "merged.gguf"
    code, _, err = run("lora", "merge", str(model_path("llama_spm.q6_k")), str(QK), str(out))
    assert code == 0
    with open_gguf(out) as file:
        kind = Weights(file, PLUGINS.quant_types).info("blk.0.attn_q.weight").type
    assert ("blk.0.attn_q.weight is Q8_0 now: Q6_K can be read, but not written." in err) == (kind == "Q8_0")
    assert kind in ("Q6_K", "Q8_0")
