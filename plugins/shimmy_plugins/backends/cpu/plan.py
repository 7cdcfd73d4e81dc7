"""The compiled plan: fills in a step, runs the table, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shimmy.engine.plan import FinishedStep
from shimmy.engine.sampling import RowSampling, choose
from shimmy.graph.batch import Batch
from shimmy_plugins.backends.cpu.jit import Jit
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.pool import Pool
from shimmy_plugins.backends.cpu.program import Tensor


class CpuPlan:
    """See :class:`shimmy.engine.plan.Plan`."""

    block_tokens = BLOCK_TOKENS

    def __init__(
        self, lowered: Lowering, output: Tensor, jit: Jit, addresses: Mapping[str, int], pool: Pool
    ) -> None:
        threads = "1 thread" if pool.threads == 1 else f"{pool.threads} threads"
        self.description = f"{threads}, {jit.target.description}"
        self.precision = "int8" if lowered.quantized else "f32"
        self.weight_bytes = lowered.weights.bytes
        self.block_bytes = lowered.cache.block_bytes
        self.fallbacks = tuple(lowered.fallbacks)
        self._lowered = lowered  # owns all memory the argument blocks point to
        self._jit = jit  # owns the code
        self._pool = pool
        self._output = output
        self._calls, self._segments = lowered.program.link(addresses)

    def reserve(self, blocks: int) -> None:
        """OutOfMemoryError if there is not that much memory; then nothing has changed."""
        self._lowered.cache.reserve(blocks)

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FinishedStep:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        self._lowered.step.fill(batch, self._lowered.cache)
        for segment in self._segments:
            if isinstance(segment, tuple):
                self._pool.run(self._calls, *segment)
            else:
                segment()
        logits = self._output.values()
        return FinishedStep(logits, [choose(row, how) for row, how in zip(logits, sampling, strict=True)])

    def close(self) -> None:
        self._pool.close()
        self._lowered.cache.close()
        # Whoever still holds the plan should not hold its weights and code.
        del self._lowered, self._jit, self._output, self._calls, self._segments
