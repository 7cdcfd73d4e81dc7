"""What an adapter's folder says of texts and of drawing them wins over its base, or is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shimmy.discovery.catalog import Catalog
from shimmy.errors import AdapterError, TemplateError
from shimmy.plugins import Plugins
from shimmy.server.sampling import SamplingDefaults, SamplingFields, choose_sampling
from shimmy.server.text import ModelText, read_text
from shimmy.settings import Settings
from tests.zoo import LORA, model_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter's folder."""
    return Path(shutil.copytree(LORA / "llama_spm_qk", tmp_path / "mine"))


def text_of(folder: Path, plugins: Plugins) -> ModelText:
    """The texts of the zoo's model with the adapter."""
    settings = Settings(base_gguf=model_path("llama_spm.f16"), lora_gguf=folder)
    return read_text(Catalog(settings, plugins).default(), settings, plugins)


def generation(folder: Path, **fields: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def test_several_tokens_end_answers(folder: Path, plugins: Plugins) -> None:
    before = text_of(folder, plugins).stop_ids
    assert not before & {70, 71}
    assert text_of(generation(folder, eos_token_id=[70, 71]), plugins).stop_ids == before | {70, 71}
    assert text_of(generation(folder, eos_token_id=71), plugins).stop_ids == before | {71}


def test_do_sample_false_is_a_temperature_of_zero_for_requests_that_name_none(
    folder: Path, plugins: Plugins
) -> None:
    defaults = text_of(generation(folder, do_sample=False, temperature=0.7, top_k=5), plugins).sampling
    assert defaults == SamplingDefaults(temperature=0.0, top_k=5)
    for asked, used in ((None, 0.0), (0.9, 0.9)):
        sampling = choose_sampling([SamplingFields(temperature=asked)], defaults, 2048)
        assert (sampling.temperature, sampling.top_k) == (used, 5)
    defaults = text_of(generation(folder, do_sample=True, temperature=0.7, repetition_penalty=1.1), plugins)
    assert defaults.sampling == SamplingDefaults(temperature=0.7, repeat_penalty=1.1)


@pytest.mark.parametrize(
    ("key", "value", "shown", "expected"),
    [
        ("temperature", "hot", "'hot'", "a number from 0 to 2"),
        ("temperature", float("nan"), "NaN", "a number from 0 to 2"),
        ("temperature", -0.5, "-0.5", "a number from 0 to 2"),
        ("temperature", True, "True", "a number from 0 to 2"),
        ("top_p", 1.5, "1.5", "a number from 0 to 1"),
        ("top_k", 2.5, "2.5", "a whole number from 0 to"),
        ("min_p", [0.1], "[0.1]", "a number from 0 to 1"),
        ("repetition_penalty", 0, "0", "a number from 0.01 to 10"),
        ("do_sample", "no", "'no'", "true or false"),
        ("eos_token_id", [2, 2048], "[2, 2048]", "token ids from 0 to 2047"),
        ("eos_token_id", "</s>", "'</s>'", "token ids from 0 to 2047"),
        ("eos_token_id", True, "True", "token ids from 0 to 2047"),
    ],
)
def test_values_that_are_none(
    folder: Path, plugins: Plugins, key: str, value: object, shown: str, expected: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        text_of(generation(folder, **{key: value}), plugins)
    assert caught.value.message.startswith(
        f"{folder / 'generation_config.json'}: {key} is {shown}, expected {expected}"
    )


def test_the_file_of_a_broken_template_is_named(folder: Path, plugins: Plugins) -> None:
    file = folder / "chat_template.jinja"
    file.write_text("{% for m in messages %}")
    with pytest.raises(TemplateError) as caught:
        text_of(folder, plugins)
    assert caught.value.message.startswith(f"the chat template of {file} is not valid Jinja")
    file.write_text("{{ messages[0].content + 1 }}")
    chat = text_of(folder, plugins).chat
    assert chat.reason == "the adapter's chat_template.jinja carries it."
    with pytest.raises(TemplateError) as caught:
        chat.require().render([{"role": "user", "content": "Hello"}])
    assert caught.value.message.startswith(f"the chat template of {file} failed in line 1: ")


@pytest.mark.parametrize(
    ("template", "problem"), [(5, "chat_template is 5, expected a text"), ("{{", "is not valid Jinja")]
)
def test_the_template_of_the_tokenizers_configuration(
    folder: Path, plugins: Plugins, template: object, problem: str
) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({"chat_template": template}))
    with pytest.raises((AdapterError, TemplateError)) as caught:
        text_of(folder, plugins)
    assert str(file) in caught.value.message
    assert problem in caught.value.message
