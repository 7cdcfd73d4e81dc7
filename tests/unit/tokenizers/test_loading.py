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
        "import shimmy_plugins.tokenizers.gpt2, shimmy_plugins.tokenizers.llama\n"
        "assert not {'tokenizers', 'jinja2', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
