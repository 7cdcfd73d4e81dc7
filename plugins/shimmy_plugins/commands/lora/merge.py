"""A base with an adapter added to its weights: dequantised, added, quantised again, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shimmy.files import written_whole
from shimmy.gguf.encode import Encoder, writable_types
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import LazyTensor, Tensor, write_gguf
from shimmy.graph.builder import Node, kind_of
from shimmy.graph.lora import Term, target_labels
from shimmy_plugins.commands.lora.fitted import Fitted, fit

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy.specs import QuantTypeSpec

F32 = NDArray[np.float32]

#: What a tensor becomes whose type cannot be written; floats where its rows are not whole blocks.
_INSTEAD, _FLOATS = "Q8_0", "F16"


def merge(
    base: Path, adapter: Path, out: Path, scale: float, settings: Settings, plugins: Plugins
) -> dict[str, tuple[str, str]]:
    """Write ``out``; which tensors have another type now, with the types before and after.

    Raises:
        AdapterError: the adapter does not fit the base.
    """
    fitted = fit(base, adapter, settings, plugins)
    merger = _Merger(fitted, scale, plugins)
    tensors = merger.tensors()
    metadata = {
        **fitted.file.metadata,
        "general.name": f"{fitted.file.metadata.get('general.name')} {adapter.name}",
    }
    with written_whole(out) as part:
        write_gguf(part, metadata, tensors)
    return merger.changed


class _Merger:
    def __init__(self, fitted: Fitted, scale: float, plugins: Plugins) -> None:
        self._fitted, self._scale = fitted, np.float32(scale)
        self._types = plugins.quant_types
        self._by_id = types_by_id(plugins.quant_types)
        self._writable = set(writable_types(plugins.quant_types))
        self.changed: dict[str, tuple[str, str]] = {}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the base, those that the adapter changes with it."""
        tensors: dict[str, Tensor] = {name: self._copied(name) for name in self._fitted.file.tensors}
        nodes = target_labels(self._fitted.base.graph)
        for label, term in self._fitted.terms.items():
            node = nodes[label]
            if term.a is not None or term.b is not None:
                source = node.weights["weight"]
                for each in nodes.values():
                    if each.weights["weight"] == source:
                        # One that others share, as embedding and head may, becomes one for each.
                        tensors.setdefault(_weight(each), self._copied(source))
                tensors[_weight(node)] = self._merged(node, term)
            if term.offset is not None:
                tensors[_bias(node)] = self._bias(node, term.offset)
                # A model has a bias in all layers or in none: a file that lacks some is taken for damaged.
                for each in nodes.values():
                    if kind_of(each) == kind_of(node) and "bias" not in each.weights:
                        tensors.setdefault(_bias(each), np.zeros(self._rows(each), np.float32))
        return tensors

    def _copied(self, name: str) -> LazyTensor:
        file, info = self._fitted.file, self._fitted.file.tensors[name]
        spec = self._by_id[info.ggml_id]

        def make() -> Iterator[bytes | memoryview]:
            yield file.raw(name, spec).data

        return LazyTensor(make, file.n_bytes(name, spec), info.ggml_id, info.shape)

    def _merged(self, node: Node, term: Term) -> LazyTensor:
        name, source = _weight(node), node.weights["weight"]
        info = self._fitted.file.tensors[source]
        encoder = self._encoder(name, info.shape, self._by_id[info.ggml_id])

        def make() -> Iterator[bytes | memoryview]:
            weights = self._fitted.weights.dequantize(source).reshape(info.shape)
            change = _change(term, embedding=node.op == "embed")
            yield encoder.encode(weights + self._scale * change, name).data

        return LazyTensor(make, encoder.n_bytes(info.shape), encoder.spec.ggml_id, info.shape)

    def _bias(self, node: Node, offset: F32) -> F32:
        """A layer's bias with what is added to its results; of a layer that has none, that alone."""
        change = self._scale * offset
        if "bias" not in node.weights:
            return change
        return self._fitted.weights.dequantize(node.weights["bias"]).ravel() + change

    def _rows(self, node: Node) -> int:
        return self._fitted.weights.shape(node.weights["weight"])[0]

    def _encoder(self, name: str, shape: tuple[int, ...], spec: QuantTypeSpec) -> Encoder:
        if spec.name.lower() in self._writable:
            return Encoder(spec)
        encoder = Encoder(self._types.get(_INSTEAD))
        if not encoder.fits(shape[-1]):
            encoder = Encoder(self._types.get(_FLOATS))
        self.changed[name] = (spec.name, encoder.spec.name)
        return encoder


def _weight(node: Node) -> str:
    """The name of a node's matrix where it is its own; architectures look for it first."""
    return f"{node.label}.weight"


def _bias(node: Node) -> str:
    return f"{node.label}.bias"


def _change(term: Term, *, embedding: bool) -> F32:
    """scale * B A, as the weight is: (rows, columns)."""
    a, b = (None if x is None else x.astype(np.float32) for x in (term.a, term.b))
    if a is None or b is None:
        whole = a if b is None else b
        assert whole is not None
        return np.float32(term.scale) * whole
    product = a @ b.T if embedding else b @ a
    return np.float32(term.scale) * product
