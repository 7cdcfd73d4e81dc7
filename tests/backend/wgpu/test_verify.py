"""``shimmy verify`` on the GPU: weights, ops, layers and logits of a model are what they should be."""

from __future__ import annotations

import json

import pytest

from shimmy.cli import main
from shimmy_plugins.backends.wgpu.adapters import Adapter
from tests.backend.test_verify import ZOO, assert_complete


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_model_passes(adapter: Adapter, capfd: pytest.CaptureFixture[str], precision: str):
    code = main(["verify", str(ZOO), "--gpu", adapter.facts.name, "--precision", precision, "--json"])
    report = json.loads(capfd.readouterr().out)
    assert (code, report["failed"]) == (0, [])
    assert (report["engine"]["backend"], report["engine"]["precision"]) == ("wgpu", precision)
    assert_complete(report["checks"])
