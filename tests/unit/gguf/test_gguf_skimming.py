"""Skimming: long arrays of strings are leapt over, and what is read behind them is right all the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.errors import GGUFError
from shimmy.gguf.cursor import LONG_ARRAY, Skimmed
from shimmy.gguf.reader import open_gguf, peek_gguf
from shimmy.gguf.writer import write_gguf

TOKENS = [f"w{number}" for number in range(LONG_ARRAY)]
TYPES = [1] * LONG_ARRAY
TENSORS = {f"blk.{layer}.weight": np.ones((2, 32), np.float32) for layer in range(3)}
START = {"general.architecture": "toy", "toy.heads": [1, 2, 3]}
#: What may follow a vocabulary; the reader must not care.
BEHIND = {
    "tokenizer.ggml.token_type": TYPES,
    "tokenizer.ggml.merges": [f"a b{number}" for number in range(LONG_ARRAY + 5)],
    "tokenizer.chat_template": "{{ messages }}",
    "general.file_type": 7,
    "toy.context_length": 64,
    "zzz": True,
}
#: Tokens spelled like keys; what follows them may look like a value, too.
TRAPS = ["tokenizer.", "tokenizer.ggml.model", "general.architecture", "general.x", "", "a", "\0" * 12]


def stepped(metadata: dict) -> dict:
    return {
        key: Skimmed(len(value)) if isinstance(value, list) and len(value) >= LONG_ARRAY else value
        for key, value in metadata.items()
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("skimming") / "model.gguf"


def test_a_leap_does_not_look_inside(path):
    metadata = START | {"tokenizer.ggml.tokens": TOKENS} | BEHIND
    write_gguf(path, metadata, TENSORS)
    data = bytearray(path.read_bytes())
    data[data.index(b"w77") - 8] = 250
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=r"tokenizer.ggml.tokens"):
        open_gguf(path)
    with open_gguf(path, skim=True) as file:
        assert file.metadata == stepped(metadata)
        assert list(file.tensors) == list(TENSORS)
    assert peek_gguf(path) == (stepped(metadata), len(data))


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(list(BEHIND)),
    traps=st.lists(st.tuples(st.integers(0, LONG_ARRAY - 1), st.sampled_from(TRAPS)), max_size=6),
    tensors=st.sampled_from([0, 1, 3]),
)
def test_skimming_reads_what_is_there(path, order, traps, tensors):
    tokens = list(TOKENS)
    for place, trap in traps:
        tokens[place : place + 1] = [trap]
    metadata = START | {"tokenizer.ggml.tokens": tokens} | {key: BEHIND[key] for key in order}
    write_gguf(path, metadata, dict(list(TENSORS.items())[:tensors]))
    if not tensors:
        path.write_bytes(path.read_bytes() + bytes(64))
    with open_gguf(path) as whole, open_gguf(path, skim=True) as skimmed:
        assert whole.metadata == metadata
        assert skimmed.metadata == stepped(metadata)
        assert skimmed.tensors == whole.tensors
    assert peek_gguf(path)[0] == stepped(metadata)


def test_a_peek_needs_a_table_of_tensors_behind_the_metadata(path):
    write_gguf(path, START, TENSORS)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"blk.0")])
    with pytest.raises(GGUFError, match="name of tensor 0"):
        peek_gguf(path)
