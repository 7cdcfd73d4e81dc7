"""What shape a row of an op's result has, and which inputs and weights fit together: a rule per op.

Each is called with the shapes of the inputs, those of the weights by role, and the attrs, and raises
GraphError; a weight of fewer dimensions than expected may fail in any way, which the builder reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from shimmy.errors import GraphError

Shape: TypeAlias = tuple[int, ...]
ShapeRule: TypeAlias = Callable[[Sequence[Shape], Mapping[str, Shape], Mapping[str, Any]], Shape]


def matrix(shape: Shape) -> tuple[int, int]:
    """(rows, columns); a vector, as which files keep a matrix of one row, is (1, columns)."""
    rows, columns = shape if len(shape) > 1 else (1, *shape)
    return rows, columns


def same(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    if any(s != inputs[0] for s in inputs):
        raise GraphError(f"inputs differ in shape: {', '.join(map(str, inputs))}.")
    return inputs[0]


def embed(_i: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    return (weights["weight"][1],)


def linear(inputs: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    rows, columns = matrix(weights["weight"])
    if inputs[0] != (columns,):
        raise GraphError(f"the weight has {columns} columns, its input has shape {inputs[0]}.")
    if "bias" in weights and weights["bias"] != (rows,):
        raise GraphError(f"the bias has shape {weights['bias']}, the weight {rows} rows.")
    return (rows,)


def norm(inputs: Sequence[Shape], weights: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    if not 0.0 <= attrs["eps"] < math.inf:
        raise GraphError(f"epsilon is {attrs['eps']}, expected a finite number, 0 or above.")
    for role, shape in weights.items():
        if shape != inputs[0][-1:]:
            expected = inputs[0][-1:]
            raise GraphError(f"the {role} has shape {shape}, expected {expected} for its input {inputs[0]}.")
    return inputs[0]


def heads(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    count, shape = inputs[0][-1], inputs[0]
    wanted: int = attrs["heads"]
    if len(shape) != 1 or wanted < 1 or count % wanted:
        raise GraphError(f"shape {shape} cannot be split into {wanted} heads.")
    return (wanted, count // wanted)


def rope(inputs: Sequence[Shape], weights: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    dims: int = attrs["dims"]
    if len(inputs[0]) != 2 or dims % 2 or not 0 < dims <= inputs[0][1]:
        raise GraphError(f"cannot rotate {dims} dimensions of heads of shape {inputs[0]}.")
    if not 1.0 < attrs["base"] < math.inf:
        raise GraphError(f"the base of rotations is {attrs['base']}, expected a finite number above 1.")
    if "factors" in weights and weights["factors"] != (dims // 2,):
        raise GraphError(f"{dims // 2} frequency factors are needed, the file has {weights['factors']}.")
    return inputs[0]


def attention(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    q, k, v = inputs
    window, softcap = attrs["window"], attrs["softcap"]
    if not math.isfinite(attrs["scale"]):
        raise GraphError(f"scores are scaled by {attrs['scale']}, expected a finite number.")
    if window is not None and window < 1:
        raise GraphError(f"the window is {window} tokens, expected at least 1.")
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise GraphError(f"scores are capped at {softcap}, expected a finite number above 0.")
    if k[0] != v[0] or q[1] != k[1] or q[0] % k[0]:
        raise GraphError(f"queries {q}, keys {k} and values {v} do not fit together.")
    return (q[0] * v[1],)


def scale(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    if not math.isfinite(attrs["factor"]):
        raise GraphError(f"cannot scale by {attrs['factor']}, expected a finite number.")
    return inputs[0]


def softcap(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    if not 0.0 < attrs["cap"] < math.inf:
        raise GraphError(f"values are capped at {attrs['cap']}, expected a finite number above 0.")
    return inputs[0]


def part(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    start, size = attrs["start"], attrs["size"]
    if len(inputs[0]) != 1 or start < 0 or size < 1 or start + size > inputs[0][0]:
        raise GraphError(f"shape {inputs[0]} has no {size} numbers from {start} on.")
    return (size,)


def gate(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    if len(inputs[0]) != 1 or inputs[1] != (1,):
        raise GraphError(f"one gate for a row is needed, found {inputs[1]} for {inputs[0]}.")
    return inputs[0]


def top_experts(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    used: int = attrs["used"]
    if len(inputs[0]) != 1 or not 0 < used <= inputs[0][0]:
        raise GraphError(f"cannot choose {used} experts by logits of shape {inputs[0]}.")
    if not 0.0 < attrs["scale"] < math.inf:
        raise GraphError(f"experts are scaled by {attrs['scale']}, expected a finite number above 0.")
    return (2, used)


def expert_linear(inputs: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    (_, used), (_, rows, columns) = inputs[1], weights["weight"]
    if inputs[0] not in ((columns,), (used, columns)):
        raise GraphError(f"each expert has {columns} columns, the input has shape {inputs[0]}.")
    return (used, rows)


def expert_sum(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    y, chosen = inputs
    if len(y) != 2 or chosen != (2, y[0]):
        raise GraphError(f"results of experts {y} and their weights {chosen} do not fit together.")
    return y[1:]


def first(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    return inputs[0]
