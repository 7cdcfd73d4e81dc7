"""top_experts: the numbers of the experts with the largest logits, and their shares of the softmax.

They are found one after the other: the next is the best of those that come after the last, by logit
and then by number. So equal logits are told apart, and nothing has to be marked as taken.
"""

from __future__ import annotations

from collections.abc import Iterator

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import exp, max_lanes, min_lanes, sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import round_up
from shimmy_plugins.backends.cpu.values import F32, I32, LANES, Pointer, Value

_FIELDS = (
    "rows", "experts", "used", "normalize", "scale", "x", "x_stride", "y", "y_stride",
    "shares", "shares_stride",
)  # fmt: skip
#: Above the number of every expert.
_NOBODY = 0x7FFFFFFF


def _body(e: Emitter, f: Fields, work: Work) -> None:
    used = f.size("used")
    shares = f.pointer("shares") + work.thread * f.size("shares_stride")
    with work.claim(f.count("rows")) as row:
        logits, y = (f.pointer(name) + row * f.size(f"{name}_stride") for name in "xy")
        total = _exponentials(e, f, logits, shares)
        of_chosen = e.variable(e.coerce(0.0, F32))
        choice = _Choice(e, f, logits)
        with e.loop(0, used) as i:
            number = choice.following()
            share = shares[number] / total
            y[i], y[used + i] = number.to_float(), share
            of_chosen.value = of_chosen.value + share
        whole = e.select(e.int(0) < f.size("normalize"), of_chosen.value, e.coerce(1.0, F32))
        with e.loop(used, used * 2) as i:
            y[i] = y[i] / whole * f.float("scale")


def _parts(e: Emitter, f: Fields, x: Pointer) -> Iterator[tuple[Value, Value, Value]]:
    """The experts, 16 at a time: the first one's number, which of them there are, their numbers in ``x``."""
    experts = f.size("experts")
    with e.loop(0, experts, LANES) as first:
        left = e.minimum(experts - first, e.int(LANES))
        yield first, e.lanes_below(left), x.first(left, first)


def _exponentials(e: Emitter, f: Fields, logits: Pointer, shares: Pointer) -> Value:
    """shares = exp(logit - largest); returns their sum."""
    largest, total = e.variable(e.floats(float("-inf"))), e.variable(e.floats(0.0))
    for _, there, logit in _parts(e, f, logits):
        largest.value = e.maximum(largest.value, e.select(there, logit, largest.value))
    most = max_lanes(largest.value).splat()
    for first, there, logit in _parts(e, f, logits):
        share = e.select(there, exp(logit - most), e.floats(0.0))
        shares[first] = share
        total.value = total.value + share
    return sum_lanes(total.value)


class _Choice:
    """Emits the finding of one expert after the other."""

    def __init__(self, e: Emitter, f: Fields, logits: Pointer) -> None:
        self._e, self._f, self._logits = e, f, logits
        self._last = e.variable(e.floats(float("inf")))
        """The logit of the last one found."""
        self._behind = e.variable(e.ints(0))
        """The number after its own."""

    def following(self) -> Value:
        """The number of the next one; any if what is left is no number."""
        e = self._e
        best, number = e.variable(e.floats(float("-inf"))), e.variable(e.ints(_NOBODY))
        for first, there, logit in _parts(e, self._f, self._logits):
            numbers = first.narrow(I32).splat() + e.lane_numbers()
            equal = logit.equals(self._last.value) & (self._behind.value < numbers + 1)
            better = (best.value < logit) | number.value.equals(_NOBODY)
            found = there & better & (equal | (logit < self._last.value))
            best.value = e.select(found, logit, best.value)
            number.value = e.select(found, numbers, number.value)
        top = max_lanes(best.value)
        is_top = best.value.equals(top.splat())
        least = min_lanes(e.select(is_top, number.value, e.ints(_NOBODY)))
        chosen = e.minimum(least, self._f.size("experts").narrow(I32) - 1)
        self._last.value, self._behind.value = top.splat(), (chosen + 1).splat()
        return chosen


KERNEL = Kernel("top_experts", _FIELDS, _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    x, y = low.input(node), low.output(node)
    shares, stride = low.scratch(round_up(x.width))
    low.call(
        KERNEL,
        reads=[x],
        writes=[y],
        rows=y.rows,
        experts=x.width,
        used=node.attrs["used"],
        normalize=int(node.attrs["normalize"]),
        scale=float(node.attrs["scale"]),
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        shares=shares,
        shares_stride=stride,
    )
