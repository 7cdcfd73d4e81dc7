"""Functions of vectors that LLVM does not bring: built from the emitter's arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable
from math import e as euler
from math import factorial, log, log2

from shimmy_plugins.backends.cpu.values import F32, LANES, Value


def exp(x: Value) -> Value:
    """e^x, within two ulp; 0 below -87 and infinite above 88, a little before F32 ends.

    x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor series of e^r to r^7 errs by 5e-9, under a
    rounding of F32; 2^n goes straight into the exponent bits.
    """
    emitter = x.emitter
    low, high = emitter.floats(-87.0), emitter.floats(88.0)
    clamped = emitter.minimum(emitter.maximum(x, low), high)
    n, r = _reduced(clamped)
    y = _taylor(r, 0) * _power_of_2(n)
    y = emitter.select(high < x, emitter.floats(float("inf")), y)
    return emitter.select(x < low, emitter.floats(0.0), y)


def _reduced(x: Value) -> tuple[Value, Value]:
    """(n, r): x = n ln 2 + r with |r| <= ln 2 / 2."""
    emitter = x.emitter
    n = emitter.intrinsic("rint", x * log2(euler))
    # ln 2 in two parts: the first has few bits, so n times it is exact (Cody & Waite 1980).
    ln2_high = 355.0 / 512.0
    r = emitter.fma(n, emitter.floats(-ln2_high), x)
    return n, emitter.fma(n, emitter.floats(ln2_high - log(2.0)), r)


def _taylor(r: Value, first: int) -> Value:
    """The terms r^i / i! of e^r for i from ``first`` to 7, over r^first."""
    emitter = r.emitter
    series = emitter.floats(1.0 / factorial(7))
    for power in range(6, first - 1, -1):
        series = emitter.fma(series, r, emitter.floats(1.0 / factorial(power)))
    return series


def _power_of_2(n: Value) -> Value:
    """2^n for whole n, straight into the exponent bits."""
    return ((n.to_integer() + 127) << 23).bits(F32)


def tanh(x: Value) -> Value:
    """The hyperbolic tangent, within a few ulp: from e^2x - 1, which keeps its digits near 0.

    With 2x = n ln 2 + r, e^2x - 1 = 2^n (e^r - 1) + (2^n - 1).
    """
    emitter = x.emitter
    most = emitter.floats(10.0)  # beyond it the result is 1 in F32
    doubled = emitter.minimum(emitter.maximum(x, -most), most) * 2.0
    n, r = _reduced(doubled)
    less_one = _taylor(r, 1) * r
    power = _power_of_2(n)
    less_one = emitter.fma(less_one, power, power - 1.0)
    return less_one / (less_one + 2.0)


def sum_lanes(x: Value) -> Value:
    """The sum of a vector's lanes, always paired the same way."""
    return _halve(x, lambda a, b: a + b)


def max_lanes(x: Value) -> Value:
    """The largest lane."""
    return _halve(x, x.emitter.maximum)


def min_lanes(x: Value) -> Value:
    """The smallest lane."""
    return _halve(x, x.emitter.minimum)


def _halve(x: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Combine the upper half of the lanes with the lower one until one lane is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        x = combine(x, x.turned(lanes))
    return x.lane(0)
