"""What a settings model says of itself: spellings, defaults, ranges. Flags and docs come from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval

from shimmy.settings_sources import Shape, variable_name

if TYPE_CHECKING:
    from pydantic import BaseModel


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


def describe(model: type[BaseModel], flags: Mapping[str, str], prefix: str = "") -> dict[str, SettingInfo]:
    """The documented fields of ``model`` by key; ``flags`` holds the irregular flag names."""
    hints = get_type_hints(model, include_extras=True)
    table = {}
    for name, field in model.model_fields.items():
        if not field.description:
            continue
        key = prefix + name
        table[key] = SettingInfo(
            key=key,
            flag=flags.get(key, "--" + key.replace("_", "-")),
            variable=variable_name(key),
            default=_default(field.default, hints[name]),
            expected=_expected(hints[name]),
            help=field.description,
            shape=_shape(hints[name]),
            is_switch=hints[name] is bool,
        )
    return table


def _default(value: object, hint: Any) -> str:
    if value is None:
        return "auto" if takes_auto(hint) else "all" if _shape(hint) is Shape.NAMES else "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value == () else str(value)


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without None; any other type is its own only member."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not NoneType)


def takes_auto(hint: Any) -> bool:
    """Whether the type is a number or None, None meaning that shimmy finds one by itself."""
    return NoneType in get_args(hint) and any(_bare(member) is int for member in _members(hint))


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _shape(hint: Any) -> Shape:
    member = _bare(_members(hint)[0])
    if get_origin(member) is tuple:
        return Shape.PATHS if get_args(member)[0] is Path else Shape.NAMES
    return Shape.PATH if member is Path else Shape.TEXT


def _expected(hint: Any) -> str:
    texts = [_expected_of(member) for member in _members(hint)]
    if takes_auto(hint):
        texts.append("auto")
    return " or ".join(texts)


def _expected_of(member: Any) -> str:
    if get_origin(member) is Annotated:
        extras = get_args(member)[1:]
        told = next((extra.text for extra in extras if isinstance(extra, Expected)), None)
        bounds = next((extra for extra in extras if isinstance(extra, Interval)), None)
        return told or (f"a whole number from {bounds.ge} to {bounds.le}" if bounds else "")
    if get_origin(member) is Literal:
        *others, last = map(str, get_args(member))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(member) is tuple:
        return "a list of paths" if get_args(member)[0] is Path else "a list of names"
    return {bool: "true or false", Path: "a path", str: "a text"}[member]
