"""One graph node by its NumPy definition; engines also use it for nodes they have no kernel for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import GraphError
from shimmy.graph.builder import Node
from shimmy.graph.ops import Op

F32 = NDArray[np.float32]

#: What a definition may ask for by the names of its parameters.
CONTEXT = ("batch", "cache", "adapters", "segments", "given")


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A node bound to the function that defines its op.

    ``context`` names what the function wants beyond inputs, weights and attrs: those of its keyword
    parameters that are in :data:`CONTEXT`.
    """

    node: Node
    function: Callable[..., F32]
    context: tuple[str, ...]

    def __call__(self, inputs: Sequence[F32], weights: Mapping[str, F32], context: Mapping[str, Any]) -> F32:
        """Rows of the node's result; ``weights`` are by role, ``context`` holds what functions may want."""
        wanted = {name: context[name] for name in self.context}
        return self.function(*inputs, **weights, **self.node.attrs, **wanted)


def evaluator(op: Op, node: Node) -> Evaluator:
    """Import the NumPy definition of ``op`` for ``node``; GraphError if it cannot be found."""
    module, _, name = op.reference.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GraphError(f"{node.label}: op {op.name!r} is defined by {op.reference!r}: {error}.") from error
    parameters = signature(function).parameters
    return Evaluator(node, function, tuple(n for n in CONTEXT if n in parameters))
