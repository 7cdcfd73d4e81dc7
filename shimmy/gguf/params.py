"""Metadata to a parameter dataclass: an architecture lists what it needs, with types and defaults.

@dataclass(frozen=True)
class Params:
    block_count: int                                  # llama.block_count
    attention__head_count_kv: int | None = None       # llama.attention.head_count_kv

params = read_params(Params, file.metadata, "llama")
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from shimmy.errors import GGUFError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_SCALARS = (bool, int, float, str)


def read_params(cls: type[T], metadata: Mapping[str, Any], architecture: str) -> T:
    """Fill dataclass ``cls`` from the metadata keys of ``architecture``.

    - Field ``a__b_c`` reads ``{architecture}.a.b_c``: a double underscore is a dot.
    - A key the file lacks gives the field's default; without one it is an error. ``X | None``
      alone does not make a field optional: say ``= None``.
    - Types are bool, int, float, str, lists of one of these, or a union of such. An int serves
      as a float; a bool is never a number.
    - Where one value is expected and the file holds one per layer, they must all be equal.
    - Only fields of ``__init__`` are read.

    Raises:
        GGUFError: a key is missing, or its value does not fit; names key, found and expected.
        TypeError: ``cls`` has a field of another type.
    """
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in fields(cls):
        if not field.init:
            continue
        key = f"{architecture}.{field.name.replace('__', '.')}"
        options = _options(hints[field.name], field.name)
        if key in metadata:
            values[field.name] = _fit(key, metadata[key], options)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise GGUFError(
                f"metadata has no {key!r}, expected {_describe(options)}.",
                hint=f"Is this a complete {architecture!r} model? Convert it anew with a current converter.",
            )
    return cls(**values)


def _options(hint: Any, name: str) -> tuple[Any, ...]:
    """The types a field accepts; None is left out, since a file cannot say it."""
    union = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    options = tuple(option for option in union if option is not NoneType)
    for option in options:
        element = get_args(option)[0] if get_origin(option) is list else option
        if element not in _SCALARS:
            raise TypeError(f"field {name!r} is {hint}, expected bool, int, float, str or lists of one.")
    return options


def _fit(key: str, value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if _matches(value, option):
            return _convert(value, option)
    if isinstance(value, list) and value:
        for option in options:
            if not all(_matches(one, option) for one in value):
                continue
            if value.count(value[0]) == len(value):
                return _convert(value[0], option)
            raise GGUFError(
                f"metadata {key!r} differs from layer to layer ({_show(value)}), "
                f"expected one value of {_describe(options)}.",
                hint="This model needs an architecture plugin that reads a value per layer.",
            )
    raise GGUFError(
        f"metadata {key!r} is {type(value).__name__} {_show(value)}, expected {_describe(options)}.",
        hint="Convert the model anew with a current converter.",
    )


def _matches(value: Any, option: Any) -> bool:
    if get_origin(option) is list:
        return isinstance(value, list) and all(_matches(one, get_args(option)[0]) for one in value)
    if option is float:
        return type(value) in (int, float)
    return type(value) is option


def _convert(value: Any, option: Any) -> Any:
    """An int where a float is wanted becomes one; all else is as it should be already."""
    if option is float:
        return float(value)
    return [float(one) for one in value] if option == list[float] else value


def _describe(options: tuple[Any, ...]) -> str:
    return " or ".join(str(option) if get_origin(option) else option.__name__ for option in options)


def _show(value: Any) -> str:
    # Never the whole value: a file may hold millions of elements, or one enormous string.
    return reprlib.repr(value)
