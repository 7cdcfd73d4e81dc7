"""SentencePiece unigram: against trying all ways to cut; spaces, bytes, normalisation, broken files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import TokenizerError
from shimmy_plugins.tokenizers.unigram import make_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

TOKENS = {
    "<pad>": (CONTROL, 0.0),
    "</s>": (CONTROL, 0.0),
    "<unk>": (UNKNOWN, 0.0),
    "\u2581": (NORMAL, -2.5),
    "a": (NORMAL, -3.25),
    "b": (NORMAL, -4.0),
    "\u2581a": (NORMAL, -3.0),
    "ab": (NORMAL, -6.0),
    "aba": (NORMAL, -8.5),
    "bab": (NORMAL, -7.125),
    "ba": (UNUSED, -0.5),
    "<extra>": (USER_DEFINED, 0.0),
}
UNKNOWN_SCORE = min(score for kind, score in TOKENS.values() if kind == NORMAL) - 10


def tiny(bytes_too=False, **changes):
    tokens = TOKENS | ({f"<0x{byte:02X}>": (BYTE, 0.0) for byte in range(256)} if bytes_too else {})
    keys = {
        "model": "t5",
        "tokens": list(tokens),
        "token_type": [kind for kind, _ in tokens.values()],
        "scores": [score for _, score in tokens.values()],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


def best_cut(text):
    """Score and pieces of the likeliest way to cut ``text``."""
    best = [(0.0, [])]
    for end in range(1, len(text) + 1):
        ways = []
        for start in range(end):
            kind, score = TOKENS.get(text[start:end], (None, 0.0))
            if kind == NORMAL:
                ways.append((best[start][0] + score, [*best[start][1], text[start:end]]))
        if text[end - 1] not in "ab\u2581":
            ways.append((best[end - 1][0] + UNKNOWN_SCORE, [*best[end - 1][1], "<unk>"]))
        best.append(max(ways, key=lambda way: way[0]))
    return best[-1]


def spelled(text, **changes):
    tokenizer = make_tokenizer(tiny(**changes))
    return [tokenizer.token_text(token) for token in tokenizer.encode(text, parse_special=True)]


@given(text=st.text(st.sampled_from("aaabbb x"), max_size=12))
def test_the_likeliest_pieces(text):
    pieces = best_cut(("\u2581" + text.replace(" ", "\u2581")) if text else "")[1]
    # Unknown characters side by side are one unknown token.
    expected = [piece for n, piece in enumerate(pieces) if piece != "<unk>" or pieces[n - 1 : n] != ["<unk>"]]
    assert spelled(text) == expected


def test_spaces():
    assert spelled("a") == ["\u2581a"]
    assert spelled("a", add_space_prefix=False) == ["a"]
    assert spelled("  a  a ") == ["\u2581", "\u2581", "\u2581a", "\u2581", "\u2581a", "\u2581"]
    assert spelled("  a  a ", remove_extra_whitespaces=True) == ["\u2581a", "\u2581a"]
    assert spelled("  ", remove_extra_whitespaces=True) == []


def test_tokens_with_a_role():
    assert spelled("a</s>a") == ["\u2581a", "</s>", "\u2581a"]
    assert spelled("a<extra>") == ["\u2581a", "<extra>"]
    assert "ba" not in spelled("ba")


def test_characters_without_a_piece_become_bytes_if_there_are_any():
    assert spelled("é") == ["\u2581", "<unk>"]
    assert spelled("é", bytes_too=True) == ["\u2581", "<0xC3>", "<0xA9>"]
    tokenizer = make_tokenizer(tiny(bytes_too=True))
    assert tokenizer.decode(tokenizer.encode("aé b")) == "aé b"


def test_roles_where_the_file_does_not_say():
    tokenizer = make_tokenizer(tiny())
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (None, 1, False)
    assert tokenizer.stop_ids == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, r"'tokenizer.ggml.scores' is missing"),
        ({"precompiled_charsmap": [1, 2]}, r"'tokenizer.ggml.precompiled_charsmap' cannot be read"),
        ({"precompiled_charsmap": "x"}, r"'tokenizer.ggml.precompiled_charsmap' is 'x'"),
        ({"remove_extra_whitespaces": 1}, r"'tokenizer.ggml.remove_extra_whitespaces' is '1'"),
    ],
)
def test_broken_vocabularies(changes, message):
    with pytest.raises(TokenizerError, match=message):
        make_tokenizer(tiny(**changes))
