"""What becomes of each field of a request."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from shimmy.errors import RequestError
from shimmy.server.body import (
    LONGEST_NAME,
    MOST_NAMED,
    Body,
    FieldRules,
    neutral,
    read_object,
    read_request,
    shown_names,
)


class Part(Struct):
    text: str


class Inner(Struct):
    depth: int | None = None


class Order(Struct):
    size: Annotated[int, Meta(ge=1)]
    parts: list[Part] | None = None
    inner: Inner | None = None
    either: str | list[Part] | None = None


RULES = FieldRules(
    unsupported={"colour": neutral("", "none"), "inner.twist": neutral(0)},
    idle=frozenset({"note", "inner.note"}),
)


def read(strict: bool = False, **fields: Any) -> Body[Order]:
    return read_request({"size": 1} | fields, Order, RULES, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_known_fields_are_not_told(strict: bool) -> None:
    body = read(
        strict=strict,
        parts=[{"text": "a"}],
        inner={"depth": 1, "twist": 0, "note": 1},
        either="x",
        colour="none",
        note={"any": "thing"},
    )
    assert body.ignored == ()
    assert body.request.size == 1


def test_unknown_fields_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shimmy")
    parts = [{"text": "a", "odd": "secret"}, {"text": "b", "odd": 2}]
    body = read(new="secret", parts=parts, either=parts, inner={"wide": 3})
    assert set(body.ignored) == {"new", "parts[].odd", "either[].odd", "inner.wide"}
    assert len(body.ignored) == 4
    assert "parts[].odd" in caplog.text
    assert "secret" not in caplog.text


def test_strict_refuses_unknown_fields() -> None:
    with pytest.raises(RequestError, match="colur, new.* Did you mean 'colour'") as caught:
        read(strict=True, colur="red", new=1)
    assert caught.value.param == "colur"


@pytest.mark.parametrize(
    ("fields", "param"), [({"colour": "red"}, "colour"), ({"inner": {"twist": 1}}, "inner.twist")]
)
def test_unsupported_fields_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match=f"{param} is not supported") as caught:
        read(**fields)
    assert caught.value.param == param


def test_null_is_not_given() -> None:
    assert read(colour=None, inner=None, parts=None).ignored == ()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"size": 0}, "size", ["0", ">= 1"]),
        ({"size": "big"}, "size", ["int", "str"]),
        ({"parts": [{"text": 5}]}, "parts[0].text", ["str", "int"]),
        ({"parts": [{}]}, "parts[0].text", ["missing"]),
        ({"inner": 5}, "inner", ["object", "int"]),
        ({"inner": {"depth": 1.5}}, "inner.depth", ["float"]),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], param: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert caught.value.param == param
    for word in (param, *words):
        assert word in caught.value.message


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b'"text"', b"\xff", b"a=b&c=d", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}'],
)
def test_other_than_json_objects_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="JSON"):
        read_object(data)


def test_halves_of_characters_are_refused() -> None:
    """They could not be encoded again."""
    with pytest.raises(RequestError, match="JSON"):
        read_object(json.dumps({"text": "\ud83d"}))
    assert read_object(json.dumps({"text": "🙂"})) == {"text": "🙂"}


def test_names_are_shown_safely() -> None:
    assert shown_names(["plain", "options.top[]"]) == ["plain", "options.top[]"]
    [shown] = shown_names(["a\r\nSet-Cookie: x=1, ü"])
    assert shown.isascii()
    assert not set(shown) & set("\r\n,: ")
    assert len(shown_names(["x" * 10_000])[0]) == LONGEST_NAME
    assert shown_names([str(number) for number in range(100)])[MOST_NAMED:] == ["..."]


def test_whole_floats_are_whole_numbers() -> None:
    request = read_request({"size": 2.0, "inner": {"depth": 3.0}}, Order, RULES, strict=True).request
    assert (request.size, request.inner) == (2, Inner(3))
    for size in (2.5, 1e300):
        with pytest.raises(RequestError, match="size"):
            read(size=size)


def test_nesting_without_end() -> None:
    with pytest.raises(RequestError, match="not valid JSON"):
        read_object('{"size": ' + "[" * 100_000 + "]" * 100_000 + "}")


def test_fields_nobody_knows_may_be_nested_deeply() -> None:
    fields = read_object('{"size": 1, "deep": ' + '{"a":' * 800 + "1" + "}" * 801)
    assert read_request(fields, Order, RULES, strict=False).ignored == ("deep",)
