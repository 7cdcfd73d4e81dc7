"""The built-in architectures by the conformance kit: small trained models, and tiny ones of odd shapes."""

from __future__ import annotations

import pytest

from shimmy.testing import ArchitectureConformance
from shimmy.testing.answers import Answer, read_answers
from shimmy.testing.plans import Model, read_model
from tests import architectures
from tests.zoo import FILES, FOLDER, model_path

KIND = "q4_k_m"
MODELS = [name.partition(".")[0] for name in FILES if name.endswith(f".{KIND}")]
#: The example's has tests of its own.
MADE = [name for name in architectures.NAMES if name != "olmo2"]


@pytest.mark.full  # test_zoo.py has their answers
class TestTrained(ArchitectureConformance):
    @pytest.fixture(scope="class", params=MODELS)
    @classmethod
    def model(cls, request: pytest.FixtureRequest) -> Model:
        return read_model(model_path(f"{request.param}.{KIND}"), cls().plugins())

    def answers(self, model: Model) -> list[Answer]:
        """llama.cpp's to the shortest prompt, on the same weights as F32; test_zoo.py has the others."""
        name = model.path.name.partition(".")[0]
        return read_answers(FOLDER / "ref" / f"{name}.json", f"llamacpp.{KIND}__dequantised_to_f32")[:1]


class TestMade(ArchitectureConformance):
    unused = ("rope_factors_short.weight",)  # the context is a long one

    @pytest.fixture(scope="class", params=MADE)
    @classmethod
    def model(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
        path = architectures.converted(request.param, tmp_path_factory.mktemp("made"), cls().plugins())
        return read_model(path, cls().plugins())

    def answers(self, model: Model) -> list[Answer]:
        return architectures.answers(model.path.name.partition(".")[0])
