"""Sums that become part of what is added: the last of the rewrites of ``fusion.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

from shimmy_plugins.backends.wgpu.fused import Experts, Fused, Linear, Single, View
from shimmy_plugins.backends.wgpu.ops.norm import NORMS

#: Ops whose kernels can add a value to their result.
ADDING = NORMS | {"expert_sum"}
#: Columns that kernels read at once.
_QUAD = 4


def with_sums(items: list[Fused], shown: int) -> list[Fused]:
    """Let what is added be added where it is computed, by products in place.

    ``shown``: the value that is wanted of all this; it has memory of its own.
    """
    items = _delayed(items)
    views = {item.result: item.inputs[0] for item in items if isinstance(item, View)}
    reads = _reads(items, views, shown)
    made = {item.result: (at, item) for at, item in enumerate(items)}
    parts = _parts(items)
    dropped: set[int] = set()
    overwritten: set[int] = set()
    for at, item in enumerate(items):
        if not (isinstance(item, Single) and item.node.op == "add"):
            continue
        for term, other in (item.inputs, item.inputs[::-1]):
            source_at, source = made.get(term, (-1, None))
            if term == other or reads[term] != [at] or source is None:
                continue
            # It is computed later than it was, when its inputs must still be there.
            inputs = set(_with_bases(source.inputs, views))
            if not overwritten.isdisjoint(inputs):
                continue
            if isinstance(source, Single) and source.node.op in ADDING and source.add is None:
                new: Fused = replace(source, add=other, total=item.result)
            elif (
                _adds_in_place(source)
                and item.result != shown
                and max(reads[other]) == at
                and other in made
                and other not in parts | inputs
            ):
                new = replace(source, result=item.result, add=other)
                overwritten.add(other)
            else:
                continue
            dropped.add(source_at)
            items[at] = new
            made[item.result] = (at, new)
            break
    return [item for at, item in enumerate(items) if at not in dropped]


def with_beginnings(items: Sequence[Fused]) -> list[Fused]:
    """Let products compute what they begin with: a sum with a normed value, and the choice of experts.

    For few rows: each of their workgroups does so, which takes less time than a dispatch of its own.
    """
    result: list[Fused] = []
    for item in items:
        before = result[-1] if result else None
        if isinstance(item, Linear) and isinstance(before, Single) and _computes(item, before):
            result[-1] = replace(item, total=before)
        elif isinstance(item, Experts) and isinstance(before, Single) and _chooses(item, before):
            result[-1] = replace(item, choice=before)
        else:
            result.append(item)
    return result


def _computes(item: Linear, total: Single) -> bool:
    rms = (total.node.op, item.norm.op if item.norm else None) == ("rms_norm", "rms_norm")
    whole = len(total.node.shape) == 1 and total.node.shape[0] % _QUAD == 0
    return rms and whole and total.add is not None and item.x == total.result and item.add is None


def _chooses(item: Experts, choice: Single) -> bool:
    return choice.node.op == "top_experts" and choice.result == item.chosen


def _delayed(items: Iterable[Fused]) -> list[Fused]:
    """The same with sums computed when they are first read, so that others have read their terms by then."""
    waiting: dict[int, Fused] = {}
    ordered: list[Fused] = []

    def take(item: Fused) -> None:
        for i in item.inputs:
            if i in waiting:
                take(waiting.pop(i))
        ordered.append(item)

    for item in items:
        if isinstance(item, Single) and item.node.op == "add":
            waiting[item.result] = item
        else:
            take(item)
    while waiting:
        take(waiting.pop(next(iter(waiting))))
    return ordered


def _adds_in_place(item: Fused | None) -> TypeGuard[Linear]:
    return isinstance(item, Linear) and len(item.nodes) == 1 and item.end is None and item.add is None


def _reads(items: Sequence[Fused], views: Mapping[int, int], shown: int) -> dict[int, list[int]]:
    """Where each value is read, be it through a view; behind all items the value that is wanted."""
    reads: dict[int, list[int]] = {}
    for at, inputs in enumerate([*(item.inputs for item in items), (shown,)]):
        for i in _with_bases(inputs, views):
            reads.setdefault(i, []).append(at)
    return reads


def _with_bases(values: Iterable[int], views: Mapping[int, int]) -> Iterator[int]:
    """The values, and what they are views of."""
    for value in values:
        yield value
        if value in views:
            yield from _with_bases([views[value]], views)


def _parts(items: Iterable[Fused]) -> set[int]:
    """Values that are parts of rows of several."""
    parts: set[int] = set()
    for item in items:
        if isinstance(item, View):
            parts.add(item.result)
        elif isinstance(item, Linear) and len(item.nodes) > 1 and not item.gated:
            parts.update(node.index for node in item.nodes)
    return parts
