"""The comparisons: blocks, weights, ops, layers, logits, and generated rows against those of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.load import RecordedModel
from shimmy.engine.plan import Backend, Limits, Progress
from shimmy.graph.builder import Node
from shimmy.graph.shapes import matrix
from shimmy_plugins.commands.verify import feeds, steps
from shimmy_plugins.commands.verify.blocks import blocks
from shimmy_plugins.commands.verify.check import Check, relative
from shimmy_plugins.commands.verify.far import far
from shimmy_plugins.commands.verify.pieces import Piece, layers, single_nodes, whole
from shimmy_plugins.commands.verify.trial import Facts, Recording, Trial

F32 = NDArray[np.float32]

#: Largest errors, by the precision of a plan. Those of weights are relative to the largest one compared,
#: all others to the norm of a row. In int8 the inputs of products are rounded to 8 bits, which the
#: definitions do not; rows of a one and zeros survive that, so weights are compared as closely as in F32.
LIMITS = {
    "f32": {"weights": 1e-6, "ops": 1e-5, "far": 1e-5, "layers": 2e-5, "logits": 1e-4, "decode": 1e-4},
    "int8": {"weights": 1e-6, "ops": 2e-2, "far": 1e-5, "layers": 1e-1, "logits": 1e-1, "decode": 1e-1},
}
#: How many times as much as the middle row another may suffer from rounding to 8 bits, which is the coarser
#: the further single numbers stand out: in the real Gemma 3 of 270M, four times.
SPREAD = 4.0
#: Ops that compute in the plan's precision; all others are F32 in any.
_PRODUCTS = ("linear", "expert_linear")
#: At least this where keys and values are rounded: what is near the middle between two numbers may go
#: either way.
ROUNDED_KV = 1e-3
#: Least elements of each matrix that are compared in each phase, if it has them.
ELEMENTS = 512
#: Most steps in which they are shown; a matrix of one row takes more.
ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """All comparisons, and what was compared."""

    facts: Facts
    checks: Sequence[Check]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]


def verify(model: RecordedModel, backend: Backend, limits: Limits, progress: Progress) -> Verdict:
    """Compare a backend with the definitions; its ``limits`` say how to compute.

    Raises:
        ModelError: the model reads no tokens.
        ShimmyError: it cannot be compiled, or run.
    """
    trial = Trial(model, backend, limits, progress)
    own = [*blocks(trial.weights, trial.random)]
    checks = [*own, *_nodes(trial), *_far(trial), *_layers(trial), *_model(trial)]
    return Verdict(trial.facts, checks)


def _nodes(trial: Trial) -> Iterator[Check]:
    """Each node alone: on rows that show its weights, and on random ones."""
    pieces = single_nodes(trial.graph)
    rounds = _rounds(trial)
    recordings = trial.record(pieces, [partial(feeds.showing, trial.graph)] * rounds + [trial.noise])
    for number, piece in enumerate(pieces):
        trial.progress("ops", number, len(pieces))
        (node,) = piece.nodes
        both = list(zip(recordings, _outputs(trial, number, piece, recordings), strict=True))
        for phase in range(2):
            *showing, (noise, (found, expected)) = [
                (recording, values[node.index]) for recording, values in both[phase::2]
            ]
            yield from _weights(trial, node, showing)
            yield _rows(trial, "ops", node.label, node.op, noise.phase, found, expected)
    trial.progress("ops", len(pieces), len(pieces))


def _far(trial: Trial) -> Iterator[Check]:
    """What depends on positions, far from the first."""
    for node, phase, found, expected in far(trial):
        yield _rows(trial, "far", node.label, node.op, phase, found, expected)


def _layers(trial: Trial) -> Iterator[Check]:
    """Each layer alone: there a backend may compute ops together as it does in the model."""
    pieces = layers(trial.graph)
    recordings = trial.record(pieces, [trial.noise])
    for number, piece in enumerate(pieces):
        trial.progress("layers", number, len(pieces))
        outputs = _outputs(trial, number, piece, recordings)
        for recording, values in zip(recordings, outputs, strict=True):
            for found, expected in values.values():
                yield _rows(trial, "layers", piece.label, "", recording.phase, found, expected)
    trial.progress("layers", len(pieces), len(pieces))


def _model(trial: Trial) -> Iterator[Check]:
    """All of it: a prompt's logits, and the same tokens one by one."""
    tokens = trial.tokens(steps.ROWS)
    with closing(trial.compile(trial.graph)) as plan:
        batch = steps.prompt_step(plan, tokens, [steps.ROWS])
        prompt = steps.run(plan, batch)
        each = [steps.run(plan, steps.prompt_step(plan, tokens[:1], [1]))]
        for position, token in enumerate(tokens[1:], 1):
            each += [steps.run(plan, steps.generated_step(plan, [token], [position]))]
    trial.progress("logits", 0, 1)
    [values] = trial.expected(whole(trial.graph), [(batch, {})])
    expected = values[trial.graph.output]
    trial.progress("logits", 1, 1)
    count = f"{steps.ROWS} tokens"
    yield _rows(trial, "logits", count, "", "prompt", prompt, expected)
    yield _rows(trial, "decode", count, "", "generated", np.concatenate(each), prompt)


