"""The tensors of a folder as a GGUF file has them: names, order of values, types. None is read too early."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import GGUFError, GraphError, ModelError
from shimmy.gguf.encode import Encoder
from shimmy.gguf.params import read_params
from shimmy.gguf.writer import LazyTensor
from shimmy.graph.builder import Graph, record
from shimmy.graph.scaling import read_scaling
from shimmy.huggingface.experts import HalfTensor, StackedTensor, split_expert, split_stacked, stacked
from shimmy.huggingface.names import FromHuggingFace, TensorNames, Transform, Transposed

if TYPE_CHECKING:
    from shimmy.graph.ops import Op
    from shimmy.huggingface.model import FolderModel
    from shimmy.huggingface.safetensors import StoredTensor
    from shimmy.registry import Registry
    from shimmy.specs import QuantTypeSpec

#: Weights encoded at a time.
PIECE = 2**22
#: The matrices whose rounding shows most in what a model writes, and their least bits.
_EDGES = ("token_embd.weight", "output.weight")
_EDGE_TYPE, _EDGE_BITS = "Q8_0", 8
#: The ends of names of tensors that are small, and kept as they are computed: in F32.
_WHOLE = ("position_embd.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
_OUTPUT = "output.weight"
#: Ends of the names of tensors that older trainers stored, though they are computed.
_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias")
_BLOCK = re.compile(r"^blk\.\d+\.")

Stored: TypeAlias = "StoredTensor | HalfTensor | StackedTensor"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """A tensor as it will be written."""

    name: str
    """GGUF's."""
    origin: str
    """What it is called in the folder."""
    shape: tuple[int, ...]
    encoder: Encoder
    read: Callable[[], NDArray[Any]]
    """Its values in the order of the file, as float32 or float16."""

    @property
    def n_bytes(self) -> int:
        return self.encoder.n_bytes(self.shape)

    def lazy(self, written: Callable[[int], None]) -> LazyTensor:
        """For the writer; ``written`` is told of the bytes of each piece."""

        def pieces() -> Iterator[memoryview]:
            values = self.read()
            rows = values.reshape(-1, values.shape[-1])
            step = max(1, PIECE // rows.shape[1])
            for start in range(0, len(rows), step):
                data = self.encoder.encode(rows[start : start + step], self.origin)
                written(len(data))
                yield data.data

        return LazyTensor(pieces, self.n_bytes, self.encoder.spec.ggml_id, self.shape)


class TypeChooser:
    """Which type a tensor gets, if ``wanted`` is the type of matrices."""

    def __init__(self, wanted: QuantTypeSpec, registry: Registry[QuantTypeSpec]) -> None:
        self._unfit: list[str] = []
        self._wanted = Encoder(wanted)
        self._exact = Encoder(registry.get("F32"))
        self._half = Encoder(registry.get("F16"))
        coarse = wanted.block_bytes * 8 / wanted.block_elements < _EDGE_BITS
        self._edge = Encoder(registry.get(_EDGE_TYPE)) if coarse else self._wanted

    def choose(self, name: str, shape: tuple[int, ...]) -> Encoder:
        """F32 for vectors and routers, at least 8 bits for embedding and output, F16 where rows are no whole
        blocks."""
        if len(shape) < 2 or name.endswith(_WHOLE):
            return self._exact
        encoder = self._edge if name in _EDGES else self._wanted
        if encoder.fits(shape[-1]):
            return encoder
        self._unfit.append(name)
        return self._half

    def report(self) -> None:
        """Say aloud which tensors could not have the type that was asked for."""
        if self._unfit:
            _log.warning(
                "%d tensors (%s, ...) have rows that are no whole blocks of %s; they are kept as %s.",
                *(len(self._unfit), self._unfit[0], self._wanted.spec.name, self._half.spec.name),
            )


def converted_tensors(
    model: FolderModel, types: TypeChooser, ops: Mapping[str, Op]
) -> dict[str, ConvertedTensor]:
    """The tensors of the file, by name, checked against the architecture. No weight is read.

    Raises:
        ModelError: a tensor is missing, is of another shape than the architecture wants, or unknown to it.
    """
    definition = model.spec.load()
    try:
        params = read_params(definition.params, model.config_metadata, model.architecture)
    except GGUFError as error:
        raise ModelError(f"{model.folder.path}: {error.message}") from error
    transforms = definition.hf_transforms(params) if isinstance(definition, FromHuggingFace) else {}
    tensors: dict[str, ConvertedTensor] = {}
    for name, stored in _named(model):
        tensors[name] = _converted(name, stored, transforms, types)
    _check_output(model, tensors)
    divisors = {name: _computed(name, values, types) for name, values in model.rope_tensors().items()}
    table = _Table({name: tensor.shape for name, tensor in (tensors | divisors).items()})
    _check_used(model, tensors, _recorded(model, definition, params, table, ops), table)
    types.report()
    return divisors | tensors


def _named(model: FolderModel) -> Iterator[tuple[str, Stored]]:
    """The folder's weights by their GGUF names; those of all experts of a layer as one."""
    folder = model.folder
    layers = int(model.config_metadata[f"{model.architecture}.block_count"])
    names = TensorNames(model.architecture, layers, whose="config.json's model")
    experts: dict[str, dict[int, StoredTensor]] = {}
    for name, stored in _split(model):
        module, _, kind = name.rpartition(".")
        module, expert = split_expert(module)
        try:
            gguf_name = f"{names.gguf_name(module)}.{kind}"
        except ModelError as error:
            raise ModelError(f"{stored.path}: tensor {error.message}", hint=error.hint) from None
        if expert is not None and not isinstance(stored, HalfTensor):
            experts.setdefault(gguf_name, {})[expert] = stored
        elif gguf_name != _OUTPUT or folder.config.get("tie_word_embeddings") is not True:
            yield gguf_name, stored
    for gguf_name, parts in experts.items():
        yield gguf_name, stacked(parts)


def _split(model: FolderModel) -> Iterator[tuple[str, StoredTensor | HalfTensor]]:
    """The language model's weights, but for what is computed."""
    others = set(model.reading.other_modules)
    for name, stored in model.folder.tensors.items():
        if others.isdisjoint(name.split(".")) and not name.endswith((*_BUFFERS, *model.reading.ignored)):
            yield from split_stacked(name, stored)


def _converted(
    name: str, stored: Stored, transforms: Mapping[str, Transform], types: TypeChooser
) -> ConvertedTensor:
    arrange = transforms.get(_BLOCK.sub("", name).rpartition(".")[0])
    transposed = isinstance(arrange, Transposed) and name.endswith(".weight")

    def read() -> NDArray[Any]:
        values = stored.read()
        if transposed:
            return values.T
        return values if arrange is None else arrange(values)

    shape = stored.shape[::-1] if transposed else stored.shape
    return ConvertedTensor(name, stored.name, shape, types.choose(name, shape), read)


def _computed(name: str, values: NDArray[np.float32], types: TypeChooser) -> ConvertedTensor:
    return ConvertedTensor(name, name, values.shape, types.choose(name, values.shape), lambda: values)


def _check_output(model: FolderModel, tensors: Mapping[str, ConvertedTensor]) -> None:
    if model.folder.config.get("tie_word_embeddings") is False and _OUTPUT not in tensors:
        raise ModelError(
            f"{model.folder.path}: has no output matrix ('lm_head.weight'), and config.json says that it is "
            "not tied to the embedding.",
            hint="The folder is incomplete: copy or download it again.",
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """The shapes that recording asks for."""

    shapes: Mapping[str, tuple[int, ...]]

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]


def _recorded(
    model: FolderModel, definition: Any, params: Any, table: _Table, ops: Mapping[str, Op]
) -> Graph:
    metadata, architecture = model.config_metadata, model.architecture
    context = int(metadata.get(f"{architecture}.context_length", 0))
    try:
        scaling = read_scaling(metadata, architecture, table, context)
        return record(definition, params, table, ops, scaling)
    except (GraphError, GGUFError) as error:
        raise ModelError(
            f"{model.folder.path}: {error.message}",
            hint="The weights are not those that config.json describes, or some are missing.",
        ) from error


def _check_used(
    model: FolderModel, tensors: Mapping[str, ConvertedTensor], graph: Graph, table: _Table
) -> None:
    used = {name for node in graph.nodes for name in node.weights.values()}
    if unused := [tensor for name, tensor in tensors.items() if name not in used]:
        raise ModelError(
            f"{model.folder.path}: {model.architecture!r} does not know what to do with the tensor "
            f"{unused[0].origin!r}{f' and {len(unused) - 1} others' if len(unused) > 1 else ''}."
        )
    rows = model.config_metadata.get(f"{model.architecture}.vocab_size")
    for node in graph.nodes:
        if node.op == "embed" and rows not in (None, found := table.shape(node.weights["weight"])[0]):
            raise ModelError(
                f"{model.folder.path}: {tensors[node.weights['weight']].origin!r} has {found} rows, "
                f"config.json says {rows} tokens ('vocab_size')."
            )
