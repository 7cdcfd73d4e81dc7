"""The compiled plan: fills in a step, runs the table, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from shimmy.engine.plan import FinishedStep
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms
from shimmy_plugins.backends.cpu.jit import Jit
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.pool import Pool


class Executable:
    """A program linked to its code, ready to run steps."""

    def __init__(self, lowered: Lowering, addresses: Mapping[str, int]) -> None:
        self.lowered = lowered
        """Owns all memory the argument blocks point to."""
        self.output = lowered.result()
        self._calls, self._segments = lowered.program.link(addresses)

    def run(self, batch: Batch, pool: Pool) -> None:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        self.lowered.step.fill(batch, self.lowered.cache)
        if self.lowered.lora:
            self.lowered.lora.fill(batch)
        for segment in self._segments:
            if isinstance(segment, tuple):
                pool.run(self._calls, *segment)
            else:
                segment()


#: Makes the executable of the same graph with adapters, given the program without.
WithLora: TypeAlias = Callable[[Lowering], Executable]


class CpuPlan:
    """See :class:`shimmy.engine.plan.Plan`. Steps with adapters have a program of their own."""

    block_tokens = BLOCK_TOKENS
    phases = False
    ahead = 1

    def __init__(self, plain: Executable, with_lora: WithLora, jit: Jit, pool: Pool) -> None:
        lowered = plain.lowered
        threads = "1 thread" if pool.threads == 1 else f"{pool.threads} threads"
        self.description = f"{threads}, {jit.target.description}"
        self.precision = "int8" if lowered.quantized else "f32"
        self.weight_bytes = lowered.weights.bytes
        self.mapped_bytes = lowered.weights.mapped_bytes
        self.device_memory: int | None = None
        self.kv_type = lowered.cache.kv_type
        self.block_bytes = lowered.cache.block_bytes
        self.fallbacks = tuple(lowered.fallbacks)
        self._plain = plain
        self._make_lora = with_lora
        self._lora: Executable | None = None
        self._jit = jit  # owns the code
        self._pool = pool

    def reserve(self, blocks: int) -> None:
        """OutOfMemoryError if there is not that much memory; then nothing has changed."""
        self._plain.lowered.cache.reserve(blocks)

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        """EngineError if there is no such place; OutOfMemoryError leaves all as it was."""
        if self._lora is None:
            self._lora = self._make_lora(self._plain.lowered)
        assert self._lora.lowered.lora
        self._lora.lowered.lora.put(place, terms)

    def samples_ahead(self, sampling: Sampling) -> bool:
        """False: ``submit`` returns when all is known."""
        del sampling
        return False

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FinishedStep:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        executable = self._plain if batch.lora is None or self._lora is None else self._lora
        executable.run(batch, self._pool)
        logits = executable.output.values()
        return FinishedStep(logits, [choose(row, how) for row, how in zip(logits, sampling, strict=True)])

    def close(self) -> None:
        self._pool.close()
        self._plain.lowered.cache.close()
        # Whoever still holds the plan should not hold its weights and code.
        del self._plain, self._lora, self._make_lora, self._jit
