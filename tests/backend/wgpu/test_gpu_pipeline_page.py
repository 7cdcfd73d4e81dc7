"""docs/gpu_pipeline.md: its example computes, and the files it names exist."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.load import op_table
from shimmy.graph.builder import Graph
from shimmy.plugins import load_plugins
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests.backend.harness import (
    LIMITS,
    MadeUpWeights,
    Part,
    assert_close,
    batch_of,
    floats,
    no_progress,
    rows_of,
)
from tests.docs.pages import DOCS, page, snippets

PAGE = "gpu_pipeline.md"
ROOT = DOCS.parent
PLACES = (
    ROOT,
    ROOT / "plugins/shimmy_plugins/backends/wgpu",
    ROOT / "shaders/shimmy_shaders",
    ROOT / "shaders/shimmy_shaders/common",
    ROOT / "shaders/shimmy_shaders/ops",
)


def test_the_example_computes(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    [(_, plugin)] = snippets(PAGE, "python")
    shader = next(code for _, code in snippets(PAGE, "wgsl") if code.startswith("// y = max(x, 0)^2"))
    package = tmp_path / "shimmy_relu2"
    package.mkdir()
    (package / "__init__.py").write_text(plugin)
    (package / "relu2.wgsl").write_text(shader)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = import_module("shimmy_relu2")
    request.addfinalizer(lambda: sys.modules.pop("shimmy_relu2"))
    plugins = load_plugins(extra=[module])
    weights = MadeUpWeights(rows=floats(np.random.default_rng(1), 10, 300))
    graph = Graph(weights, op_table(plugins))
    graph.output = graph.last(graph.op("relu2", graph.embed("rows"))).index
    plan = WgpuBackend(plugins, gpu).compile(graph, weights, LIMITS, no_progress)
    assert plan.fallbacks == ()
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([3, 0, 9])], every_row=True))
    assert_close(found, weights.dequantize("rows.weight")[[3, 0, 9]].clip(min=0) ** 2)
    plan.close()


NAMED = re.findall(r"`([\w./]+\.(?:py|wgsl))`", page(PAGE))


@pytest.mark.parametrize("name", sorted({*NAMED} - {"relu2.wgsl"}))
def test_the_files_it_names_exist(name: str) -> None:
    assert any((place / name).is_file() for place in PLACES)
