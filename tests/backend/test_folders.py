"""Model folders as transformers wrote them: greedy tokens and logits are those it computes in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.load import load_engine
from shimmy.engine.settings import EngineSettings
from tests.backend.harness import BACKENDS, generate_greedy, gpu_of, no_progress
from tests.folders import FOLDER, NAMES, all_plugins, reference


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quantize", ["f16", "f32"])
def test_greedy_tokens_and_logits_are_those_of_transformers(name: str, backend: str, quantize: str):
    settings = EngineSettings(backend=backend, gpu=gpu_of(backend), kv_memory=2**26, quantize=quantize)
    loaded = load_engine(FOLDER / name, name, settings, all_plugins(), no_progress)
    for answer in reference(name)["generations"]:
        found, logits = generate_greedy(loaded.engine.plan, answer["prompt"], len(answer["ids"]))
        assert found == answer["ids"]
        np.testing.assert_allclose(
            logits[answer["first"]["ids"]], answer["first"]["logits"], rtol=0, atol=1e-3
        )
    loaded.engine.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_bits_come_near(backend: str):
    settings = EngineSettings(backend=backend, gpu=gpu_of(backend), kv_memory=2**26, quantize="q8_0")
    loaded = load_engine(FOLDER / "llama3", "llama3", settings, all_plugins(), no_progress)
    answer = reference("llama3")["generations"][0]
    _, logits = generate_greedy(loaded.engine.plan, answer["prompt"], 1)
    expected = np.array(answer["first"]["logits"])
    error = np.abs(logits[answer["first"]["ids"]] - expected).max()
    # Rounded: not equal, and not far away.
    assert 1e-4 < error < 0.03 * np.abs(expected).max()
    loaded.engine.close()
