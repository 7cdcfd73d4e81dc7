"""ChatTemplate: what templates may use, how they fail, and the families that are built in."""

import json
import re
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import pytest

from shimmy.errors import TemplateError
from shimmy.text import chat
from shimmy.text.chat import ChatTemplate, chat_template_of
from shimmy_plugins.chat_templates import register_chat_templates

CASES = files("shimmy_templates") / "chat" / "cases"
ZOO = Path(__file__).parents[2] / "fixtures" / "tokenizers" / "zoo"
HELLO = [{"role": "user", "content": "Hello"}]


def template(source):
    return ChatTemplate(source, bos="<s>", eos="</s>", name="tiny")


def render(source, messages=HELLO, **options):
    return template(source).render(messages, **options)


def test_what_a_template_knows():
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}"
    assert render(source) == "<s>Hello</s>TrueNone"
    assert render(source, add_generation_prompt=False, tools=[]) == "<s>Hello</s>False[]"


def test_extra_variables_do_not_replace_the_models_own():
    assert render("{{ enable_thinking }}{{ bos_token }}", enable_thinking=False, bos_token="x") == "False<s>"


def test_blocks_leave_no_lines_behind():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_loop_controls():
    assert render("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}") == "01"


def test_generation_marks_are_seen_through():
    assert render("a{% generation %}{{ bos_token }}{% endgeneration %}b") == "a<s>b"


def test_tojson_writes_for_models_not_for_html():
    tools = [{"name": "é<&>'", "n": 1}]
    assert render("{{ tools | tojson }}", tools=tools) == """[{"name": "é<&>'", "n": 1}]"""
    assert render("{{ tools | tojson(indent=2) }}", tools=tools) == json.dumps(
        tools, indent=2, ensure_ascii=False
    )


def test_strftime_now():
    before = datetime.now().year
    assert before <= int(render("{{ strftime_now('%Y') }}")) <= datetime.now().year


def test_a_template_that_is_no_jinja():
    with pytest.raises(TemplateError, match=r"chat template of tiny is not valid Jinja: line 2: .*endfor"):
        template("a\n{% endfor %}")


def test_a_template_that_refuses():
    with pytest.raises(TemplateError) as caught:
        render("{{ raise_exception('No system role') }}")
    assert caught.value.message == "the chat template of tiny refuses the messages: No system role"
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n{{ messages[0].content.text.upper() }}", r"in line 2: .*no attribute 'text'"),
        ("{{ messages[0].content + 1 }}", r"in line 1: can only concatenate"),
        ("{{ ''.__class__.__mro__ }}", r"in line 1: .*unsafe"),
        ("{{ messages.append(1) }}", r"in line 1: .*unsafe"),
        ("{% for n in range(10**9) %}{% endfor %}", r"in line 1: .*[Rr]ange"),
    ],
)
def test_a_template_that_fails(source, reason):
    with pytest.raises(TemplateError, match="the chat template of tiny failed " + reason):
        render(source)


def test_a_template_that_does_not_end(monkeypatch):
    monkeypatch.setattr(chat, "MAX_PROMPT_CHARACTERS", 1000)
    with pytest.raises(TemplateError, match="writes more than 1000 characters"):
        render("{% for n in range(90000) %}{{ n }}{% endfor %}")


class TwoTokens:
    bos_id, eos_id = None, 1

    def token_text(self, token):
        return ["<s>", "</s>"][token]


def test_the_template_of_a_file():
    metadata = {"general.name": "tiny", "tokenizer.chat_template": "[{{ bos_token }}]{{ eos_token }}"}
    found = chat_template_of(metadata, TwoTokens())
    assert found is not None
    assert (found.name, found.render([])) == ("tiny", "[]</s>")
    assert chat_template_of({}, TwoTokens()) is None
    with pytest.raises(TemplateError, match=r"'tokenizer.chat_template' of this model is of type int"):
        chat_template_of({"tokenizer.chat_template": 1}, TwoTokens())


def test_one_of_several_templates_of_a_file():
    metadata = {
        "tokenizer.chat_template": "plain",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "with tools",
    }
    assert chat_template_of(metadata, TwoTokens()).render([]) == "plain"
    assert chat_template_of(metadata, TwoTokens(), "tool_use").render([]) == "with tools"
    assert chat_template_of(metadata, TwoTokens(), "rag") is None


def families():
    found = []
    register_chat_templates(found.append)
    return {spec.name: spec.source.read_text("utf-8") for spec in found}


def test_families_are_the_files():
    assert {f"{name}.jinja" for name in families()} == {
        entry.name
        for entry in (files("shimmy_templates") / "chat").iterdir()
        if entry.name.endswith(".jinja")
    }


@pytest.mark.parametrize("name", families())
def test_built_in_families(name):
    built_in = ChatTemplate(families()[name], bos="<s>", eos="</s>", name=name)
    cases = json.loads((CASES / f"{name}.json").read_text("utf-8"))
    assert cases
    check_renders(built_in, cases)


def check_renders(template, cases):
    for case in cases:
        if "error" in case:
            with pytest.raises(TemplateError, match="refuses the messages: " + re.escape(case["error"])):
                template.render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
        else:
            text = template.render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
            assert text == case["text"]


@pytest.mark.parametrize(
    ("name", "model", "bos", "eos"),
    [
        ("llama3", "llama3_bpe", "<|begin_of_text|>", "<|eot_id|>"),
        ("gemma", "gemma2", "<bos>", "<eos>"),
        ("phi", "phi3", "", "<|endoftext|>"),
        ("zephyr", "llama_spm", "<s>", "</s>"),
    ],
)
def test_families_write_what_models_of_theirs_carry(name, model, bos, eos):
    reference = json.loads((ZOO / f"{model}.json").read_text("utf-8"))
    check_renders(ChatTemplate(families()[name], bos=bos, eos=eos, name=name), reference["template_renders"])


def test_chatml_writes_what_qwen2_carries_but_for_its_system_message():
    reference = json.loads((ZOO / "qwen2.json").read_text("utf-8"))
    cases = [
        case
        | {"text": case["text"].removeprefix("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")}
        for case in reference["template_renders"]
        if case["messages"][0]["role"] != "system"
    ]
    assert len(cases) == 6
    check_renders(ChatTemplate(families()["chatml"], bos="", eos="<|im_end|>", name="chatml"), cases)
