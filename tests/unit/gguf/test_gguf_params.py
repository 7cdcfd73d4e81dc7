"""Metadata to parameter dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import pytest

from shimmy.errors import GGUFError
from shimmy.gguf.params import read_params


@dataclass(frozen=True)
class Params:
    block_count: int
    attention__head_count: int
    attention__head_count_kv: int | None = None
    rope__freq_base: float = 10000.0
    rope__scaling__type: str = "none"
    use_parallel_residual: bool = False
    pattern: list[bool] = field(default_factory=list)
    factors: list[float] = field(default_factory=lambda: [1.0])
    layers: Optional[int | list[int]] = None  # noqa: UP045 - both spellings are understood
    derived: int = field(init=False, default=7)


LEAST = {"x.block_count": 2, "x.attention.head_count": 8}


def test_defaults_for_what_the_file_lacks():
    assert read_params(Params, {**LEAST, "x.derived": 1, "other": "kept out"}, "x") == Params(2, 8)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("attention.head_count_kv", 4, 4),
        ("attention.head_count_kv", [4, 4, 4], 4),
        ("rope.freq_base", 500000, 500000.0),
        ("rope.freq_base", [2, 2.0], 2.0),
        ("rope.scaling.type", "yarn", "yarn"),
        ("use_parallel_residual", True, True),
        ("pattern", [True, False], [True, False]),
        ("pattern", [], []),
        ("factors", [1, 2.5], [1.0, 2.5]),
        ("layers", 3, 3),
        ("layers", [3, 3], [3, 3]),
    ],
)
def test_values(key, value, expected):
    params = read_params(Params, {**LEAST, f"x.{key}": value}, "x")
    found = getattr(params, key.replace(".", "__"))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_count", "2", "'x.block_count' is str '2', expected int"),
        ("block_count", 2.0, "is float 2.0, expected int"),
        ("block_count", True, "is bool True, expected int"),
        ("block_count", [], r"is list \[\], expected int"),
        ("block_count", ["2", "2"], "is list .* expected int"),
        ("block_count", [2, 3, 2], r"differs from layer to layer \(\[2, 3, 2\]\), expected one value of int"),
        ("rope.freq_base", True, "is bool True, expected float"),
        ("use_parallel_residual", 1, "is int 1, expected bool"),
        ("pattern", [1, 0], r"expected list\[bool\]"),
        ("layers", "3", r"expected int or list\[int\]"),
        ("rope.scaling.type", 5 * ["a" * 500], None),
        ("rope.scaling.type", 3, "expected str"),
    ],
)
def test_values_that_do_not_fit(key, value, message):
    metadata = {**LEAST, f"x.{key}": value}
    if message is None:
        assert read_params(Params, metadata, "x").rope__scaling__type == "a" * 500
        return
    with pytest.raises(GGUFError, match=message) as caught:
        read_params(Params, metadata, "x")
    assert caught.value.hint


def test_a_missing_key_is_named():
    with pytest.raises(GGUFError, match=r"no 'x\.attention\.head_count', expected int"):
        read_params(Params, {"x.block_count": 2}, "x")


def test_optional_alone_is_no_default():
    @dataclass
    class Needs:
        n: int | None

    with pytest.raises(GGUFError, match=r"no 'x\.n'"):
        read_params(Needs, {}, "x")


@pytest.mark.parametrize("hint", [dict, list, "tuple[int, ...]", "list[int | str]", "int | dict[str, int]"])
def test_types_that_metadata_cannot_have(hint):
    wrong = dataclass(type("Wrong", (), {"__annotations__": {"n": hint}}))
    with pytest.raises(TypeError, match="field 'n'"):
        read_params(wrong, {"x.n": 1}, "x")
