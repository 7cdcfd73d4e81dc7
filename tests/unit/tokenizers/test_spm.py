"""SentencePiece BPE: its definition against the fast way, spaces, bytes, and broken files."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import TokenizerError
from shimmy_plugins.tokenizers.spm import make_tokenizer, merges_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

LLAMA_2 = "llamacpp/ggml-vocab-llama-spm"

TOKENS = {
    "<unk>": (UNKNOWN, 0.0),
    "<s>": (CONTROL, 0.0),
    "</s>": (CONTROL, 0.0),
    **{f"<0x{byte:02X}>": (BYTE, 0.0) for byte in range(256)},
    "\u2581a": (NORMAL, -1.0),
    "<s": (NORMAL, -2.0),
    "s>": (NORMAL, -3.0),
    "aa": (UNUSED, -4.0),
    "  ": (USER_DEFINED, -1000.0),
    **dict.fromkeys("\u2581as<>", (NORMAL, -9.0)),
}


def tiny(**changes):
    """Metadata of a small vocabulary; a change to None leaves the key out."""
    keys = {
        "model": "llama",
        "tokens": list(TOKENS),
        "token_type": [kind for kind, _ in TOKENS.values()],
        "scores": [score for _, score in TOKENS.values()],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


def spelled(text, parse_special=False, **changes):
    tokenizer = make_tokenizer(tiny(**changes))
    return [tokenizer.token_text(token) for token in tokenizer.encode(text, parse_special=parse_special)]


def by_definition(text, metadata):
    """Merge the best-scored pair of neighbours, the leftmost of equals, until none forms a piece."""
    tokens, types, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    score_of = {
        piece: score for piece, kind, score in zip(tokens, types, scores, strict=True) if kind == NORMAL
    }
    id_of = {piece: token for token, piece in enumerate(tokens)}
    parts = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        joined = [left + right for left, right in pairwise(parts)]
        places = [place for place, piece in enumerate(joined) if piece in score_of]
        if not places:
            break
        best = max(places, key=lambda place: score_of[joined[place]])
        parts[best : best + 2] = [joined[best]]
    ids = []
    for part in parts:
        ids += [id_of[part]] if part in id_of else [id_of[f"<0x{byte:02X}>"] for byte in part.encode()]
    return ids


@pytest.mark.parametrize("name", [LLAMA_2, "zoo/llama_spm"])
@given(text=st.text(st.sampled_from("ab cdehinorst-=.AB\n0é日")) | st.text())
def test_merges_as_sentencepiece_defines_them(name, text, metadata_of, tokenizer_of):
    ids = tokenizer_of(name).encode(text, add_special=False)
    assert ids == by_definition(text, metadata_of(name))


@pytest.mark.parametrize("count", range(1, 70))
def test_runs_of_spaces(count, metadata_of, tokenizer_of):
    """Their pieces all have the same score in Llama 2's vocabulary."""
    text = "x" + " " * count + "y"
    ids = tokenizer_of(LLAMA_2).encode(text, add_special=False)
    assert ids == by_definition(text, metadata_of(LLAMA_2))


def test_merges_best_piece_first_then_the_longer_left_part():
    pieces = {"a": -9.0, "b": -9.0, "ab": -2.0, "aab": -1.0, "aa": -3.0}
    assert merges_of(pieces) == [("aa", "b"), ("a", "ab"), ("a", "b"), ("a", "a")]


@pytest.mark.parametrize("name", ["zoo/llama_spm", "zoo/phi3", "zoo/gemma2"])
@given(text=st.text())
def test_round_trip(name, text, tokenizer_of):
    tokenizer = tokenizer_of(name)
    expected = text.replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == expected


def test_a_space_before_each_text():
    assert spelled("a") == ["<s>", "\u2581a"]
    assert spelled("a", add_space_prefix=False) == ["<s>", "a"]
    assert spelled("a</s>a", parse_special=True) == ["<s>", "\u2581a", "</s>", "\u2581a"]
    assert spelled("") == ["<s>"]


def test_decode_drops_only_the_space_that_encode_added():
    tokenizer = make_tokenizer(tiny())
    assert tokenizer.decode(tokenizer.encode(" a")) == " a"
    assert tokenizer.decode(tokenizer.encode("a"), skip_special=False) == "<s>a"
    assert tokenizer.token_bytes(tokenizer.encode("a")[1]) == b" a"
    assert tokenizer.decode([]) == ""
    bare = make_tokenizer(tiny(add_space_prefix=False))
    assert bare.decode(bare.encode(" a")) == " a"


def test_text_never_merges_into_a_control_token():
    assert spelled("<s>", add_bos_token=False) == ["\u2581", "<s", ">"]
    assert spelled("<s>", parse_special=True, add_bos_token=False) == ["<s>"]


def test_unused_pieces_are_not_used():
    assert spelled("aaa") == ["<s>", "\u2581a", "a", "a"]


def test_user_defined_tokens_are_found_in_any_text():
    assert spelled("a  a", add_bos_token=False) == ["\u2581a", "  ", "\u2581a"]


def test_characters_without_a_piece_become_bytes():
    assert spelled("é") == ["<s>", "\u2581", "<0xC3>", "<0xA9>"]
    tokenizer = make_tokenizer(tiny())
    assert tokenizer.decode([tokenizer.encode("é")[2]]) == "\ufffd"


def test_special_tokens_of_phi3_take_the_space_after_them(tokenizer_of):
    tokenizer = tokenizer_of("llamacpp/ggml-vocab-phi-3")
    ids = tokenizer.encode("<|user|>\nHello<|end|>\n<|assistant|>\n", parse_special=True)
    assert [tokenizer.token_text(token) for token in ids] == [
        *("<s>", "<|user|>", "\u2581Hello", "<|end|>", "<|assistant|>"),
    ]


def test_sentencepiece_numbers_where_the_file_has_none():
    tokenizer = make_tokenizer(tiny())
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (1, 2, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, r"'tokenizer.ggml.scores' is missing; expected an array of float"),
        ({"scores": [0.0]}, r"'tokenizer.ggml.scores' has 1 entries; expected"),
        ({"add_space_prefix": "no"}, r"'tokenizer.ggml.add_space_prefix' is 'no' \(str\)"),
    ],
)
def test_broken_vocabularies(changes, message):
    with pytest.raises(TokenizerError, match=message):
        make_tokenizer(tiny(**changes))


def test_a_misspelled_byte_token():
    tokens = ["<unk>", "<s>", "</s>", "<byte 10>"]
    broken = make_tokenizer(tiny(tokens=tokens, token_type=[2, 3, 3, BYTE], scores=[0.0] * 4))
    with pytest.raises(TokenizerError, match=r"'<byte 10>' is not spelled like '<0x0A>'"):
        broken.token_bytes(3)
