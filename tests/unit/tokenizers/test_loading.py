"""From ``tokenizer.ggml.model`` to a plugin, and what loading the plugins costs."""

import subprocess
import sys

import pytest

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import load_tokenizer


def test_a_file_without_a_vocabulary(registry):
    with pytest.raises(TokenizerError, match=r"no 'tokenizer.ggml.model'"):
        load_tokenizer({}, registry)


def test_a_kind_nobody_handles(registry):
    with pytest.raises(TokenizerError, match=r"is 'gpt-2', which no plugin handles\. Did you mean 'gpt2'\?"):
        load_tokenizer({"tokenizer.ggml.model": "gpt-2"}, registry)


def test_plugins_are_light_until_they_are_used():
    code = (
        "import sys, shimmy.text.chat, shimmy.text.stream, shimmy.text.vocabulary\n"
        "import shimmy_plugins.chat_templates\n"
        "import shimmy.text.choose, shimmy.text.literal\n"
        "from shimmy_plugins.tokenizers import gemma4, gpt2, llama, rwkv, t5\n"
        "assert not {'tokenizers', 'jinja2', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_pre_tokenizer_than_the_files(registry, metadata_of):
    metadata = metadata_of("zoo/gpt2")
    assert len(load_tokenizer(metadata, registry).encode("1234")) < 4
    assert len(load_tokenizer(metadata, registry, pre_tokenizer="starcoder").encode("1234")) == 4
    odd = {**metadata, "tokenizer.ggml.pre": "unheard-of"}
    with pytest.raises(TokenizerError, match="'tokenizer.ggml.pre' is 'unheard-of'"):
        load_tokenizer(odd, registry)
    assert load_tokenizer(odd, registry, pre_tokenizer="gpt-2").encode("1234")


@pytest.mark.parametrize("model", ["gemma4", "gpt2", "llama", "rwkv", "t5"])
def test_every_kind_says_what_is_missing(model, registry):
    with pytest.raises(TokenizerError, match=r"'tokenizer.ggml.tokens' is missing"):
        load_tokenizer({"tokenizer.ggml.model": model}, registry)


def test_an_unknown_way_to_cut_words_that_the_setting_names(registry):
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    with pytest.raises(TokenizerError, match=r"^the setting `pre_tokenizer` is 'nope', a way") as caught:
        load_tokenizer(metadata, registry, pre_tokenizer="nope")
    assert caught.value.param == "pre_tokenizer"
