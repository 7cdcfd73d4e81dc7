"""How each named pre-tokenizer cuts text into words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from shimmy.errors import TokenizerError
from shimmy_plugins.tokenizers.pretokenizers import PRE_TOKENIZERS, pre_tokenizer

every_name = pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))


def cut(text, name):
    """The words, with ``|`` between them."""
    steps = Sequence([Split(Regex(split), "isolated") for split in pre_tokenizer(name).splits])
    return "|".join(word for word, _ in steps.pre_tokenize_str(text) if word)


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "I'll don'T it's": {
            "gpt-2": "I|'ll| don|'|T| it|'s",
            "llama-bpe qwen2 deepseek-r1-qwen seed-coder bailingmoe": "I|'ll| don|'T| it|'s",
            "gpt-4o llama4 kimi-k2": "I'll| don'T| it's",
            "tekken ufakzeka": "I|'ll| don|'T| it|'s",
            "default falcon": "I|'|ll| don|'|T| it|'|s",
            "deepseek-v3": "I|'ll| don|'T| it|'s",
            "deepseek-coder": "I|'|ll| don|'|T| it|'|s",
            "bloom": "I'll| don'T| it's",
        },
        "a 12345 6": {
            "gpt-2 mpt olmo": "a| 12345| 6",
            "starcoder refact command-r smollm codeshell exaone": "a| |1|2|3|4|5| |6",
            "llama-bpe gpt-4o chatglm-bpe dbrx falcon3": "a| |123|45| |6",
            "qwen2 tekken stablelm2 hunyuan megrez seed-coder": "a| |1|2|3|4|5| |6",
            "falcon": "a| |123|45| 6",
            "default": "a| |123|45| |6",
            "deepseek-llm": "a| |12345| |6",
            "deepseek-coder viking": "a| |1|2|3|4|5| |6",
            "deepseek-v3 minicpm5": "a| |123|45| |6",
            "bloom poro-chat": "a| 12345| 6",
            "superbpe": "a |12|345| |6",
            "afmoe tiny_aya": "a| |12|345| |6",
        },
        "HelloWorld ABCdef éÉ": {
            "gpt-2 qwen2 llama-bpe deepseek-llm": "HelloWorld| ABCdef| éÉ",
            "gpt-4o tekken kimi-k2 youtu": "Hello|World| ABCdef| é|É",
        },
        "漢字かな한글 ab": {
            "gpt-2 qwen2 gpt-4o": "漢字かな한글| ab",
            "kimi-k2": "漢字|かな한글| ab",
            "deepseek-v3": "漢字かな|한글| ab",
            "deepseek-llm": "漢字かな한글| ab",
            "youtu": "漢字かな|한글| ab",
        },
        "x\n\n  y \r\n?!\n": {
            "gpt-2": "x|\n\n | y| \r|\n|?!|\n",
            "qwen2 llama-bpe gpt-4o": "x|\n\n| | y| \r\n|?!\n",
            "seed-coder": "x|\n\n| | y| \r\n|?!|\n",
            "bailingmoe": "x|\n\n| | y| \r\n|?!\n",
            "deepseek-llm": "x|\n|\n| | y| |\r|\n|?!|\n",
            "laguna": "x|\n\n| | y| \r|\n|?!|\n",
        },
        "path/to//é\u0301 ": {
            "gpt-4o": "path|/to|//|é\u0301| ",
            "qwen2": "path|/to|//|é|\u0301| ",
            "qwen35": "path|/to|//|é\u0301| ",
        },
        "one two": {"exaone-moe": "one two", "exaone": "one| two"},
        "if x:\n        y": {"jais-2": "if| x|:\n|    |  | | y", "llama-bpe": "if| x|:\n|       | y"},
        "xIMGIMGABZ,7!": {"chameleon": "x|IMGIMGABZ|,|7|!"},
    }.items(),
)
def test_words(text, words):
    found = {name: cut(text, name) for names in words for name in names.split()}
    assert found == {name: expected for names, expected in words.items() for name in names.split()}


@every_name
@given(
    text=st.text(st.sampled_from("aBé漢か한 \n\r\t'sT1٣²<>!/\u0301\u00a0🦙") | st.characters(codec="utf-8"))
)
def test_words_add_up_to_the_text(name, text):
    steps = Sequence([Split(Regex(split), "isolated") for split in PRE_TOKENIZERS[name].splits])
    assert "".join(word for word, _ in steps.pre_tokenize_str(text)) == text


def test_what_names_stand_for_besides_words():
    assert {name for name, rules in PRE_TOKENIZERS.items() if rules.add_bos} == {
        *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        *("jina-v5-nano", "tekken", "chameleon"),
    }
    assert pre_tokenizer("tekken").ignore_merges
    assert not pre_tokenizer("gpt-4o").ignore_merges
    assert pre_tokenizer(None) is pre_tokenizer("default")


@pytest.mark.parametrize("name", ["lama-bpe", 7])
def test_an_unknown_name(name):
    with pytest.raises(TokenizerError, match=rf"'tokenizer.ggml.pre' is {name!r}.* setting `pre_tokenizer`"):
        pre_tokenizer(name)
