"""The compiled plan: uploads a step's numbers, submits the programs of its phases and the sampler's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import Chosen, RowSampling, choose
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms
from shimmy_plugins.backends.wgpu.adapted import Adapted
from shimmy_plugins.backends.wgpu.device import Program, Slice, Ticket
from shimmy_plugins.backends.wgpu.kernel import Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.wgpu.lowering import Shared
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.ops.attention_vec import PIECE
from shimmy_plugins.backends.wgpu.program import PhaseProgram
from shimmy_plugins.backends.wgpu.step import has_adapters, phase_words

F32 = NDArray[np.float32]


class GpuStep:
    """A submitted step; see :class:`shimmy.engine.plan.Step`."""

    def __init__(self, ticket: Ticket, sampling: Sequence[RowSampling], vocabulary: int) -> None:
        self._ticket = ticket
        self._sampling = sampling
        self._vocabulary = vocabulary

    def chosen(self) -> list[Chosen]:
        return [choose(row, how) for row, how in zip(self.logits(), self._sampling, strict=True)]

    def logits(self) -> F32:
        pieces = self._ticket.wait()
        return np.frombuffer(b"".join(pieces), np.float32).reshape(-1, self._vocabulary)


#: The numbers of a phase, and what is run on them.
Phase: TypeAlias = tuple[Slice, PhaseProgram]


class WgpuPlan:
    """See :class:`shimmy.engine.plan.Plan`. Rows with adapters have programs of their own."""

    block_tokens = BLOCK_TOKENS
    phases = True
    mapped_bytes = 0

    def __init__(
        self, shared: Shared, programs: Sequence[Phase], adapted: Adapted[Phase], vocabulary: int
    ) -> None:
        """``programs``: that of generated rows and that of rows of prompts."""
        gpu = shared.gpu
        self.description = f"{gpu.facts.name}, {gpu.facts.api}"
        self.precision: str = shared.precision
        self.weight_bytes = shared.weights.bytes
        self.kv_type = shared.cache.kv_type
        self.block_bytes = shared.cache.block_bytes
        self.fallbacks = programs[0][1].fallbacks
        self.ahead = 1
        self.device_memory = gpu.free
        self._shared = shared
        self._programs = programs
        self._adapted = adapted
        self._vocabulary = vocabulary
        self._bound = (shared.cache.version, adapted.version)

    def samples_ahead(self, sampling: Sampling) -> bool:
        del sampling
        return False

    def reserve(self, blocks: int) -> None:
        """OutOfMemoryError if there is not that much memory; then nothing has changed."""
        self._shared.cache.reserve(blocks)

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        """EngineError if there is no such place; OutOfMemoryError leaves all as it was."""
        self._adapted.put(place, terms)

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> GpuStep:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        gpu, cache = self._shared.gpu, self._shared.cache
        self._adapted.check(batch)
        if self._bound != (cache.version, self._adapted.version):
            self._bound = (cache.version, self._adapted.version)
            for _, program in (*self._programs, *self._adapted.phases):
                program.unbind()
        work: list[Program] = []
        outputs = 0
        phases = (slice(0, batch.generated), slice(batch.generated, len(batch.tokens)))
        for at, rows in enumerate(phases):
            numbers, program = (self._adapted.phases if has_adapters(batch, rows) else self._programs)[at]
            size = _size(batch, rows)
            if not size.rows:
                continue
            gpu.upload(numbers, phase_words(batch, rows, outputs))
            for part in program.at(size):
                if isinstance(part, Program):
                    work.append(part)
                else:
                    gpu.submit(work)
                    work = []
                    part.compute(batch, rows, outputs, size.outputs)
            outputs += size.outputs
        logits = Slice(self._shared.logits.buffer, 0, outputs * self._vocabulary * FLOAT)
        ticket = gpu.submit(work, [logits] if outputs else [])
        return GpuStep(ticket, sampling, self._vocabulary)

    def close(self) -> None:
        self._shared.gpu.close()


def _size(batch: Batch, rows: slice) -> Size:
    """Of some rows of a step; contexts in whole pieces, so that few sizes occur."""
    count = rows.stop - rows.start
    if not count:
        return Size(0, 0, 0)
    wanted = int(((batch.outputs >= rows.start) & (batch.outputs < rows.stop)).sum())
    return Size(count, wanted, -(-(int(batch.positions[rows].max()) + 1) // PIECE) * PIECE)
