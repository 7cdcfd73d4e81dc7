"""Request bodies: JSON to a checked request, and what becomes of every field that is sent.

A field is one of four kinds: *declared* by the request's struct; *unsupported*, known to people
but beyond shimmy, so that it is refused unless its value changes nothing; *idle*, which changes
no answer whatever its value; or *unknown*, which is ignored and told, or refused if the server is
strict.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from shimmy.errors import RequestError, did_you_mean

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

#: Unknown fields told of by name. A client could send any number of them, of any length.
MOST_NAMED = 16
LONGEST_NAME = 64

#: Whole numbers below are exact as floats.
_EXACT_BELOW = 2**53

#: Objects inside a request that may hold numbers: ``options.logit_bias``. Clients may nest far deeper.
_DEEPEST = 2

_log = logging.getLogger(__name__)


def neutral(*values: Any) -> Callable[[Any], bool]:
    """A rule for an unsupported field: these values change nothing. None never does."""
    return lambda value: value in values


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What is known of fields that a request does not declare; nested ones with a dot: ``options.seed``."""

    unsupported: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Whether a value of this field changes nothing, so that it may be accepted."""
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Body(Generic[R]):
    """A request, and the names of the fields in it that nobody knows."""

    request: R
    ignored: tuple[str, ...] = ()


def read_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a body, whatever its content type said.

    Raises:
        RequestError: it is not JSON, or no object.
    """
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RequestError(f"the request is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RequestError("the request is not a JSON object.", hint='Expected {"model": …}.')
    return fields


def read_request(fields: Mapping[str, Any], kind: type[R], rules: FieldRules, *, strict: bool) -> Body[R]:
    """A request out of a JSON object.

    Raises:
        RequestError: a field of wrong type or out of range, an unsupported one, or, if ``strict``,
            one that nobody knows.
    """
    fields = _with_whole_numbers(fields)
    for name, changes_nothing in rules.unsupported.items():
        value = _value_at(fields, name)
        if value is not None and not changes_nothing(value):
            raise RequestError(
                f"{name} is not supported, and leaving it out would change the answer.",
                hint="Send the request without it.",
                param=name,
            )
    try:
        request = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error), fields) from None
    known = rules.unsupported.keys() | rules.idle
    # As keys of a dict: each once, in order. A list of messages may repeat them.
    ignored = [*dict.fromkeys(name for name in _undeclared(fields, request) if name not in known)]
    if ignored and strict:
        raise _unknown_fields(ignored, {*kind.__struct_encode_fields__, *known})
    if ignored:
        _log.info("ignored fields nobody knows: %s", ", ".join(shown_names(ignored)))
    return Body(request, tuple(ignored))


def one_of(**spellings: T | None) -> T | None:
    """The value of a field that has several names; None if none of them is given.

    Raises:
        RequestError: two of them say different things.
    """
    given = [(name, value) for name, value in spellings.items() if value is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise RequestError(
                f"{given[0][0]} is {given[0][1]}, but {name}, another name for it, is {value}.",
                hint="Leave one of them out.",
                param=name,
            )
    return given[0][1] if given else None


def shown_names(names: list[str] | tuple[str, ...]) -> list[str]:
    """Names a client made up, safe to put into a header or a log: a few, short, percent-encoded."""
    shown = [quote(name[:LONGEST_NAME], safe="[]{}") for name in names[:MOST_NAMED]]
    return shown if len(names) <= MOST_NAMED else [*shown, "..."]


def _undeclared(fields: Any, request: Any, where: str = "") -> Iterator[str]:
    """Names of the keys in ``fields`` that the structs in ``request``, made of them, do not declare."""
    if isinstance(request, list):
        for part, made in zip(fields, request, strict=True):
            yield from _undeclared(part, made, f"{where}[]")
    elif isinstance(request, msgspec.Struct):
        declared = request.__struct_encode_fields__
        for key, value in fields.items():
            name = f"{where}.{key}" if where else key
            if key in declared:
                yield from _undeclared(value, getattr(request, key), name)
            else:
                yield name


def _unknown_fields(names: list[str], known: set[str]) -> RequestError:
    listed = ", ".join(shown_names(names))
    return RequestError(
        f"nobody knows the field{'s' * (len(names) > 1)} {listed}, and this server is strict.",
        hint=did_you_mean(names[0], known),
        param=names[0],
    )


def _with_whole_numbers(fields: Mapping[str, Any], depth: int = _DEEPEST) -> dict[str, Any]:
    """The fields with 1.0 as 1: in JSON both are the same number. Lists are left as they are."""
    return {name: _whole(value, depth) for name, value in fields.items()}


def _whole(value: Any, depth: int) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        return int(value)
    return _with_whole_numbers(value, depth - 1) if depth and isinstance(value, dict) else value


def _value_at(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a possibly nested field, None if it is not there."""
    outer, dot, inner = name.partition(".")
    value = fields.get(outer)
    if not dot:
        return value
    return _value_at(value, inner) if isinstance(value, dict) else None


def _invalid_field(problem: str, fields: Mapping[str, Any]) -> RequestError:
    """msgspec's "Expected `int`, got `str` - at `$.max_tokens`" in our words."""
    what, _, place = problem.partition(" - at `$")
    if missing := re.search(r"missing required field `(\w+)`", what):
        path = f"{place.rstrip('`')}.{missing[1]}".lstrip(".")
        return RequestError(f"{path} is missing; it is required.", param=path)
    # "[...]" stands for some value of an object.
    path = place.rstrip("`").lstrip(".").removesuffix("[...]")
    found = _number_at(fields, path)
    what = what[:1].lower() + what[1:].replace("`", "")
    got = f" is {found}" if found is not None and ", got" not in what else ""
    return RequestError(f"{path}{got}: {what}.", param=path)


def _number_at(fields: Any, path: str) -> str | None:
    """The number at ``path``, as found. Texts are left out: errors may be logged by clients."""
    for key in re.findall(r"[^.\[\]]+", path):
        try:
            fields = fields[int(key)] if isinstance(fields, list) else fields[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return str(fields) if isinstance(fields, int | float) and not isinstance(fields, bool) else None
