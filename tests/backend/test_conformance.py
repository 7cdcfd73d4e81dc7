"""The built-in architectures by the conformance kit, on small trained models and answers of others."""

from __future__ import annotations

import pytest

from shimmy.testing import ArchitectureConformance
from shimmy.testing.answers import Answer, read_answers
from shimmy.testing.plans import Model, read_model
from tests.zoo import FOLDER, model_path

#: A model of each, and where its answers are: transformers', or llama.cpp's on the same weights as F32.
MODELS = {
    "llama_spm.q4_k_m": "llamacpp.q4_k_m__dequantised_to_f32",
    "llama3_bpe.f16": "transformers_f32",
}


class TestBuiltInArchitectures(ArchitectureConformance):
    @pytest.fixture(scope="class", params=list(MODELS))
    @classmethod
    def model(cls, request: pytest.FixtureRequest) -> Model:
        return read_model(model_path(request.param), cls().plugins())

    def answers(self, model: Model) -> list[Answer]:
        name = model.path.stem
        return read_answers(FOLDER / "ref" / f"{name.partition('.')[0]}.json", MODELS[name])
