"""A model file's graph, and whether the file means the same: what an architecture reads is not all it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import GraphError, ModelError
from shimmy.gguf.cursor import Skimmed
from shimmy.graph.builder import Architecture, Graph, record

if TYPE_CHECKING:
    from shimmy.gguf.weights import Weights
    from shimmy.graph.ops import Op
    from shimmy.graph.scaling import RopeScaling

_BLOCK = re.compile(r"^blk\.(\d+)\.")
_EMBEDDING = "token_embd.weight"
_AGAIN = "The file is damaged, or its metadata are another model's: download or convert it again."


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of a model inside say which file it is, and what to do."""
    try:
        yield
    except ModelError as error:
        named = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise type(error)(named, hint=error.hint or _AGAIN) from error


def record_file(
    architecture: Architecture,
    params: Any,
    metadata: Mapping[str, Any],
    weights: Weights,
    ops: Mapping[str, Op],
    scaling: RopeScaling,
) -> Graph:
    """The graph of a model in a file.

    Raises:
        GraphError: a tensor is missing or of another shape than the others want, or the metadata do not
            describe these tensors: such a model would answer nonsense.
    """
    graph = record(architecture, params, weights, ops, scaling)
    name = metadata["general.architecture"]
    _check_layers(metadata.get(f"{name}.block_count"), weights, name)
    _check_width(metadata.get(f"{name}.embedding_length"), graph, weights, name)
    _check_vocabulary(metadata.get("tokenizer.ggml.tokens"), graph, weights)
    _check_all_is_read(graph, weights, name)
    return graph


def _check_layers(count: object, weights: Weights, name: str) -> None:
    """No layer of the file is left out."""
    found = [int(block[1]) + 1 for tensor in weights.names() if (block := _BLOCK.match(tensor))]
    if isinstance(count, int) and max(found, default=0) > count:
        raise GraphError(f"there are tensors of {max(found)} layers, '{name}.block_count' is {count}.")


def _check_width(width: object, graph: Graph, weights: Weights, name: str) -> None:
    """Rows of the embedding are as long as is said, which scales of attention may follow from."""
    if not any(_EMBEDDING in node.weights.values() for node in graph.nodes):
        return
    shape = weights.shape(_EMBEDDING)
    if isinstance(width, int) and shape[-1] != width:
        raise GraphError(f"{_EMBEDDING!r} has the shape {shape}, '{name}.embedding_length' is {width}.")


def _check_vocabulary(tokens: object, graph: Graph, weights: Weights) -> None:
    """Every token of the vocabulary has rows of its own; more rows than tokens do no harm."""
    count = tokens.count if isinstance(tokens, Skimmed) else len(tokens) if isinstance(tokens, list) else 0
    for node in graph.nodes:
        if node.op != "embed" and node.index != graph.output:
            continue
        for tensor in node.weights.values():
            if (shape := weights.shape(tensor))[0] < count:
                raise GraphError(f"{tensor!r} has the shape {shape}, the vocabulary {count} tokens.")


def _check_all_is_read(graph: Graph, weights: Weights, name: str) -> None:
    """No tensor of a layer is left out, such as a matrix's scale that the architecture knows nothing of."""
    read = {tensor for node in graph.nodes for tensor in node.weights.values()}
    unread = [tensor for tensor in weights.names() if _BLOCK.match(tensor) and tensor not in read]
    if unread:
        raise GraphError(
            f"architecture {name!r} does not read {len(unread)} of the tensors, first {unread[0]!r}: "
            "answers without them would be wrong.",
            hint="Take a file of the model without them, or a plugin whose architecture reads them.",
        )
