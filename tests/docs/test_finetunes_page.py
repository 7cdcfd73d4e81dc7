"""docs/finetunes.md names what is really read and written."""

import re

from shimmy.gguf.encode import writable_types
from shimmy.huggingface.folder import TEXTS
from shimmy.plugins import Plugins
from tests.docs.pages import page

PAGE = "finetunes.md"


def test_every_file_that_is_read_is_named():
    assert [name for name in TEXTS if f"`{name}`" not in page(PAGE)] == []


def test_the_types_are_those_that_can_be_written(plugins: Plugins):
    table = page(PAGE).partition("## Types")[2].partition("##")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named == set(writable_types(plugins.quant_types))


def test_the_bits_are_those_of_the_blocks(plugins: Plugins):
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([\d., ]+) \|", page(PAGE), re.MULTILINE)
    for names, bits in rows:
        for name, expected in zip(re.findall(r"`(\w+)`", names), bits.split(", "), strict=True):
            spec = plugins.quant_types.get(name.upper())
            assert spec.block_bytes * 8 / spec.block_elements == float(expected)


def test_the_architectures_are_those_of_the_plugins(plugins: Plugins):
    classes = {
        name for spec in plugins.architectures if spec.huggingface for name in spec.huggingface.classes
    }
    assert (
        set(re.findall(r"`(\w+(?:ForCausalLM|LMHeadModel|ForConditionalGeneration))`", page(PAGE))) == classes
    )
