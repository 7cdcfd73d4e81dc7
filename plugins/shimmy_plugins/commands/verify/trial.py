"""Running pieces of a model on a backend, and on the definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.load import RecordedModel
from shimmy.engine.plan import Backend, Limits, Plan, Progress
from shimmy.errors import ModelError
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph
from shimmy.graph.evaluate import evaluator
from shimmy.graph.reference import ReferenceCache
from shimmy_plugins.commands.verify import feeds, steps
from shimmy_plugins.commands.verify.pieces import Key, Piece, Tape, side_by_side

F32 = NDArray[np.float32]

#: Makes an input of a piece: the piece, the value, how many rows of it, and those its phase has had before.
Feed: TypeAlias = Callable[[Piece, int, int, int], F32]

_SEED = 20_240_229


@dataclass(frozen=True, slots=True)
class Recording:
    """One step: what pieces were given, and what the backend made of it."""

    batch: Batch
    given: Mapping[Key, F32]
    seen: Mapping[Key, F32]

    @property
    def phase(self) -> str:
        return "generated" if self.batch.generated else "prompt"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan says of itself."""

    description: str
    precision: str
    kv_type: str
    block_tokens: int


class Trial:
    """A model and a backend to be compared with the definitions."""

    def __init__(self, model: RecordedModel, backend: Backend, limits: Limits, progress: Progress) -> None:
        """``limits`` are those to compute with; their sizes are of no interest."""
        self.graph: Graph = model.graph
        self.weights = model.weights
        self.progress = progress
        self.facts = Facts("", "", "", 0)
        self._backend = backend
        self._limits = replace(limits, max_sequences=steps.ROWS, packed_cache=0)
        self.positions = model.context.positions
        self.random = np.random.default_rng(_SEED)
        tables = [node.weights["weight"] for node in self.graph.nodes if node.op == "embed"]
        if not tables:
            raise ModelError(f"{model.card.name}: its graph reads no tokens, so there is nothing to compare.")
        self.chooses = any(node.op == "top_experts" for node in self.graph.nodes)
        """Whether each token is computed by some of many experts."""
        self._vocabulary = min(self.weights.shape(name)[0] for name in tables)

    def tokens(self, count: int) -> list[int]:
        """The first of the vocabulary, the last, and any others."""
        others = self.random.integers(self._vocabulary, size=count)
        return [0, self._vocabulary - 1, *map(int, others)][:count]

    def noise(self, piece: Piece, value: int, rows: int, done: int) -> F32:
        """A feed of normal numbers."""
        return feeds.noise(self.graph, self.random, piece, value, rows, done)

    def compile(self, graph: Graph, *, context: int = steps.CONTEXT, rows: int = steps.ROWS) -> Plan:
        """The plan of a graph, with room for what :mod:`.steps` makes. Raises ShimmyError.

        Args:
            context: positions of a sequence.
            rows: of a step.
        """
        limits = replace(self._limits, max_ctx=context, step_tokens=rows)
        plan = self._backend.compile(graph, self.weights, limits, self.progress)
        self.facts = Facts(plan.description, plan.precision, plan.kv_type, plan.block_tokens)
        steps.reserve(plan)
        return plan

    def record(self, pieces: Sequence[Piece], feeds: Sequence[Feed]) -> list[Recording]:
        """A step of prompts and one of generated rows for each feed, on the backend."""
        tape = Tape()
        recordings: list[Recording] = []
        with closing(self.compile(side_by_side(self.graph, pieces, tape))) as plan:
            for before, feed in enumerate(feeds):
                for batch in (
                    steps.prompt_step(plan, self.tokens(steps.ROWS)),
                    steps.generated_step(plan, self.tokens(len(steps.PROMPTS))),
                ):
                    rows = len(batch.tokens)
                    tape.given = {
                        (number, value): feed(piece, value, rows, before * rows)
                        for number, piece in enumerate(pieces)
                        for value in piece.inputs
                    }
                    tape.seen = {}
                    steps.run(plan, batch)
                    recordings.append(Recording(batch, tape.given, tape.seen))
        return recordings

    def expected(
        self, piece: Piece, steps: Sequence[tuple[Batch, Mapping[int, F32]]]
    ) -> list[dict[int, F32]]:
        """What a piece should make of its inputs (by value) in steps that follow each other; by value.

        One tensor at a time is in memory.
        """
        cache = ReferenceCache(self.facts.block_tokens, self.facts.kv_type)
        values = [dict(given) for _, given in steps]
        for node in piece.nodes:
            tensors = {
                role: self.weights.dequantize(name).reshape(self.weights.shape(name))
                for role, name in node.weights.items()
            }
            for name in node.weights.values():
                self.weights.release(name)
            compute = evaluator(self.graph.ops[node.op], node)
            for (batch, _), known in zip(steps, values, strict=True):
                context = {"batch": batch, "cache": cache, "adapters": {}}
                known[node.index] = compute([known[i] for i in node.inputs], tensors, context)
        return [{value: known[value] for value in piece.outputs} for known in values]
