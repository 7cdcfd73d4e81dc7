"""The compiled plan: fills in a step, runs the table, samples. And segments of another backend's plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import FinishedStep, Segments
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms
from shimmy_plugins.backends.cpu.jit import Jit
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.pool import Pool

F32 = NDArray[np.float32]


class Executable:
    """A program linked to its code, ready to run steps."""

    def __init__(self, lowered: Lowering, addresses: Mapping[str, int]) -> None:
        self.lowered = lowered
        """Owns all memory the argument blocks point to."""
        self._calls, self._parts = lowered.program.link(addresses)

    def fill(self, batch: Batch) -> None:
        """Take over a step. EngineError if it exceeds the limits or the reserved blocks."""
        self.lowered.step.fill(batch, self.lowered.cache)
        if self.lowered.lora:
            self.lowered.lora.fill(batch)

    def run(self, pool: Pool, part: int = 0) -> None:
        """Run a part of the program for the step taken over last."""
        for stretch in self._parts[part]:
            if isinstance(stretch, tuple):
                pool.run(self._calls, *stretch)
            else:
                stretch()


#: Makes the executable of the same graph with adapters, given the program without.
WithLora: TypeAlias = Callable[[Lowering], Executable]


class Compiled:
    """A graph with its code, weights and KV cache. Steps with adapters have a program of their own."""

    block_tokens = BLOCK_TOKENS

    def __init__(self, plain: Executable, with_lora: WithLora, jit: Jit, pool: Pool) -> None:
        lowered = plain.lowered
        threads = "1 thread" if pool.threads == 1 else f"{pool.threads} threads"
        self.description = f"{threads}, {jit.target.description}"
        self.weight_bytes = lowered.weights.bytes
        self.mapped_bytes = lowered.weights.mapped_bytes
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

    def close(self) -> None:
        self._pool.close()
        self._plain.lowered.cache.close()
        # Whoever still holds this should not hold its weights and code.
        del self._plain, self._lora, self._make_lora, self._jit

    def _filled(self, batch: Batch) -> Executable:
        """The program for a step, which has taken it over. Raises EngineError."""
        executable = self._plain if batch.lora is None or self._lora is None else self._lora
        executable.fill(batch)
        return executable


class CpuPlan(Compiled):
    """See :class:`shimmy.engine.plan.Plan`."""

    phases = False
    ahead = 1
    device_memory: int | None = None
    device_bytes: int | None = None
    host: Segments | None = None

    def __init__(self, plain: Executable, with_lora: WithLora, jit: Jit, pool: Pool) -> None:
        super().__init__(plain, with_lora, jit, pool)
        self.precision = "int8" if plain.lowered.rounds else "f32"
        self.kv_type = plain.lowered.cache.kv_type

    def samples_ahead(self, sampling: Sampling) -> bool:
        """False: ``submit`` returns when all is known."""
        del sampling
        return False

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FinishedStep:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        executable = self._filled(batch)
        executable.run(self._pool)
        logits = executable.lowered.result().values()
        return FinishedStep(logits, [choose(row, how) for row, how in zip(logits, sampling, strict=True)])


class CpuSegments(Compiled):
    """See :class:`shimmy.engine.plan.Segments`."""

    def __init__(self, plain: Executable, with_lora: WithLora, jit: Jit, pool: Pool) -> None:
        super().__init__(plain, with_lora, jit, pool)
        self.description = f"cpu, {self.description}"
        self._step: tuple[Batch, Executable] | None = None
        """The step that other segments were run for, and what has taken it over."""

    def reserve(self, blocks: int) -> None:
        self._step = None
        super().reserve(blocks)

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        self._step = None
        super().put_adapter(place, terms)

    def run(self, number: int, batch: Batch, inputs: Sequence[F32]) -> F32:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        if self._step is None or self._step[0] is not batch:
            self._step = batch, self._filled(batch)
        _, executable = self._step
        ports = executable.lowered.ports[number]
        for tensor, rows in zip(ports.inputs, inputs, strict=True):
            tensor.values()[...] = rows.reshape(len(rows), -1)
        executable.run(self._pool, part=number)
        assert ports.result is not None
        return ports.result.values()