def _rounds(trial: Trial) -> int:
    """How many generated steps show enough of each matrix, and two columns of each expert's."""
    rows = len(steps.PROMPTS)
    needed = [1.0]
    for node in trial.graph.nodes:
        if node.op in ("linear", "embed", "expert_linear"):
            # A row of a step shows a column of a product's matrix, or a row of an embedding.
            height, width = matrix(trial.weights.shape(node.weights["weight"])[-2:])
            needed.append(ELEMENTS / (width if node.op == "embed" else height) / rows)
        if node.op == "expert_linear":
            needed.append(2 * feeds.turns_of_experts(trial.graph, node) / rows)
    return min(ceil(max(needed)), ROUNDS)


def _outputs(
    trial: Trial, number: int, piece: Piece, recordings: Sequence[Recording]
) -> list[dict[int, tuple[F32, F32]]]:
    """What a backend found and what is expected in each step, by value."""
    steps = [(r.batch, {value: r.given[number, value] for value in piece.inputs}) for r in recordings]
    return [
        {value: (recording.seen[number, value], rows) for value, rows in expected.items()}
        for recording, expected in zip(recordings, trial.expected(piece, steps), strict=True)
    ]


def _weights(
    trial: Trial, node: Node, showing: Sequence[tuple[Recording, tuple[F32, F32]]]
) -> Iterator[Check]:
    """The tensors of a node, by what it makes of rows that show them."""
    found, expected = (np.concatenate([pair[side] for _, pair in showing]) for side in range(2))
    error = relative(np.abs(found - expected).max(), np.abs(expected).max())
    for name in node.weights.values():
        info = trial.weights.info(name)
        elements = min(int(np.prod(info.shape)), found.size)
        limit = LIMITS[trial.facts.precision]["weights"]
        yield Check("weights", name, info.type, showing[0][0].phase, elements, error, limit)


def _rows(trial: Trial, kind: str, label: str, group: str, phase: str, found: F32, expected: F32) -> Check:
    """Rows by the norm of their difference."""
    facts = trial.facts
    exact = kind == "ops" and group not in _PRODUCTS
    limit = LIMITS["f32" if exact else facts.precision][kind]
    if facts.kv_type != "f32":
        limit = max(limit, ROUNDED_KV)
    found, expected = (x.reshape(len(x), -1) for x in (found, expected))
    norms = np.linalg.norm(found - expected, axis=1), np.linalg.norm(expected, axis=1)
    errors = [relative(difference, norm) for difference, norm in zip(*norms, strict=True)]
    error = max(errors)
    alone = kind in ("ops", "far")
    if not alone and facts.precision == "int8" and error < inf:
        middle = float(np.median(errors))
        # A row whose experts are nearly as good as others may be computed by those: no fault in some rows.
        error = middle if trial.chooses else max(middle, error / SPREAD)
    return Check(kind, label, group, phase, found.size, error, limit)
