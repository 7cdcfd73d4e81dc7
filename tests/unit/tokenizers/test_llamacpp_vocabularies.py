"""Six real vocabularies: every text has the ids that llama.cpp gives it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "fixtures" / "tokenizers" / "llamacpp"
NAMES = ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"]


def cases(name):
    texts = (FOLDER / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (FOLDER / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    # Both files end with an empty entry.
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_llamacpp(name, tokenizer_of):
    tokenizer = tokenizer_of(f"llamacpp/ggml-vocab-{name}")
    wrong = {
        text: (ids, expected)
        for text, expected in cases(name)
        if (ids := tokenizer.encode(text, add_special=False)) != expected
    }
    assert wrong == {}


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_text_back(name, tokenizer_of):
    tokenizer = tokenizer_of(f"llamacpp/ggml-vocab-{name}")
    for text, ids in cases(name):
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("name", "add_bos", "stops"),
    [
        ("gpt-2", False, {"<|endoftext|>"}),
        ("llama-bpe", True, {"<|end_of_text|>", "<|eot_id|>"}),
        ("llama-spm", True, {"</s>"}),
        ("phi-3", True, {"<|endoftext|>", "<|end|>", "</s>"}),
        ("qwen2", False, {"<|endoftext|>", "<|im_end|>"}),
        ("starcoder", False, {"<|endoftext|>", "<fim_pad>"}),
    ],
)
def test_bos_and_stops(name, add_bos, stops, tokenizer_of):
    tokenizer = tokenizer_of(f"llamacpp/ggml-vocab-{name}")
    assert tokenizer.add_bos is add_bos
    assert {tokenizer.token_text(token) for token in tokenizer.stop_ids} == stops
