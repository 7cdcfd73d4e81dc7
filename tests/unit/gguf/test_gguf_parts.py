"""Models split over several files are one model for whoever opens the first."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.client import EngineClient
from shimmy.engine.protocol import Sampling
from shimmy.engine.settings import EngineSettings
from shimmy.errors import GGUFError
from shimmy.gguf.card import read_card
from shimmy.gguf.parts import PartName, model_stem, part_name, part_paths
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import write_gguf
from tests import zoo
from tests.unit.gguf.splitting import split_gguf

WHOLE = zoo.model_path("llama_spm.q4_k_m")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Path]:
    return split_gguf(WHOLE, tmp_path_factory.mktemp("split"), "tiny", 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny-00001-of-00003.gguf", PartName("tiny", 1, 3)),
        ("tiny-00003-of-00003.gguf", PartName("tiny", 3, 3)),
        ("tiny-00004-of-00003.gguf", None),
        ("tiny-00000-of-00003.gguf", None),
        ("tiny-1-of-3.gguf", None),
        ("-00001-of-00003.gguf", None),
        ("tiny.gguf", None),
    ],
)
def test_names_of_parts(name, expected):
    assert part_name(Path(name)) == expected
    assert model_stem(Path(name)) == ("tiny" if expected else Path(name).stem)


def test_paths_of_all_parts(parts):
    assert part_paths(parts[0]) == parts
    assert part_paths(parts[1]) == [parts[1]]
    assert part_paths(WHOLE) == [WHOLE]


def test_a_split_model_is_the_whole_one(parts, plugins):
    with open_gguf(WHOLE) as whole, open_gguf(parts[0]) as split:
        assert split.paths == tuple(parts)
        assert split.size_bytes == sum(part.stat().st_size for part in parts)
        assert dict(whole.metadata).items() <= dict(split.metadata).items()
        assert set(split.tensors) == set(whole.tensors)
        assert {info.part for info in split.tensors.values()} == {0, 1, 2}
        ours, theirs = Weights(split, plugins.quant_types), Weights(whole, plugins.quant_types)
        for name in whole.tensors:
            np.testing.assert_array_equal(ours.dequantize(name), theirs.dequantize(name))
        one, other = (
            read_card(file, name="tiny", source="test", quant_types=plugins.quant_types)
            for file in (whole, split)
        )
    assert (one.parameters, one.quantization, one.context_length) == (
        other.parameters,
        other.quantization,
        other.context_length,
    )
    with pytest.raises(GGUFError, match="is closed"):
        split.raw("output_norm.weight", plugins.quant_types.get("F32"))


def test_a_split_model_answers_as_the_whole_one(tmp_path):
    first = split_gguf(zoo.model_path("llama_spm.f16"), tmp_path, "tiny", 4)[0]
    reference = zoo.reference("llama_spm")
    prompt = reference["prompts"][0]
    wanted = reference["transformers_f32"]["prompts"][prompt["id"]]["greedy_ids"][:16]

    async def answer() -> list[int]:
        client = EngineClient("tiny", first, EngineSettings(backend="reference"))
        greedy = Sampling(temperature=0.0)
        events = client.generate(prompt["ids"], max_tokens=16, sampling=greedy, stop_ids=[])
        try:
            return [event.token async for some in events for event in some if event.token is not None]
        finally:
            await client.close()

    assert asyncio.run(answer()) == wanted


def test_another_than_the_first_part_names_the_first(parts):
    with pytest.raises(GGUFError, match=r"is part 2 of 3\. Open 'tiny-00001-of-00003.gguf'"):
        open_gguf(parts[1])


def test_a_missing_part_is_named(parts, tmp_path):
    first = shutil.copy(parts[0], tmp_path)
    shutil.copy(parts[2], tmp_path)
    with pytest.raises(GGUFError, match=r"tiny-00002-of-00003.gguf: no such file"):
        open_gguf(first)


def test_a_renamed_part_says_how_it_must_be_called(parts, tmp_path):
    with pytest.raises(GGUFError, match=r"part 1 of 3 .* ends in '-00001-of-00003.gguf'"):
        open_gguf(shutil.copy(parts[0], tmp_path / "renamed.gguf"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_count": 2}, "part 1 of 2 .* ends in '-00001-of-00002.gguf'"),
        ({"split_count": 2**60}, "part 1 of 1152921504606846976"),
        ({"split_count": "three"}, "'split.count' is str, expected a whole number"),
        ({"split_no": 0}, "00002-of-00003.gguf: metadata 'split.no' is 0, expected 1"),
        ({"split_tensors_count": 7}, "'split.tensors.count' is 7, but the 3 parts hold 30 tensors"),
        ({"split_tensors_count": 1.5}, "'split.tensors.count' is float"),
    ],
)
def test_heads_that_lie(tmp_path, changes, message):
    paths = split_gguf(WHOLE, tmp_path, "tiny", 3, **changes)
    with pytest.raises(GGUFError, match=message) as caught:
        open_gguf(paths[0])
    assert caught.value.hint


def test_a_part_of_another_model(parts, tmp_path):
    mixed = [Path(shutil.copy(part, tmp_path)) for part in parts]
    with open_gguf(parts[0]) as file:
        name = next(name for name, info in file.tensors.items() if info.part == 0)
    write_gguf(mixed[1], {"split.no": 1, "split.count": 3}, {name: np.ones(4, np.float32)})
    with pytest.raises(GGUFError, match=f"00002-of-00003.gguf: tensor '{name}' is in 'tiny-00001-of-"):
        open_gguf(mixed[0])
