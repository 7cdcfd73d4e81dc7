"""``shimmy verify`` on the GPU: weights, ops, layers and logits of a model are what they should be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from shimmy.cli import main
from shimmy_plugins.backends.cpu.plan import CpuSegments
from shimmy_plugins.backends.wgpu.adapters import Adapter
from tests.backend.test_verify import ZOO, assert_complete
from tests.zoo import model_path


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_model_passes(adapter: Adapter, capfd: pytest.CaptureFixture[str], precision: str):
    code = main(["verify", str(ZOO), "--gpu", adapter.facts.name, "--precision", precision, "--json"])
    report = json.loads(capfd.readouterr().out)
    assert (code, report["failed"]) == (0, [])
    assert (report["engine"]["backend"], report["engine"]["precision"]) == ("wgpu", precision)
    assert_complete(report["checks"])


def test_what_leaves_the_gpu_is_compared_where_it_is_computed(
    adapter: Adapter, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def report(*arguments: str) -> dict[str, Any]:
        main(["verify", *arguments, "--gpu", adapter.facts.name, "--json"])
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return found

    layers = (str(ZOO), "--gpu-layers", "2")
    experts = (str(model_path("qwen3moe.q4_k_m")), "--n-cpu-moe", "1")
    for arguments, what in ((layers, "layer 0: cpu"), (experts, "experts of 1 layer: cpu")):
        right = report(*arguments)
        assert (right["passed"], what in right["engine"]["description"]) == (True, True)
    run = CpuSegments.run
    monkeypatch.setattr(CpuSegments, "run", lambda *given: run(*given) * np.float32(1.01))
    failed = report(*layers)["failed"]
    assert {"blk.0", "8 tokens"} <= set(failed)
    assert not {"blk.1", "blk.1.attn_q", "output", "output.weight"} & set(failed)
    failed = report(*experts)["failed"]
    products = {f"blk.0.ffn_{name}_exps" for name in ("gate", "up", "down")}
    assert products | {f"{name}.weight" for name in products} | {"blk.0"} <= set(failed)
    assert not {"blk.1", "blk.0.attn_q", "blk.1.ffn_up_exps"} & set(failed)
