"""Who decides how tokens are chosen: the request, the settings, the model's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec
import pytest

from shimmy.errors import RequestError
from shimmy.gguf.reader import open_gguf
from shimmy.server.sampling import (
    SamplingDefaults,
    SamplingFields,
    choice_seed,
    choose_sampling,
    sampling_defaults,
)
from shimmy.settings import Settings

NEUTRAL = SamplingDefaults()


def test_where_nobody_says_anything() -> None:
    chosen = choose_sampling([SamplingFields()], NEUTRAL, 100)
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.min_p) == (1.0, 1.0, 0, 0.0)
    assert (chosen.repeat_penalty, chosen.presence_penalty, chosen.frequency_penalty) == (1.0, 0.0, 0.0)
    assert chosen.logit_bias == {}
    assert chosen.logprobs is None


def test_files_written_by_converters(tmp_path: Path) -> None:
    """The keys are those that the format's own library writes, in single precision."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_sampling_temp(0.7)
    writer.add_sampling_top_p(0.95)
    writer.add_sampling_top_k(20)
    writer.add_sampling_min_p(0.05)
    writer.add_sampling_penalty_repeat(1.05)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(tmp_path / "model.gguf") as file:
        found = sampling_defaults(file.metadata, Settings())
    assert found == SamplingDefaults(temperature=0.7, top_p=0.95, top_k=20, min_p=0.05, repeat_penalty=1.05)


def test_settings_win_over_files() -> None:
    metadata = {"general.sampling.temp": 0.7, "general.sampling.top_k": 20}
    found = sampling_defaults(metadata, Settings(sampling={"temperature": 0.0, "min_p": 0.1}))
    assert (found.temperature, found.top_k, found.min_p) == (0.0, 20, 0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temp", -1.0), ("temp", "hot"), ("temp", float("nan")), ("top_p", 5.0), ("top_k", 1.5), ("top_k", [1])],
)
def test_nonsense_in_files_is_left_aside(key: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert sampling_defaults({f"general.sampling.{key}": value}, Settings()) == NEUTRAL
    assert f"general.sampling.{key}" in caplog.text


def test_all_is_all() -> None:
    assert sampling_defaults({"general.sampling.top_k": -1}, Settings()).top_k == 0
    assert choose_sampling([SamplingFields(top_k=-1)], SamplingDefaults(top_k=40), 100).top_k == 0
    assert choose_sampling([SamplingFields(top_k=0)], SamplingDefaults(top_k=40), 100).top_k == 0


def test_the_first_given_value_counts_zero_included() -> None:
    layers = [
        SamplingFields(temperature=0.0),
        SamplingFields(temperature=1.5, top_p=0.5, repetition_penalty=1.2),
    ]
    chosen = choose_sampling(layers, SamplingDefaults(temperature=0.7, top_p=0.9, min_p=0.1), 100)
    assert (chosen.temperature, chosen.top_p, chosen.min_p, chosen.repeat_penalty) == (0.0, 0.5, 0.1, 1.2)


def test_seeds() -> None:
    assert choose_sampling([SamplingFields(seed=0)], NEUTRAL, 100).seed == 0
    drawn = {choose_sampling([SamplingFields()], NEUTRAL, 100).seed for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**31 for seed in drawn)


def test_seeds_of_several_answers() -> None:
    seeds = [choice_seed(5, number) for number in range(100)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 100
    assert seeds == [choice_seed(5, number) for number in range(100)]
    assert set(seeds).isdisjoint(choice_seed(6, number) for number in range(100))
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", 10**30), ("top_k", 2**31), ("repeat_penalty", 1e-40), ("repeat_penalty", 0)],
)
def test_numbers_no_engine_can_take(field: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: value}, SamplingFields)


@pytest.mark.parametrize("key", ["100", "-1", "x", "", "1.0", "²", "1" * 5000, "0" * 5000])
def test_biases_are_for_tokens_of_the_model(key: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose_sampling([SamplingFields(logit_bias={key: 1.0})], NEUTRAL, 100)
    assert caught.value.param == "logit_bias"


def test_stops() -> None:
    assert SamplingFields().stops == ()
    assert SamplingFields(stop="a").stops == ("a",)
    assert SamplingFields(stop=["a", "b"]).stops == ("a", "b")


def test_two_names_of_a_field_must_agree() -> None:
    agreed = SamplingFields(repeat_penalty=1.5, repetition_penalty=1.5)
    assert choose_sampling([agreed], SamplingDefaults(), 100).repeat_penalty == 1.5
    with pytest.raises(RequestError, match=r"repeat_penalty is 1.5, but repetition_penalty, another name"):
        choose_sampling([SamplingFields(repeat_penalty=1.5, repetition_penalty=1.2)], SamplingDefaults(), 100)


def test_the_strongest_layer_decides_whatever_name_it_uses() -> None:
    layers = [SamplingFields(repetition_penalty=1.5), SamplingFields(repeat_penalty=1.2)]
    assert choose_sampling(layers, SamplingDefaults(), 100).repeat_penalty == 1.5
