"""The engine: a plan, a scheduler and the requests they serve. Runs in a worker, or in-process.

With a plan that runs ahead, steps are submitted before the tokens of those in flight are known. What
a step computes for a sequence that has ended in the meantime is dropped: neither emitted nor counted.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from shimmy.engine.adapters import AdapterShelf
from shimmy.engine.blocks import BlockPool
from shimmy.engine.plan import Plan, Step, StepLostError
from shimmy.engine.protocol import ErrorInfo, Stats, Submit, TokenEvent
from shimmy.engine.sampling import Chosen
from shimmy.engine.scheduler import Scheduler, Work, make_batch
from shimmy.engine.sequence import Sequence
from shimmy.errors import ContextLengthError, EngineError, OutOfMemoryError, RequestError, ShimmyError
from shimmy.graph.batch import Batch

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that was submitted and not collected, and whose tokens its outputs are."""

    step: Step
    batch: Batch
    outputs: list[Sequence]
    submitted: float

    @property
    def blocks(self) -> int:
        """One more than the highest block it uses."""
        return int(self.batch.block_tables.max()) + 1


class Engine:
    """Submit and cancel between steps; ``step`` collects one and says what it did for whom."""

    def __init__(
        self,
        plan: Plan,
        *,
        context: int,
        vocabulary: int,
        kv_blocks: int,
        max_sequences: int,
        step_tokens: int,
        kept_blocks: int = 0,
        adapter_places: int = 0,
    ) -> None:
        """``kept_blocks``: most KV blocks kept for prompts that begin alike; 0: none, and none are shared."""
        self.plan = plan
        self.context = context
        self.vocabulary = vocabulary
        self.step_tokens = step_tokens
        self.adapters = AdapterShelf(plan, adapter_places)
        self._reserved = 0
        self._sequences: dict[int, Sequence] = {}
        self._flights: deque[_Flight] = deque()
        self._collected = 0.0
        self._scheduler = Scheduler(
            BlockPool(kv_blocks, kept_blocks),
            block_tokens=plan.block_tokens,
            max_sequences=max_sequences,
            step_tokens=step_tokens,
            phases=plan.phases,
        )

    @property
    def idle(self) -> bool:
        return not self._sequences

    def stats(self) -> Stats:
        return self._scheduler.stats()

    def submit(self, request: Submit) -> None:
        """Queue a request.

        Raises:
            RequestError, ContextLengthError: it can never run.
            EngineError: an adapter is not loaded, or the id is in use.
        """
        if not request.tokens:
            raise RequestError("the prompt has no tokens.", param="prompt")
        if len(request.tokens) >= self.context:
            raise ContextLengthError(
                f"the prompt has {len(request.tokens)} tokens, the context holds {self.context} "
                "and needs room for an answer.",
                hint="Shorten the prompt or raise max_ctx.",
            )
        bad = [t for t in (*request.tokens, *request.sampling.logit_bias) if not 0 <= t < self.vocabulary]
        if bad:
            raise RequestError(f"token id {bad[0]} is not in the vocabulary of {self.vocabulary}.")
        if request.id in self._sequences:
            raise EngineError(f"request {request.id} was submitted twice.")
        ahead = self.plan.ahead > 1 and self.plan.samples_ahead(request.sampling)
        adapters = self.adapters.take(request.adapters)
        sequence = Sequence.of(request, self.context, adapters, ahead=ahead)
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request, before the next submission; unknown ids have just finished and are ignored."""
        if sequence := self._sequences.pop(request_id, None):
            self._leave(sequence)
            self._trim()

    def step(self) -> list[TokenEvent]:
        """Submit what the scheduler chooses, as far ahead as the plan goes, and collect the oldest step."""
        events: list[TokenEvent] = []
        while len(self._flights) < self.plan.ahead and (work := self._scheduler.next_step()):
            try:
                self._reserve()
            except OutOfMemoryError as error:
                events += self._fail(work[-1].sequence, error)
            else:
                self._submit(work)
        if self._flights:
            events += self._collect(self._flights.popleft())
            self._trim()
        return events

    def close(self) -> None:
        self._drain()
        self.plan.close()

    def _submit(self, work: list[Work]) -> None:
        outputs = [w.sequence for w in work if w.has_output]
        batch, submitted = make_batch(work), perf_counter()
        step = self.plan.submit(batch, [s.row_sampling() for s in outputs])
        self._scheduler.submitted(work)
        self._flights.append(_Flight(step, batch, outputs, submitted))

    def _collect(self, flight: _Flight) -> list[TokenEvent]:
        """Wait for a step and hand out its tokens; if it was lost, all begin anew with those they have."""
        try:
            chosen, now = flight.step.chosen(), perf_counter()
        except StepLostError as error:
            _log.warning("computing anew: %s", error)
            self._drain()
            self._scheduler.restart(self._sequences.values())
            return []
        # It began when it was submitted, or when the one before it had ended.
        self._scheduler.pace.observe(len(flight.batch.tokens), now - max(flight.submitted, self._collected))
        self._collected = now
        return [
            event
            for sequence, choice in zip(flight.outputs, chosen, strict=True)
            if self._sequences.get(sequence.id) is sequence  # or it has ended, and this is overrun
            for event in self._advance(sequence, choice)
        ]

    def _drain(self) -> None:
        """Wait for steps in flight that nobody needs any more."""
        while self._flights:
            with suppress(StepLostError):
                self._flights.popleft().step.chosen()

    def _advance(self, sequence: Sequence, choice: Chosen) -> list[TokenEvent]:
        """Add a sampled token to its sequence; a stop id ends it and is neither emitted nor counted."""
        if choice.token < 0:
            return self._fail(sequence, EngineError("the model's output is not a number (NaN logits)."))
        if choice.token in sequence.stop_ids:
            self._finish(sequence)
            return [TokenEvent(sequence.id, None, "stop", reused=sequence.reused)]
        sequence.append(choice.token)
        self._scheduler.publish(sequence)
        finish = "length" if sequence.complete else None
        if finish:
            self._finish(sequence)
        top = list(choice.top)
        return [TokenEvent(sequence.id, choice.token, finish, choice.logprob, top, reused=sequence.reused)]

    def _fail(self, sequence: Sequence, error: ShimmyError) -> list[TokenEvent]:
        self._finish(sequence)
        self._trim()
        return [TokenEvent(sequence.id, None, "error", error=ErrorInfo.of(error))]

    def _finish(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self.adapters.give_back(sequence.request.adapters)

    def _reserve(self) -> None:
        """Grow the plan's cache as blocks come into use."""
        if (needed := self._scheduler.pool.high_water) > self._reserved:
            self.plan.reserve(needed)
            self._reserved = needed

    def _trim(self) -> None:
        """Give memory back once less than half of what is reserved is in use, and kept blocks when idle."""
        if self.idle:
            self._drain()
        pool = self._scheduler.pool
        enough = self._reserved if self.idle else self._reserved // 2
        if max(pool.used, pool.keep) >= enough:
            return
        in_flight = max((flight.blocks for flight in self._flights), default=0)
        if (needed := max(pool.highest_used, pool.keep, in_flight)) < enough:
            pool.drop_from(needed)
            self._reserved = max(pool.high_water, in_flight)
            self.plan.reserve(self._reserved)
