"""Which chat template a model gets, and the reason that is given."""

import re
from pathlib import Path

import pytest

from shimmy.errors import ConfigError, RegistryError, TemplateError
from shimmy.registry import Registry
from shimmy.text import budget
from shimmy.text.choose import CHAT_TAGS, CHAT_WORDS, choose_template
from shimmy_plugins.chat_templates import register_chat_templates

CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


class Vocabulary:
    """Control tokens by name; every other character is a token of its own."""

    def __init__(self, *controls):
        self.tokens = ["<s>", "</s>", *controls]
        self.control_texts = frozenset(self.tokens)
        self.bos_id, self.eos_id, self.stop_ids = 0, 1, frozenset({1})

    def token_text(self, token):
        return self.tokens[token] if token < len(self.tokens) else chr(token)

    def encode(self, text, **_):
        for token, known in enumerate(self.tokens):
            if text.startswith(known):
                return [token]
        return [1000 + ord(text[0])] if text else []


class FamiliesOnly:
    """Plugins with the built-in families, one of which ``selected`` may name."""

    def __init__(self, selected=None):
        self.selected = selected
        self.chat_templates = Registry("chat template")
        register_chat_templates(lambda spec: self.chat_templates.add(spec.name, spec, "built in"))

    def select_chat_template(self, card):
        return self.selected


def choose(metadata=None, *controls, forced=None, selected=None):
    keys = {f"general.{key}" if "." not in key else key: value for key, value in (metadata or {}).items()}
    return choose_template(keys, None, Vocabulary(*controls), FamiliesOnly(selected), forced)


def test_a_file_with_its_own():
    chosen = choose({"tokenizer.chat_template": "mine", "name": "vicuna"}, selected="zephyr")
    assert (chosen.name, chosen.reason) == ("own", "the model file carries it.")
    assert chosen.require().render([]) == "mine"


@pytest.mark.parametrize(
    ("metadata", "controls", "name", "reason"),
    [
        (
            {"finetune": "Instruct"},
            CHATML,
            "chatml",
            "general.finetune is 'Instruct', and its vocabulary has",
        ),
        (
            {"name": "Gemma-2b-it"},
            ("<start_of_turn>", "<end_of_turn>"),
            "gemma",
            "general.name is 'Gemma-2b-it'",
        ),
        (
            {"tags": ["text-generation", "conversational"]},
            LLAMA3,
            "llama3",
            "general.tags has 'conversational'",
        ),
        ({"basename": "phi-3-instruct"}, ("<|user|>", "<|assistant|>", "<|end|>"), "phi", "general.basename"),
        ({"name": "Llama 2 7B Chat"}, (), "llama2", "general.name is 'Llama 2 7B Chat'."),
        ({"name": "mistralai_mixtral-8x7b-instruct-v0.1"}, (), "mistral", "general.name is"),
        ({"name": "TinyLlama 1.1B Chat v1.0"}, (), "zephyr", "general.name is"),
        ({"name": "stablelm-zephyr-3b"}, (), "zephyr", "general.name is"),
        ({"basename": "openchat_3.5"}, (), "openchat", "general.basename is"),
        ({"name": "Starling-LM-7B"}, (), "openchat", "general.name is"),
        ({"name": "Wizard-Vicuna-13B"}, (), "vicuna", "general.name is"),
        ({"name": "alpaca-7b"}, (), "alpaca", "general.name is"),
    ],
)
def test_the_family_a_file_belongs_to(metadata, controls, name, reason):
    chosen = choose(metadata, *controls)
    assert chosen.name == name
    assert chosen.reason.startswith(reason)
    assert chosen.require().name == name


