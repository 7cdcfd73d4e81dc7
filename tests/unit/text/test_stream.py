"""TextStream: whole characters, stop strings however they are cut, the same text in the end."""

import codecs
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import RequestError
from shimmy.text.stream import TextStream


class Pieces:
    """A tokenizer whose tokens are these bytes."""

    def __init__(self, pieces):
        self.token_bytes = pieces.__getitem__


def stream(pieces, stops=()):
    """What each push and the flush return."""
    text = TextStream(
        Pieces([piece.encode() if isinstance(piece, str) else piece for piece in pieces]), stops
    )
    return [text.push([token]) for token in range(len(pieces))], text.flush(), text


def expected(text, stops):
    """``text`` before the stop string that is complete first, the longest of those."""
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not ends:
        return text, False
    end, length = min(ends)
    return text[: end + length], True


def test_text_is_given_out_at_once_when_nothing_can_stop_it():
    assert stream(["Hel", "lo ", "you"])[:2] == (["Hel", "lo ", "you"], "")


def test_the_space_of_the_first_token_is_kept():
    assert stream([" of", " Egypt"])[:2] == ([" of", " Egypt"], "")


def test_a_character_over_several_tokens():
    llama = "🦙".encode()
    assert stream([b"a" + llama[:1], llama[1:3], llama[3:] + b"b"])[:2] == (["a", "", "🦙b"], "")


def test_a_character_cut_short():
    assert stream([b"a\xf0\x9f"])[:2] == (["a"], "")
    assert stream([b"\xf0\x9f", b"a"])[:2] == (["", "\ufffda"], "")


def test_a_stop_string_over_several_tokens():
    shown, rest, text = stream(["one\n", "Us", "er: two"], ["\nUser:"])
    assert (shown, rest, text.stopped) == (["one", "", ""], "", True)


def test_the_beginning_of_a_stop_string_is_given_out_once_it_is_none():
    shown, rest, text = stream(["a##", "#b#"], ["###!"])
    assert (shown, rest, text.stopped) == (["a", "###b"], "#", False)


def test_nothing_comes_after_a_stop():
    text = TextStream(Pieces([b"a!b", b"c"]), ["!"])
    assert [text.push([0]), text.push([1]), text.flush()] == ["a", "", ""]


def test_the_stop_string_complete_first_counts():
    assert stream(["abcd"], ["abcd", "bc"])[0] == ["a"]
    assert stream(["abc"], ["bc", "abc"])[0] == [""]
    assert stream(["aab"], ["ab"])[0] == ["a"]


def test_several_tokens_at_once():
    text = TextStream(Pieces([b"a", b"b", b"c"]), ["x"])
    assert text.push([0, 1, 2]) == "abc"
    assert text.push([]) == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(RequestError, match="a stop string is empty") as caught:
        TextStream(Pieces([]), ["x", ""])
    assert caught.value.param == "stop"


letters = st.text(st.sampled_from("ab\né🦙"), max_size=40)


@given(
    data=letters.map(str.encode) | st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 60), max_size=12),
    stops=st.lists(st.text(st.sampled_from("ab\né🦙"), min_size=1, max_size=5), max_size=3),
)
def test_cuts_change_nothing(data, cuts, stops):
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(places)]
    shown, rest, text = stream(pieces, stops)
    assert ("".join(shown) + rest, text.stopped) == expected(_whole_characters(data), stops)


def _whole_characters(data):
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@given(text=letters, stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop_string(text, stops):
    whole, _ = expected(text, stops)
    given_out = ""
    live = TextStream(Pieces([character.encode() for character in text]), stops)
    for token in range(len(whole)):
        given_out += live.push([token])
        held = whole[len(given_out) : token + 1]
        assert any(stop.startswith(held) for stop in stops)
