"""``shimmy lora``: what it tells, and that what it writes computes the same."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from tests.backend.harness import compile_model, generate_greedy
from tests.backend.test_lora_zoo import SMOLLM2
from tests.lora import PLUGINS, all_rows, fitted
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


def made_up(folder, **shapes):
    """An adapter of rank 2 on modules of these (out, in), dots in their names written ``__``."""
    folder.mkdir()
    draw = np.random.default_rng(5)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        a, b = draw.normal(size=(2, columns)), draw.normal(size=(rows, 2))
        kinds = ("embedding_A", "embedding_B") if name.endswith("embed_tokens") else ("A.weight", "B.weight")
        for kind, values in zip(kinds, (a, b), strict=True):
            tensors[f"base_model.model.{name.replace('__', '.')}.lora_{kind}"] = 0.3 * values.astype(
                np.float32
            )
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def same_answers(base, adapter, merged, scale=1.0):
    """Whether a base with an adapter and the merged file agree, but for rounding to Q8_0."""
    with_adapter, alone = compile_model("reference", base), compile_model("reference", merged)
    with_adapter.put_adapter(1, fitted(adapter, base))
    prompt = [5, 300, 7, 12]
    plain = generate_greedy(with_adapter, prompt, 1)[1]
    before = generate_greedy(with_adapter, prompt, 1, lambda batch: all_rows(batch, 1, scale))[1]
    after = generate_greedy(alone, prompt, 1)[1]
    change = np.abs(before - plain).max()
    assert change > 0.5
    np.testing.assert_allclose(after, before, rtol=0, atol=0.05 * change)


@pytest.mark.parametrize(
    "changed",
    [{"model__embed_tokens": (256, 2048)}, {"lm_head": (2048, 256)}],
    ids=["embedding", "head"],
)
def test_a_matrix_that_embedding_and_head_share_becomes_two(run, tmp_path, changed):
    base, out = model_path("llama3_bpe.q4_k_m"), tmp_path / "merged.gguf"
    adapter = made_up(tmp_path / "adapter", **changed)
    assert run("lora", "merge", str(base), str(adapter), str(out))[0] == 0
    with open_gguf(base) as before, open_gguf(out) as after:
        assert after.tensors.keys() - before.tensors.keys() == {"output.weight"}
    same_answers(base, adapter, out)


def test_biases_are_merged(run, tmp_path):
    """Into those there are, as in qwen2's q, k and v, and into layers without."""
    base, out = model_path("qwen2.q4_k_m"), tmp_path / "merged.gguf"
    names = ("model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.o_proj")
    shapes = [(64, 256), (256, 256)]
    fields = {name.replace(".", "__"): shape for name, shape in zip(names, shapes, strict=True)}
    adapter = made_up(tmp_path / "adapter", **fields)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, (rows, _) in zip(names, shapes, strict=True):
        tensors[f"base_model.model.{name}.lora_B.bias"] = np.full(rows, 0.25, np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    code, _, err = run("lora", "merge", str(base), str(adapter), str(out), "--scale", "0.5")
    assert code == 0, err
    same_answers(base, adapter, out, scale=0.5)


def test_a_folder_that_is_not_there(run, tmp_path):
    out = tmp_path / "nowhere" / "merged.gguf"
    for way in (["convert", str(QK), str(out), "--base", str(BASE)], ["merge", str(BASE), str(QK), str(out)]):
        code, _, err = run("lora", *way)
        assert code == 2
        assert f"there is no folder {str(out.parent)!r}" in err
