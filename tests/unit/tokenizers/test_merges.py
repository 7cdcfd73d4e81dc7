"""Merges over whole lines, with SentencePiece's spaces and bytes."""

from hypothesis import given
from hypothesis import strategies as st

from shimmy_plugins.tokenizers.merges import make_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

TOKENS = {
    "<pad>": CONTROL,
    "<bos>": CONTROL,
    "<turn|>": CONTROL,
    "\u2581\u2581": NORMAL,
    "\u2581a": NORMAL,
    "a\u2581a": NORMAL,
    "\n\n": NORMAL,
    **{f"<0x{byte:02X}>": BYTE for byte in range(256)},
    **dict.fromkeys("\u2581ab\n", NORMAL),
}
MERGES = ["\u2581 a", "a \u2581a", "\u2581 \u2581", "\n \n"]


def make(**changes):
    keys = {
        "model": "gemma4",
        "tokens": list(TOKENS),
        "token_type": list(TOKENS.values()),
        "merges": MERGES,
        "bos_token_id": 1,
    }
    return make_tokenizer({f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items()})


def spelled(text):
    tokenizer = make()
    return [tokenizer.token_text(token) for token in tokenizer.encode(text, add_special=False)]


def test_merges_cross_spaces_but_not_lines():
    assert spelled("a a") == ["a\u2581a"]
    assert spelled("  a") == ["\u2581", "\u2581a"]
    assert spelled("b\n\na") == ["b", "\n\n", "a"]
    assert spelled("é") == ["<0xC3>", "<0xA9>"]


def test_roles():
    tokenizer = make()
    assert tokenizer.encode("b<turn|>", parse_special=True)[0] == tokenizer.bos_id == 1
    assert tokenizer.stop_ids == {2}


@given(st.text())
def test_round_trip(text):
    tokenizer = make()
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")
