"""Fit an adapter to its base: names, shapes and numbers checked, weights read, rows rearranged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import AdapterError, did_you_mean
from shimmy.graph.builder import Architecture, Graph, Node
from shimmy.graph.lora import Term, target_labels
from shimmy.graph.shapes import matrix
from shimmy.huggingface.names import FromHuggingFace, TensorNames, Transform, Transposed
from shimmy.lora.adapter import Adapter, Floats, Module, Part, adapter_errors
from shimmy.lora.config import MERGE_IT

F32 = NDArray[np.float32]

#: Of a weight in memory: half a float.
_LEAST_BYTES = 2

_BLOCK = re.compile(r"^blk\.(\d+)\.")


class BaseWeights(Protocol):
    """What fitting needs of a base's file."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dequantize(self, name: str) -> F32: ...


@dataclass(frozen=True, slots=True)
class Base:
    """A base that adapters can be fitted to."""

    architecture: str
    definition: Architecture
    params: Any
    """What ``definition`` read from the metadata."""
    graph: Graph
    weights: BaseWeights

    @property
    def layers(self) -> int:
        numbers = (int(m[1]) for m in map(_BLOCK.match, target_labels(self.graph)) if m)
        return max(numbers, default=-1) + 1


def bind(
    adapter: Adapter, base: Base, most_rank: int | None = None, most_bytes: int | None = None
) -> dict[str, Term]:
    """What the adapter adds to which node of the base, by label.

    Raises:
        AdapterError: it was made for another base, has numbers that are none, a rank above ``most_rank``,
            or takes more than ``most_bytes``.
    """
    if most_bytes is not None and (needed := adapter.parameters * _LEAST_BYTES) > most_bytes:
        raise AdapterError(
            f"{adapter.path}: takes at least {needed / 2**20:.1f} MiB, at most {most_bytes / 2**20:.1f} MiB "
            "are allowed.",
            hint="Raise lora_memory.",
        )
    if most_rank is not None and adapter.rank > most_rank:
        raise AdapterError(
            f"{adapter.path}: has rank {adapter.rank}, at most {most_rank} is allowed.",
            hint="Raise max_lora_rank.",
        )
    return _Binding(adapter, base).terms()


