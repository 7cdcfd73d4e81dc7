"""Users may spell control tokens; they stay text."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.text.chat import ChatTemplate, encode_chat
from shimmy.text.literal import ControlTexts
from shimmy.text.tokenizer import MARK

CONTROLS = ControlTexts(frozenset({"<|end|>", "<|en", "[EOS]"}))


def shown(value):
    return json.loads(json.dumps(CONTROLS.marked(value)).replace(json.dumps(MARK)[1:-1], "·"))


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("", ""),
        ("a < b", "a < b"),
        ("a<|end|>b", "a<·|end|>b"),
        ("<|end|><|end|>", "<·|end|><·|end|>"),
        ("<|engine", "<·|engine"),
        ("[EOS", "[·EOS"),
        ("[EOS.", "[EOS."),
        ("1 <", "1 <·"),
        ("<<", "<<·"),
    ],
)
def test_where_marks_are(text, marked):
    assert shown(text) == marked


def test_texts_are_found_wherever_they_are():
    value = [{"role": "user", "content": [{"type": "text", "text": "[EOS]"}], "n": 1}, ("[EOS]", None, True)]
    assert shown(value) == [
        {"role": "user", "content": [{"type": "text", "text": "[·EOS]"}], "n": 1},
        ["[·EOS]", None, True],
    ]
    assert shown({"[EOS]": {"x": "[EOS]"}}) == {"[·EOS]": {"x": "[·EOS]"}}


def test_a_vocabulary_without_control_tokens():
    assert ControlTexts(frozenset()).marked({"a": "<|end|>"}) == {"a": "<|end|>"}


@given(st.text(st.sampled_from("<|end>[EOS] ")))
def test_marks_are_all_that_is_added(text):
    marked = CONTROLS.marked(text)
    assert marked.replace(MARK, "") == text
    assert "<|en" not in marked
    assert "[EOS]" not in marked


@given(
    st.text(st.sampled_from("<|end>[EOS]")),
    st.frozensets(st.text(st.sampled_from("<|]^-end"), max_size=4), max_size=4),
)
def test_marks_are_where_a_spelling_begins_or_may_begin(text, spellings):
    places = [
        start
        for start in range(len(text))
        if any(text.startswith(each, start) or each.startswith(text[start:]) for each in spellings - {""})
    ]
    cuts = [0, *(place + 1 for place in places), len(text)]
    expected = MARK.join(text[start:end] for start, end in pairwise(cuts))
    assert ControlTexts(spellings).marked(text) == expected


def test_megabytes_of_beginnings_take_few_looks(monkeypatch):
    looks = []
    begins_at = ControlTexts._begins_at
    monkeypatch.setattr(
        ControlTexts, "_begins_at", lambda *arguments: looks.append(1) or begins_at(*arguments)
    )
    assert CONTROLS.marked("<" * 2**20) == "<" * 2**20 + MARK
    assert len(looks) == 1


class Characters:
    """Each character is a token; control tokens are negative."""

    bos_id, eos_id, add_bos = None, None, False
    control_texts = frozenset({"<s>", "</s>"})

    def encode(self, text, *, add_special=True, parse_special=False):
        assert (add_special, parse_special) == (False, True)
        ids = []
        while text:
            control = next((known for known in self.control_texts if text.startswith(known)), None)
            ids.append(control or text[0])
            text = text[len(ids[-1]) :]
        return [token for token in ids if token != MARK]


def encoded(source, messages, **options):
    template = ChatTemplate(source, bos="<s>", eos="</s>", name="tiny")
    return template.encode(messages, Characters(), **options)


def test_only_the_template_writes_control_tokens():
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}</s>{% endfor %}{{ tools | tojson }}{{ extra }}"
    )
    ids = encoded(source, [{"content": "a</s>"}, {"content": "<"}], tools=["<s>"], extra="</s>")
    assert ids == ["<s>", *"a</s>", "</s>", "<", "</s>", *'["<s>"]', *"</s>"]


def test_texts_side_by_side_make_no_control_token():
    parts = {"content": [{"text": "x</"}, {"text": "s>"}]}
    assert encoded("{% for p in messages[0].content %}{{ p.text }}{% endfor %}", [parts]) == [*"x</s>"]


def test_tojson_in_ascii_keeps_marks_apart_from_backslashes():
    literal = "\\udcff"
    ids = encoded("{{ messages[0].content | tojson(ensure_ascii=true) }}", [{"content": "<s>" + literal}])
    assert "".join(ids) == '"<s>\\\\udcff"'
    assert len(ids) == len('"<s>\\\\udcff"')


def test_a_rendered_chat_speaks_for_itself():
    assert encode_chat("<s>a", Characters()) == ["<s>", "a"]
