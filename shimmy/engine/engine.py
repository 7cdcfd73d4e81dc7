"""The engine: a plan, a scheduler and the requests they serve. Runs in a worker, or in-process."""

from __future__ import annotations

from time import perf_counter

from shimmy.engine.adapters import AdapterShelf
from shimmy.engine.blocks import BlockPool
from shimmy.engine.plan import Plan
from shimmy.engine.protocol import ErrorInfo, Stats, Submit, TokenEvent
from shimmy.engine.sampling import Chosen
from shimmy.engine.scheduler import Scheduler, make_batch
from shimmy.engine.sequence import Sequence
from shimmy.errors import ContextLengthError, EngineError, OutOfMemoryError, RequestError, ShimmyError


class Engine:
    """Submit and cancel between steps; ``step`` computes one and says what it did for whom."""

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
        self.adapters = AdapterShelf(plan, adapter_places)
        self._reserved = 0
        self._sequences: dict[int, Sequence] = {}
        self._scheduler = Scheduler(
            BlockPool(kv_blocks, kept_blocks),
            block_tokens=plan.block_tokens,
            max_sequences=max_sequences,
            step_tokens=step_tokens,
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
        sequence = Sequence.of(request, self.adapters.take(request.adapters))
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request, before the next step; unknown ids have just finished and are ignored."""
        if sequence := self._sequences.pop(request_id, None):
            self._leave(sequence)
            self._trim()

    def step(self) -> list[TokenEvent]:
        """Compute one step for the sequences chosen by the scheduler."""
        work = self._scheduler.next_step()
        if not work:
            return []
        try:
            self._reserve()
        except OutOfMemoryError as error:
            return self._fail(work[-1].sequence, error)
        outputs = [w.sequence for w in work if w.has_output]
        batch, started = make_batch(work), perf_counter()
        step = self.plan.submit(batch, [s.row_sampling() for s in outputs])
        chosen = step.chosen()
        self._scheduler.pace.observe(len(batch.tokens), perf_counter() - started)
        self._scheduler.computed(work)
        events = [
            event
            for sequence, choice in zip(outputs, chosen, strict=True)
            for event in self._advance(sequence, choice)
        ]
        self._trim()
        return events

    def close(self) -> None:
        self.plan.close()

    def _advance(self, sequence: Sequence, choice: Chosen) -> list[TokenEvent]:
        """Add a sampled token to its sequence; a stop id ends it and is neither emitted nor counted."""
        if choice.token < 0:
            return self._fail(sequence, EngineError("the model's output is not a number (NaN logits)."))
        if choice.token in sequence.stop_ids:
            self._finish(sequence)
            return [TokenEvent(sequence.id, None, "stop", reused=sequence.reused)]
        sequence.append(choice.token)
        full = sequence.generated >= sequence.request.max_tokens or len(sequence.tokens) >= self.context
        if full:
            self._finish(sequence)
        finish = "length" if full else None
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
        pool = self._scheduler.pool
        enough = self._reserved if self.idle else self._reserved // 2
        if max(pool.used, pool.keep) >= enough:
            return
        if (needed := max(pool.highest_used, pool.keep)) < enough:
            pool.drop_from(needed)
            self._reserved = pool.high_water
            self.plan.reserve(self._reserved)
