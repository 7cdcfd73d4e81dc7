"""What every compute engine must do, as a class of tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.engine.plan import Backend, Plan
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose
from shimmy.graph.batch import LoraRows
from shimmy.graph.lora import Term
from shimmy.plugins import Plugins
from shimmy.testing.cases import CASES, VOCABULARY, Case
from shimmy.testing.compare import assert_close, assert_same_bits
from shimmy.testing.engines import JUDGE, installed_plugins, load_engine
from shimmy.testing.plans import LIMITS, assert_agree, compile_graph, graph_of
from shimmy.testing.sequences import SHAPES, Attention, continued_steps, small_layer, tokens
from shimmy.testing.steps import Part, batch_of, rows_of
from shimmy.testing.weights import MadeUpWeights, floats

F32 = NDArray[np.float32]

#: Ways to choose tokens, each with a seed of its own.
SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(temperature=1.0, seed=3),
    Sampling(temperature=0.8, top_k=5, seed=4),
    Sampling(temperature=1.5, top_p=0.7, seed=5),
    Sampling(temperature=1.0, min_p=0.1, seed=6),
)


class BackendConformance:
    """Tests of an engine whose KV blocks have 32 positions; a subclass says which.

    class TestMine(BackendConformance):
        name = "mine"
    """

    #: As registered; its plugin is installed.
    name: str
    #: What the definitions judge: exact arithmetic.
    limits = LIMITS

    def plugins(self) -> Plugins:
        """Those that the engine is looked for among."""
        return installed_plugins()

    def backend(self) -> Backend:
        """The engine, on the device it chooses itself."""
        return load_engine(self.plugins(), self.name)

    # -- the tests ---------------------------------------------------------------------------

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_op(self, case: Case) -> None:
        backend = self.backend()
        for trial in case.trials(np.random.default_rng(1)):
            graph = graph_of(trial.weights, trial.build, trial.scaling)
            assert_agree(
                backend, graph, trial.weights, trial.steps, limits=self.limits, tolerance=trial.tolerance
            )

    @pytest.mark.parametrize("case", SHAPES, ids=str)
    def test_attention(self, case: Attention) -> None:
        weights = case.weights()
        assert_agree(self.backend(), case.graph(weights), weights, continued_steps(), limits=self.limits)

    def test_a_layer(self) -> None:
        """Ops after each other, which an engine may compute together."""
        weights, graph = small_layer()
        assert_agree(self.backend(), graph, weights, continued_steps(), limits=self.limits, tolerance=2e-5)

    def test_rows_do_not_depend_on_their_batch(self) -> None:
        """The same bits alone, in pieces, beside others: of prompts, and of generated tokens."""
        prompt, generated = tokens(50), tokens(6, seed=1)
        with self._plan() as plan:
            rows = rows_of(plan, batch_of([Part(prompt, 0, [5, 2])], every_row=True))
            steps = self._generated(plan, prompt, generated, [5, 2], [])
            for chunks in ((50,), (20, 30), (7, 33, 10)):
                found = self._in_chunks(plan, prompt, chunks, [4, 1])
                assert_same_bits(found, rows, f"{self.name}: a prompt in pieces of {chunks}")
            beside = self._generated(plan, prompt, generated, [5, 2], [Part([3], 9, [0]), Part([8], 2, [3])])
            assert_same_bits(beside, steps, f"{self.name}: generated tokens beside others")
            if not plan.phases:
                one_by_one = self._in_chunks(plan, prompt, (1,) * 50, [4, 1])
                assert_same_bits(one_by_one, rows, f"{self.name}: a prompt token by token")

    def test_generated_tokens_continue_a_prompt(self) -> None:
        """Step by step, or all at once: the same numbers, up to rounding."""
        ids = tokens(45)
        with self._plan() as plan:
            expected = rows_of(plan, batch_of([Part(ids, 0, [5, 2])], every_row=True))
            rows_of(plan, batch_of([Part(ids[:30], 0, [1, 4])]))
            found = [rows_of(plan, batch_of([Part([ids[i]], i, [1, 4])])) for i in range(30, 45)]
            assert_close(np.concatenate(found), expected[30:], 1e-4, f"{self.name}: generated rows")

    def test_a_step_without_outputs(self) -> None:
        with self._plan() as plan:
            batch = replace(batch_of([Part(tokens(2))]), outputs=np.empty(0, np.int32))
            step = plan.submit(batch, [])
            assert step.chosen() == []
            assert step.logits().shape == (0, 40), "a step without outputs has logits."

    def test_adapters_add_to_their_rows(self) -> None:
        """Two adapters and none in one step; a place that is used again."""
        rng = np.random.default_rng(14)
        weights = MadeUpWeights(a=floats(rng, VOCABULARY, 64), w=floats(rng, 33, 64))
        graph = graph_of(weights, lambda g: g.linear(g.embed("a"), "w"))
        terms = [{"w": _term(rng, rank)} for rank in (4, 16, 2)]
        batch = batch_of([Part([1, 2, 3, 4], 0, [0]), Part([5], 3, [1])], every_row=True)
        rows, places = (np.array(column, np.int32) for column in ([0, 2, 3, 4], [0, 0, 1, 1]))
        batch = replace(batch, lora=LoraRows(rows, places, np.array([1, 0.5, 1, 2], np.float32)))
        plans = [compile_graph(each, graph, weights, self.limits) for each in (JUDGE, self.backend())]
        for first in (0, 2):
            for plan in plans:
                plan.reserve(2)
                plan.put_adapter(0, terms[first])
                plan.put_adapter(1, terms[1])
            expected, found = (rows_of(plan, batch) for plan in plans)
            assert_close(found, expected, what=f"{self.name}: rows with adapters")
        for plan in plans:
            plan.close()

    def test_tokens_are_chosen_as_defined(self) -> None:
        """By the engine itself or by the CPU: the same logits and seed give the same token."""
        with self._plan() as plan:
            parts = [Part(tokens(3 + i, i), 0, [i]) for i in range(len(SAMPLINGS))]
            rows = [RowSampling(sampling, i, {}, {}) for i, sampling in enumerate(SAMPLINGS)]
            step = plan.submit(batch_of(parts), rows)
            logits = step.logits().copy()
            found = [chosen.token for chosen in step.chosen()]
            expected = [choose(*row).token for row in zip(logits, rows, strict=True)]
            assert found == expected, f"{self.name}: chose {found} for {SAMPLINGS}, expected {expected}."

    # -- what they are made of ---------------------------------------------------------------

    @contextmanager
    def _plan(self) -> Iterator[Plan]:
        """A small layer, with room for a few sequences."""
        weights, graph = small_layer()
        plan = compile_graph(self.backend(), graph, weights, self.limits)
        plan.reserve(8)
        yield plan
        plan.close()

    def _in_chunks(self, plan: Plan, ids: Sequence[int], chunks: Sequence[int], blocks: list[int]) -> F32:
        """Rows of a prompt that is computed in pieces."""
        starts = np.cumsum((0, *chunks[:-1])).tolist()
        parts = [Part(ids[at : at + size], at, blocks) for at, size in zip(starts, chunks, strict=True)]
        # No row of them is generated, not even one that is alone.
        batches = [replace(batch_of([part], every_row=True), generated=0) for part in parts]
        return np.concatenate([rows_of(plan, batch) for batch in batches])

    def _generated(
        self, plan: Plan, prompt: list[int], ids: list[int], blocks: list[int], others: list[Part]
    ) -> F32:
        """Rows of generated tokens, each in a step of its own behind those of others."""
        rows_of(plan, batch_of([Part(prompt, 0, blocks)]))
        for part in others:
            rows_of(plan, batch_of([Part(tokens(part.start), 0, part.blocks)]))
        steps = (batch_of([*others, Part([token], len(prompt) + i, blocks)]) for i, token in enumerate(ids))
        return np.concatenate([rows_of(plan, step)[-1:] for step in steps])


def _term(rng: np.random.Generator, rank: int) -> Term:
    """What a random adapter adds to the matrix of 33 rows and 64 columns."""
    a, b = (rng.normal(0, 0.3, size).astype(np.float32) for size in ((rank, 64), (33, rank)))
    return Term(a, b, scale=0.7)
