"""The Jinja environment chat templates run in. Imports jinja2; :mod:`shimmy.text.chat` does not."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import CodeType
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from shimmy.text.budget import FILTERS, METHODS, OPERATORS, Budget, OutOfBudget
from shimmy.text.tokenizer import MARK

#: The mark as JSON escapes it; after an odd number of backslashes those are the user's own letters.
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)" + re.escape(json.dumps(MARK)[1:-1]))

#: The filters there are. Of others it is not known how long they take and how large a text they make.
_FILTERS = frozenset(
    {
        *("abs", "attr", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first"),
        *("float", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower"),
        *("map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select"),
        *("selectattr", "sort", "string", "title", "tojson", "trim", "truncate", "unique", "upper"),
        *("urlencode", "wordcount"),
    }
)
#: Methods that are left out for the same reason; none is of use in a prompt.
_NO_METHODS = frozenset({"encode", "maketrans", "translate", "to_bytes", "from_bytes"})
#: Arguments that jinja2 adds to calls and takes away again.
_JINJAS = frozenset({"_loop_vars", "_block_vars"})
#: Longest text that lays out others: the indentation of JSON, the format of a time.
_MAX_LAYOUT = 1000
_MAX_SOURCE = 2**20


class RefusedByTemplate(Exception):  # noqa: N818 - a template's own word, not a defect
    """The template called ``raise_exception``."""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; rendering sees through it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class CompiledTemplate:
    """A template with the functions chat templates are written for; each run has a budget of its own.

    The sandbox forbids private attributes, changes to its arguments, and long ranges.

    Raises:
        TemplateSyntaxError: it is not Jinja.
        OutOfBudget: it is too long.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _MAX_SOURCE:
            raise OutOfBudget(f"is longer than {_MAX_SOURCE} characters")
        self._code: CodeType = _Environment().compile(source)

    def pieces(self, variables: Mapping[str, Any]) -> Iterator[str]:
        """What it writes. Raises OutOfBudget, and whatever the template gets wrong."""
        environment = _Environment()
        template = Template.from_code(environment, self._code, environment.make_globals(None))
        return template.generate(variables)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox of one run: all that grows or lasts goes through its budget."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=self._written,
            optimized=False,
        )
        self.budget = Budget()
        setattr(self, "concat", self.budget.joined)  # noqa: B010 - declared as a function of the class
        own: dict[str, Callable[..., Any]] = {"tojson": self._to_json, "join": self._join}
        filters = {name: function for name, function in self.filters.items() if name in _FILTERS} | own
        self.filters = {
            name: self._bounded(function, FILTERS.get(name)) for name, function in filters.items()
        }
        self.filters |= {" made": self.budget.made, " concatenated": self._concatenated}
        self.tests = {name: self._bounded(function) for name, function in self.tests.items()}
        del self.globals["lipsum"]
        self.globals |= {
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        watched: nodes.Template = _Watched().visit(super()._parse(source, name, filename))
        return watched

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if (size := OPERATORS.get(operator)) is not None:
            self.budget.expect(size(left, right))
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        # The sandbox puts a function of its own before `format`.
        method = getattr(function, "__wrapped__", function)
        text = getattr(method, "__self__", None)
        if isinstance(text, str) and (size := METHODS.get(method.__name__)) is not None:
            own = {name: value for name, value in kwargs.items() if name not in _JINJAS}
            self.budget.expect(size(text, *args, **own))
        self.budget.step()
        return self.budget.made(super().call(context, function, *args, **kwargs))

    def _bounded(self, function: Any, size: Callable[..., int] | None = None) -> Any:
        """A filter or test, within the budget."""
        # Some are given the environment or its like before their arguments.
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.budget.expect(size(*args[skipped:], **kwargs) if size else 0)
            result = function(*args, **kwargs)
            return self.budget.stepped(result) if isinstance(result, Iterator) else self.budget.made(result)

        return bounded

    def _written(self, value: Any) -> str:
        # In two steps: as text, a value may be ten times as large.
        return self.budget.made(str(self.budget.made(value)))

    def _concatenated(self, values: list[Any]) -> str:
        return self.budget.joined(map(str, values))

    def _join(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        listed = list(self.budget.stepped(values))
        if attribute is not None:
            listed = list(self.call_filter("map", listed, kwargs={"attribute": attribute}))
        self.budget.expect(METHODS["join"](d, listed))
        return str(d).join(map(str, listed))

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # jinja2's own filter escapes for HTML, which a model would read literally.
        for layout in (indent, *(separators or ())):
            _check_layout(layout)
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        text = self.budget.joined(encoder.iterencode(value))
        return _ESCAPED_MARK.sub(rf"\1{MARK}", text) if ensure_ascii else text


class _Namespace(Namespace):
    """Shown without what it holds: that may be itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Watched(NodeTransformer):
    """Puts the budget where the sandbox has no say: loops, new containers, comparisons, ``~``, slices."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filtered(" made", nodes.Const(None)), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(nodes.Not(_filtered(" made", nodes.Const(None))), node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        return _filtered(" concatenated", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        return _filtered(" made", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        return _filtered(" made", node) if node.ctx == "load" else node

    def visit_Compare(self, node: nodes.Expr) -> nodes.Node:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        return _filtered(" made", node)

    visit_List = visit_Dict = visit_Compare  # noqa: N815


def _filtered(name: str, node: nodes.Expr) -> nodes.Filter:
    """``node`` through a filter whose name, with its space, no template can spell."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check_layout(layout: int | str | None) -> None:
    if (layout if isinstance(layout, int) else len(layout or "")) > _MAX_LAYOUT:
        raise OutOfBudget(f"lays text out with more than {_MAX_LAYOUT} characters")


def _raise_exception(message: object) -> NoReturn:
    raise RefusedByTemplate(str(message))


def _strftime_now(layout: str) -> str:
    _check_layout(layout)
    return datetime.now().strftime(layout)