class _Binding:
    def __init__(self, adapter: Adapter, base: Base) -> None:
        self._adapter, self._base = adapter, base
        self._targets = target_labels(base.graph)
        self._shifting = {
            node.label: node
            for node in base.graph.nodes
            if "bias" in node.weights and node.label not in self._targets
        }
        """Norms that add a bias."""
        self._label = self._labels()
        self._transforms = self._declared()

    def terms(self) -> dict[str, Term]:
        terms: dict[str, Term] = {}
        modules = self._adapter.modules
        # Names and shapes of all modules first: reading takes longer.
        nodes = {name: self._node(name, module) for name, module in modules.items()}
        for name, node in nodes.items():
            if node.label in self._targets:
                term = self._term(node, modules[name])
                if term.a is not None or term.b is not None or term.offset is not None:
                    terms[node.label] = term
        for name, node in nodes.items():
            if node.label in self._shifting:
                terms |= self._shifted(node, modules[name], terms)
        return terms

    def _labels(self) -> Callable[[str], str]:
        if self._adapter.format == "GGUF":
            return str
        with adapter_errors(self._adapter.path):
            return TensorNames(self._base.architecture, self._base.layers).gguf_name

    def _declared(self) -> Mapping[str, Transform]:
        """How the base's values are arranged; a GGUF adapter's are so already."""
        definition = self._base.definition
        if self._adapter.format == "GGUF":
            if self._adapter.architecture not in (None, self._base.architecture):
                raise self._error(
                    f"is for architecture {self._adapter.architecture!r}, "
                    f"the base is {self._base.architecture!r}."
                )
            return {}
        if not isinstance(definition, FromHuggingFace):
            raise self._error(
                f"the plugin of architecture {self._base.architecture!r} does not say how its tensors are "
                "arranged (hf_transforms), so only adapters converted to GGUF fit it."
            )
        return definition.hf_transforms(self._base.params)

    def _node(self, name: str, module: Module) -> Node:
        """The node that a module is about, whose shapes fit."""
        with adapter_errors(self._adapter.path):
            label = self._label(name)
        if label in self._shifting and module.parts == [module.bias]:
            node = self._shifting[label]
            self._check_shapes(node, {module.bias: self._base.weights.shape(node.weights["bias"])})
            return node
        if label not in self._targets:
            raise self._unknown(name, label)
        node = self._targets[label]
        self._check_shapes(node, self._expected(node, module))
        return node

    def _expected(self, node: Node, module: Module) -> dict[Part | None, tuple[int, ...]]:
        """The shapes of a module's parts; experts have no others than A and B."""
        shape = self._shape(node)
        *experts, rows, columns = shape if node.op == "expert_linear" else matrix(shape)
        inner, outer = (rows, columns) if node.op == "embed" else (columns, rows)
        expected = {module.a: (*experts, module.rank, inner), module.b: (*experts, outer, module.rank)}
        if experts:
            return dict.fromkeys(module.parts, ()) | expected
        weight = (columns, rows) if self._is_transposed(node) else (rows, columns)
        return expected | {module.b_bias: (outer,), module.weight: weight, module.bias: (outer,)}

    def _shape(self, node: Node) -> tuple[int, ...]:
        return self._base.weights.shape(node.weights["weight"])

    def _check_shapes(self, node: Node, expected: Mapping[Part | None, tuple[int, ...]]) -> None:
        for part, shape in expected.items():
            if part is not None and part.shape != shape:
                own = " x ".join(map(str, self._shape(node)))
                raise self._error(
                    f"tensor {part.name!r} has shape {part.shape}, but for {node.label} of the base "
                    f"({own}) it must be {shape}.",
                    self._hint(),
                )

    def _unknown(self, name: str, label: str) -> AdapterError:
        """Nothing of the base that can be adapted has this name."""
        if any(node.label == label for node in self._base.graph.nodes):
            hint = MERGE_IT
        else:
            hint = did_you_mean(label, self._targets)
        return self._error(
            f"{name!r} ({label}) is no matrix or embedding of the base, so it cannot be adapted.", hint
        )

    def _hint(self) -> str:
        trained = f" It was trained on {self._adapter.base!r}." if self._adapter.base else ""
        return f"The adapter belongs to another base.{trained}"

    def _term(self, node: Node, module: Module) -> Term:
        arrange = self._transform(node) or _as_it_is
        a = None if module.a is None else self._read(module.a)
        b = None if module.b is None else arrange(self._read(module.b))
        if node.op == "embed" and a is not None:
            a = a.T
        if module.weight is not None:
            weight = self._read(module.weight)
            delta = self._change(node, weight.T if self._is_transposed(node) else arrange(weight))
            a, b = (delta, None) if node.op == "embed" else (None, delta)
        offset = self._offset(node, module, arrange)
        return Term(a, b, module.scale, offset)

    def _transform(self, node: Node) -> Transform | None:
        return self._transforms.get(_BLOCK.sub("", node.label))

    def _is_transposed(self, node: Node) -> bool:
        return isinstance(self._transform(node), Transposed)

    def _change(self, node: Node, weight: Floats) -> F32 | None:
        """By how much a module's own weight differs from the base's; None: not at all."""
        delta = weight.astype(np.float32)
        delta -= self._base.weights.dequantize(node.weights["weight"]).reshape(delta.shape)
        return delta if delta.any() else None

    def _offset(self, node: Node, module: Module, arrange: Transform) -> F32 | None:
        offset: F32 | None = None
        if module.b_bias is not None:
            offset = np.float32(module.scale) * arrange(self._read(module.b_bias)).astype(np.float32)
        if module.bias is not None:
            change: F32 = arrange(self._read(module.bias)).astype(np.float32)
            if "bias" in node.weights:
                change = change - self._base.weights.dequantize(node.weights["bias"]).ravel()
            offset = change if offset is None else offset + change
        return offset if offset is not None and offset.any() else None

    def _shifted(self, norm: Node, module: Module, terms: Mapping[str, Term]) -> dict[str, Term]:
        """The terms of layers behind a norm whose bias is another one: W(x + c) = Wx + Wc."""
        assert module.bias is not None
        own = self._base.weights.dequantize(norm.weights["bias"]).ravel()
        change = self._read(module.bias).astype(np.float32) - own
        shifted = {}
        for node in self._base.graph.nodes:
            if norm.index not in node.inputs:
                continue
            if node.label not in self._targets:
                raise self._unknown(norm.label, norm.label)
            term = terms.get(node.label, Term())
            weight = self._base.weights.dequantize(node.weights["weight"])
            shifted[node.label] = replace(term, offset=weight @ change + term.added(change))
        return shifted

    def _read(self, part: Part) -> Floats:
        with adapter_errors():
            values = part.read()
        if not np.isfinite(values).all():
            raise self._error(
                f"tensor {part.name!r} holds values that are no finite numbers.",
                "The training has diverged, or the file is damaged; take an earlier checkpoint.",
            )
        return values

    def _error(self, problem: str, hint: str | None = None) -> AdapterError:
        return AdapterError(f"{self._adapter.path}: {problem}", hint=hint)


def _as_it_is(rows: NDArray[Any]) -> NDArray[Any]:
    return rows
