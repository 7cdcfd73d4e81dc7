"""Byte-level BPE: round trips, pre-tokenizers by name, and files that cannot be right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import TokenizerError
from shimmy_plugins.tokenizers.bpe import make_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def tiny(**changes):
    """Metadata of a vocabulary of six tokens; a change to None leaves the key out."""
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "ab", "<|im_end|>", "\t\t", "c"],
        "token_type": [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED],
        "merges": ["a b"],
        "eos_token_id": 3,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


@pytest.mark.parametrize("name", ["zoo/gpt2", "zoo/llama3_bpe", "zoo/qwen2", "zoo/starcoder2"])
@given(text=st.text())
def test_round_trip(name, text, tokenizer_of):
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@given(start=st.text(), end=st.text())
def test_an_emoji_over_several_tokens(start, end, tokenizer_of):
    tokenizer = tokenizer_of("zoo/gpt2")
    ids = tokenizer.encode(start + "🦙" + end, add_special=False)
    assert tokenizer.decode(ids) == start + "🦙" + end
    first_byte = tokenizer.encode("🦙", add_special=False)[:1]
    assert tokenizer.decode(first_byte) == "\ufffd"


def test_half_a_surrogate_pair_is_a_replacement_character(tokenizer_of):
    tokenizer = tokenizer_of("zoo/gpt2")
    assert tokenizer.encode("a\ud83eb") == tokenizer.encode("a\ufffdb")


def test_control_tokens_only_count_when_asked_for():
    tokenizer = make_tokenizer(tiny())
    assert tokenizer.encode("ab<|im_end|>\t\t", parse_special=True) == [2, 3, 4]
    assert tokenizer.encode("ab<|im_end|>\t\t")[0] == 2
    assert 3 not in tokenizer.encode("<|im_end|>")
    assert tokenizer.encode("\t\tab") == [4, 2]


def test_tokens_and_their_texts():
    tokenizer = make_tokenizer(tiny())
    assert tokenizer.vocab_size == 6
    assert tokenizer.decode([2, 3, 4, 5]) == "ab\t\t"
    assert tokenizer.decode([2, 3, 4, 5], skip_special=False) == "ab<|im_end|>\t\t"
    assert tokenizer.token_text(3) == "<|im_end|>"
    assert tokenizer.token_bytes(3) == b""
    assert tokenizer.stop_ids == {3}


@pytest.mark.parametrize(
    ("texts", "stops"),
    [
        (["<|end|>", "<|im_end|>", "</s>"], {0, 1, 2}),
        (["<|end|>", "<|call|>", "<|return|>"], {1, 2}),
        (["</s>", "<|tool_response>", "<turn|>"], {1, 2}),
        (["<|start|>", "<pad>", "</S>"], set()),
    ],
)
def test_spellings_that_end_a_generation(texts, stops):
    types = {"token_type": [CONTROL] * 3, "merges": [], "eos_token_id": None}
    assert make_tokenizer(tiny(tokens=texts, **types)).stop_ids == stops
    types["token_type"] = [NORMAL] * 3
    assert make_tokenizer(tiny(tokens=texts, **types)).stop_ids == set()


@pytest.mark.parametrize("token", [-1, 6])
def test_a_token_outside_the_vocabulary(token):
    tokenizer = make_tokenizer(tiny())
    for use in (tokenizer.token_bytes, tokenizer.token_text, lambda token: tokenizer.decode([token])):
        with pytest.raises(TokenizerError, match=f"token {token} is not in the vocabulary, which has 6"):
            use(token)


def test_bos_comes_first_where_the_file_wants_it():
    tokens = make_tokenizer(tiny(bos_token_id=3, add_bos_token=True))
    assert tokens.encode("ab") == [3, 2]
    assert tokens.encode("ab", add_special=False) == [2]
    assert make_tokenizer(tiny(bos_token_id=3)).add_bos is False
    # Llama 3's files do not say so, its rules do.
    assert make_tokenizer(tiny(bos_token_id=3, pre="llama-bpe")).encode("ab") == [3, 2]
    assert make_tokenizer(tiny(pre="llama-bpe")).add_bos is False


def test_whole_words_before_merges_in_llama_bpe():
    words = {"tokens": ["a", "b", "c", "bc", "abc"], "token_type": [1] * 5, "merges": ["b c"]}
    assert make_tokenizer(tiny(**words, pre="gpt-2")).encode("abc") == [0, 3]
    assert make_tokenizer(tiny(**words, pre="llama-bpe")).encode("abc") == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, r"'tokenizer.ggml.tokens' is missing; expected an array of str"),
        ({"tokens": "abc"}, r"'tokenizer.ggml.tokens' is 'abc' \(str\)"),
        ({"tokens": ["a", 1]}, r"'tokenizer.ggml.tokens' holds int; expected only str"),
        ({"token_type": None}, r"'tokenizer.ggml.token_type' is missing"),
        ({"token_type": [1]}, r"'tokenizer.ggml.token_type' has 1 entries; expected 6"),
        ({"token_type": [1, 1, 1, 1, 1, 9]}, r"'tokenizer.ggml.token_type' holds 9"),
        ({"merges": None}, r"'tokenizer.ggml.merges' is missing"),
        ({"merges": ["a b", "ab"]}, r"'tokenizer.ggml.merges' holds 'ab'; expected two tokens"),
        ({"merges": ["a x"]}, r"'tokenizer.ggml.merges' does not fit the vocabulary: .*x"),
        ({"eos_token_id": 6}, r"'tokenizer.ggml.eos_token_id' is '6' \(int\); expected a token id below 6"),
        ({"eos_token_id": "</s>"}, r"'tokenizer.ggml.eos_token_id' is '</s>' \(str\)"),
        ({"add_bos_token": 1, "bos_token_id": 0}, r"'tokenizer.ggml.add_bos_token' is '1' \(int\)"),
    ],
)
def test_broken_vocabularies(changes, message):
    with pytest.raises(TokenizerError, match=message):
        make_tokenizer(tiny(**changes))