@pytest.mark.parametrize(
    ("metadata", "controls", "reason"),
    [
        ({}, (), "does not say that the model was trained for chats"),
        ({"name": "Qwen2 7B"}, CHATML, "does not say that the model was trained for chats"),
        ({"name": "LLaMA v2", "tags": [1, "it"]}, (), "does not say that the model was trained for chats"),
        ({"name": "Mistral-7B-v0.1"}, (), "does not say that the model was trained for chats"),
        ({"finetune": "Chat"}, ("<|im_start|>",), "although general.finetune is 'Chat', no family"),
        ({"finetune": "Chat"}, (*CHATML, *LLAMA3), "fits several families: chatml, llama3."),
    ],
)
def test_nothing_is_guessed(metadata, controls, reason):
    chosen = choose(metadata, *controls)
    assert (chosen.template, chosen.name) == (None, None)
    assert reason in chosen.reason
    with pytest.raises(TemplateError, match=re.escape(reason) + ".*`chat_template`") as caught:
        chosen.require()
    assert (caught.value.status, caught.value.param) == (400, "model")


def test_a_plugin_chooses():
    chosen = choose(selected="zephyr")
    assert (chosen.name, chosen.reason) == ("zephyr", "a plugin chose it for this model.")
    with pytest.raises(RegistryError, match=r"no chat template is called 'zefir'.*zephyr"):
        choose(selected="zefir")


def test_a_template_that_does_not_end_is_none(monkeypatch):
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.1)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    chosen = choose({"tokenizer.chat_template": endless, "name": "tiny"})
    assert (chosen.template, chosen.name) == (None, None)
    assert chosen.reason.endswith("takes longer than 0.1 seconds in line 1.")
    with pytest.raises(TemplateError, match="no usable chat template.*longer than"):
        chosen.require()


def test_the_setting_comes_first(tmp_path):
    own = {"tokenizer.chat_template": "mine", "tokenizer.chat_template.rag": "with documents"}
    assert choose(own, forced="chatml").name == "chatml"
    assert choose(own, forced="rag").require().render([]) == "with documents"
    file = tmp_path / "mine.jinja"
    file.write_text("from a file {{ bos_token }}")
    chosen = choose(own, forced=str(file))
    assert (chosen.require().render([]), chosen.name) == ("from a file <s>", str(file))
    assert chosen.reason == "the setting `chat_template` names it."


@pytest.mark.parametrize("forced", ["chat-ml", "no/such/file", "\0"])
def test_a_setting_that_names_nothing(forced):
    with pytest.raises(ConfigError, match="neither a template family") as caught:
        choose(forced=forced)
    assert caught.value.param == "chat_template"


@pytest.mark.parametrize(
    ("forced", "controls", "stop"),
    [
        ("chatml", CHATML, "<|im_end|>"),
        ("openchat", ("<|end_of_turn|>",), "<|end_of_turn|>"),
        ("llama2", (), "</s>"),
        ("zephyr", (), "</s>"),
    ],
)
def test_the_token_that_ends_a_turn(forced, controls, stop):
    chosen = choose(None, *controls, forced=forced)
    assert chosen.stop_ids == {Vocabulary(*controls).tokens.index(stop)}


def test_turns_that_no_token_ends(tmp_path):
    assert choose(forced="alpaca").stop_ids == frozenset()
    assert choose(forced="chatml").stop_ids == frozenset()  # the vocabulary has no such token
    picky = {"tokenizer.chat_template": "{{ raise_exception('no') }}"}
    assert choose(picky).stop_ids == frozenset()
    silent = {"tokenizer.chat_template": "<s>"}
    assert choose(silent).stop_ids == frozenset()


def test_texts_that_end_an_answer():
    assert choose(forced="alpaca").require().stops == ("\n### Instruction:",)
    assert choose(forced="vicuna").require().stops == ("USER:",)
    assert choose(forced="chatml").require().stops == ()


def test_the_documentation_has_every_rule():
    text = (Path(__file__).parents[3] / "docs" / "chat_templates.md").read_text("utf-8").replace("\\|", "|")
    for spec in FamiliesOnly().chat_templates:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{spec.name}` |"))
        assert all(f"`{token}`" in row for token in spec.tokens)
        assert row.count("`") == 2 + 2 * len(spec.tokens)
        assert all(stop.strip() in text for stop in spec.stops)
    assert all(f"*{word}*" in text for word in CHAT_WORDS | CHAT_TAGS)
