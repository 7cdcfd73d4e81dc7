"""What a settings model says of itself: spellings, defaults, ranges. Flags, docs and sources use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval
from pydantic import SecretStr

if TYPE_CHECKING:
    from pydantic import BaseModel

PREFIX = "SHIMMY_"


class Shape(Enum):
    """How a setting is spelled where only text can be given."""

    TEXT = "text"
    PATH = "path"
    NAMES = "names"
    PATHS = "paths"


_EXPECTED_SHAPES = {Shape.PATH: "a path", Shape.PATHS: "a list of paths", Shape.NAMES: "a list of names"}


@dataclass(frozen=True, slots=True)
class Expected:
    """Says, inside an ``Annotated`` type, what values it takes, where the type alone does not."""

    text: str


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting in all its spellings; ``default`` and ``expected`` are texts for people."""

    key: str
    flag: str
    variable: str
    default: str
    expected: str
    help: str
    shape: Shape
    is_switch: bool
    is_secret: bool


def describe(model: type[BaseModel], flags: Mapping[str, str], prefix: str = "") -> dict[str, SettingInfo]:
    """The documented fields of ``model`` by key; ``flags`` holds the irregular flag names."""
    table = {}
    for name, field in model.model_fields.items():
        if not field.description:
            continue
        key = prefix + name
        hint = field.rebuild_annotation()
        table[key] = SettingInfo(
            key=key,
            flag=flags.get(key, "--" + key.replace("_", "-")),
            variable=variable_name(key),
            default=_default(field.default, hint),
            expected=_expected(hint),
            help=field.description,
            shape=shape_of(hint),
            is_switch=hint is bool,
            is_secret=any(_bare(member) is SecretStr for member in _members(hint)),
        )
    return table


def variable_name(key: str) -> str:
    """``plugins.disabled`` -> ``SHIMMY_PLUGINS__DISABLED``."""
    return PREFIX + key.replace(".", "__").upper()


def shape_of(hint: Any) -> Shape:
    """The shape of the values that a type takes."""
    member = _bare(_members(hint)[0])
    if get_origin(member) is tuple:
        return Shape.PATHS if _bare(get_args(member)[0]) is Path else Shape.NAMES
    return Shape.PATH if member is Path else Shape.TEXT


def takes_auto(hint: Any) -> bool:
    """Whether the type is a number or None, None meaning that shimmy finds one by itself."""
    return NoneType in get_args(hint) and any(_bare(member) in (int, float) for member in _members(hint))


def _default(value: object, hint: Any) -> str:
    if value is None:
        return "auto" if takes_auto(hint) else "all" if shape_of(hint) is Shape.NAMES else "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value == () else str(value)


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without None; any other type is its own only member."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not NoneType)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _expected(hint: Any) -> str:
    texts = [_expected_of(member) for member in _members(hint)]
    if takes_auto(hint):
        texts.append("auto")
    return " or ".join(texts)


def _range(number: type, bounds: Interval) -> str:
    kind = "a whole number" if number is int else "a number"
    if bounds.gt is not None:
        return f"{kind} above {bounds.gt} and up to {bounds.le}"
    return f"{kind} from {bounds.ge} to {bounds.le}"


def _expected_of(member: Any) -> str:
    if get_origin(member) is Annotated:
        bare, *extras = get_args(member)
        told = next((extra.text for extra in extras if isinstance(extra, Expected)), None)
        bounds = next((extra for extra in extras if isinstance(extra, Interval)), None)
        return told or (_range(bare, bounds) if bounds else None) or _expected_of(bare)
    if get_origin(member) is Literal:
        *others, last = map(str, get_args(member))
        return f"{', '.join(others)} or {last}" if others else last
    return _EXPECTED_SHAPES.get(shape_of(member)) or ("true or false" if member is bool else "a text")
