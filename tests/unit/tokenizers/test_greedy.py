"""Greedy longest match: against trying every length, bytes, escapes, control tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import MARK
from shimmy_plugins.tokenizers.greedy import make_tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

WORDS = [b"ab", b"abc", b"abcde", b"bc", b"cd", b" a", b"\n\n", b"\\n", "é".encode(), "日本".encode(), b"'\""]


def escaped(piece):
    return repr(piece)[2:-1]


TOKENS = {
    "<s>": CONTROL,
    **{escaped(bytes([byte])): NORMAL for byte in range(256)},
    **{escaped(word): NORMAL for word in WORDS},
    "[PAD7]": UNUSED,
}
BYTES = {word: 1 + 256 + place for place, word in enumerate(WORDS)} | {bytes([b]): 1 + b for b in range(256)}


def tiny(**changes):
    keys = {"model": "rwkv", "tokens": list(TOKENS), "token_type": list(TOKENS.values())}
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items()}


def by_definition(data):
    ids = []
    while data:
        piece = max((piece for piece in BYTES if data.startswith(piece)), key=len)
        ids.append(BYTES[piece])
        data = data[len(piece) :]
    return ids


@given(text=st.text(st.sampled_from("abcde \n\\'\"é日本")) | st.text())
def test_the_longest_token_is_taken(text):
    tokenizer = make_tokenizer(tiny())
    ids = tokenizer.encode(text)
    assert ids == by_definition(text.encode())
    assert tokenizer.decode(ids) == text


def test_control_tokens_only_count_when_asked_for():
    tokenizer = make_tokenizer(tiny())
    assert tokenizer.encode("ab<s>c", parse_special=True) == [BYTES[b"ab"], 0, BYTES[b"c"]]
    assert tokenizer.encode("ab<s>") == by_definition(b"ab<s>")
    assert tokenizer.encode(f"ab<{MARK}s>", parse_special=True) == by_definition(b"ab<s>")
    assert tokenizer.encode("[PAD7]", parse_special=True) == by_definition(b"[PAD7]")
    assert tokenizer.control_texts == {"<s>"}


def test_a_byte_without_a_token():
    tokenizer = make_tokenizer(tiny(tokens=["a"], token_type=[NORMAL]))
    with pytest.raises(TokenizerError, match="no token for the byte 0x62"):
        tokenizer.encode("ab")


def test_a_token_that_is_not_escaped():
    with pytest.raises(TokenizerError, match=r"the token 'é' is not written in ASCII"):
        make_tokenizer(tiny(tokens=["é"], token_type=[NORMAL]))
