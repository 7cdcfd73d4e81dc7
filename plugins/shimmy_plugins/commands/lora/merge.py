"""A base with an adapter added to its weights: dequantised, added, quantised again, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import AdapterError
from shimmy.files import written_whole
from shimmy.gguf.encode import Encoder, writable_types
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import LazyTensor, Tensor, write_gguf
from shimmy.graph.lora import Term, target_labels
from shimmy_plugins.commands.lora.fitted import Fitted, fit

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy.specs import QuantTypeSpec

#: What a tensor becomes whose type cannot be written; floats where its rows are not whole blocks.
_INSTEAD, _FLOATS = "Q8_0", "F16"


def merge(
    base: Path, adapter: Path, out: Path, scale: float, settings: Settings, plugins: Plugins
) -> dict[str, tuple[str, str]]:
    """Write ``out``; which tensors have another type now, with the types before and after.

    Raises:
        AdapterError: the adapter does not fit the base, or adds biases to layers without.
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
        terms = self._by_tensor()
        tensors: dict[str, Tensor] = {}
        for name, info in self._fitted.file.tensors.items():
            spec = self._by_id[info.ggml_id]
            if name in terms:
                tensors[name] = self._merged(name, info.shape, spec, *terms[name])
            else:
                size = self._fitted.file.n_bytes(name, spec)
                tensors[name] = LazyTensor(self._raw(name, spec), size, info.ggml_id, info.shape)
        return tensors

    def _by_tensor(self) -> dict[str, tuple[Term, bool]]:
        """Terms by tensor, and whether the tensor is an embedding's."""
        found: dict[str, tuple[Term, bool]] = {}
        nodes = target_labels(self._fitted.base.graph)
        for label, term in self._fitted.terms.items():
            node = nodes[label]
            name = node.weights["weight"]
            shared = [each.label for each in nodes.values() if each.weights["weight"] == name]
            if len(shared) > 1:
                raise AdapterError(
                    f"{label!r} shares its weights with {', '.join(x for x in shared if x != label)} in the "
                    "base, so they cannot be changed for one alone."
                )
            if term.offset is not None:
                raise AdapterError(f"{label!r} gets a bias, which cannot be merged.")
            found[name] = (term, node.op == "embed")
        return found

    def _raw(self, name: str, spec: QuantTypeSpec) -> Callable[[], Iterator[bytes | memoryview]]:
        def make() -> Iterator[bytes | memoryview]:
            yield self._fitted.file.raw(name, spec).data

        return make

    def _merged(
        self, name: str, shape: tuple[int, ...], spec: QuantTypeSpec, term: Term, embedding: bool
    ) -> LazyTensor:
        encoder = self._encoder(name, shape, spec)

        def make() -> Iterator[bytes | memoryview]:
            weights = self._fitted.weights.dequantize(name).reshape(shape)
            yield encoder.encode(weights + self._scale * _change(term, embedding=embedding), name).data

        return LazyTensor(make, encoder.n_bytes(shape), encoder.spec.ggml_id, shape)

    def _encoder(self, name: str, shape: tuple[int, ...], spec: QuantTypeSpec) -> Encoder:
        if spec.name.lower() in self._writable:
            return Encoder(spec)
        encoder = Encoder(self._types.get(_INSTEAD))
        if not encoder.fits(shape[-1]):
            encoder = Encoder(self._types.get(_FLOATS))
        self.changed[name] = (spec.name, encoder.spec.name)
        return encoder


def _change(term: Term, *, embedding: bool) -> NDArray[np.float32]:
    """scale * B A, as the weight is: (rows, columns)."""
    a, b = (None if x is None else x.astype(np.float32) for x in (term.a, term.b))
    if a is None or b is None:
        whole = a if b is None else b
        assert whole is not None
        return np.float32(term.scale) * whole
    product = a @ b.T if embedding else b @ a
    return np.float32(term.scale) * product
