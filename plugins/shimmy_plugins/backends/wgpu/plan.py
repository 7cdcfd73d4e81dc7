"""The compiled plan: uploads a step's numbers, submits the programs of its phases and the sampler's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Profile, Segments, StepLostError
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import Chosen, RowSampling, choose
from shimmy.errors import EngineError
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms
from shimmy_plugins.backends.wgpu.adapted import Adapted
from shimmy_plugins.backends.wgpu.device import Call, Program, Slice, Ticket
from shimmy_plugins.backends.wgpu.fallback import Fallback, part_of
from shimmy_plugins.backends.wgpu.host import HostPart
from shimmy_plugins.backends.wgpu.kernel import Dispatch, Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.wgpu.lowering import Lowering
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.ops.attention_vec import PIECE
from shimmy_plugins.backends.wgpu.profile import profile
from shimmy_plugins.backends.wgpu.program import PhaseProgram
from shimmy_plugins.backends.wgpu.sampling import samples_ahead
from shimmy_plugins.backends.wgpu.shared import Shared
from shimmy_plugins.backends.wgpu.step import has_adapters, outputs_of, phase_words

F32 = NDArray[np.float32]

#: Steps in flight: while one runs, one waits and another is recorded. More gives nothing.
AHEAD = 3


class GpuStep:
    """A submitted step; see :class:`shimmy.engine.plan.Step`."""

    def __init__(
        self,
        ticket: Ticket,
        sampling: Sequence[RowSampling],
        logits: Callable[[], F32],
        *,
        sampled: bool,
        lost: Callable[[], StepLostError] | None = None,
    ) -> None:
        """``sampled``: the ticket brings the tokens, and logits too where the host needs some.

        ``lost``: what it brings last is not zero where the step is void, and this is to be raised.
        """
        self._ticket = ticket
        self._lost = lost
        self._sampling = sampling
        self._logits = logits
        self._sampled = sampled

    def chosen(self) -> list[Chosen]:
        pieces = self._wait()
        if not self._sampling:
            return []
        if not self._sampled:
            return [choose(row, how) for row, how in zip(self.logits(), self._sampling, strict=True)]
        tokens = np.frombuffer(pieces[0], np.int32).tolist()
        if len(pieces) == 1:
            return [Chosen(token) for token in tokens]
        logits = np.frombuffer(pieces[1], np.float32).reshape(len(tokens), -1)
        return [
            Chosen(token) if samples_ahead(how.params) else choose(row, how)
            for token, row, how in zip(tokens, logits, self._sampling, strict=True)
        ]

    def logits(self) -> F32:
        self._wait()
        return self._logits()

    def _wait(self) -> list[bytes]:
        """What the step brings."""
        pieces = list(self._ticket.wait())
        if self._lost and any(pieces.pop()):
            raise self._lost()
        return pieces


#: A phase as it was lowered, and what is run.
Phase: TypeAlias = tuple[Lowering, PhaseProgram]


class WgpuPlan:
    """See :class:`shimmy.engine.plan.Plan`. Rows with adapters have programs of their own."""

    block_tokens = BLOCK_TOKENS
    phases = True
    mapped_bytes = 0

    def __init__(
        self,
        shared: Shared,
        programs: Sequence[Phase],
        adapted: Adapted[Phase],
        advise: Callable[[int], str | None],
        *,
        owns_gpu: bool,
        host: HostPart | None = None,
    ) -> None:
        """``programs``: that of generated rows and that of rows of prompts. ``advise``: ``settings_for``.
        ``owns_gpu``: it closes the GPU.
        """
        gpu = shared.gpu
        self.description = f"{gpu.facts.name}, {gpu.facts.api}"
        self.host: Segments | None = None
        self.precision: str = shared.precision
        self.weight_bytes = shared.weights.bytes
        self.kv_type = shared.cache.kv_type
        self.block_bytes = shared.cache.block_bytes
        self.fallbacks = programs[0][1].fallbacks
        # What the processor computes itself it has to wait for.
        self.ahead = 1 if programs[0][1].waits else AHEAD
        self.device_memory = gpu.free
        self.device_bytes: int | None = gpu.used
        self._shared = shared
        self._programs = programs
        self._adapted = adapted
        self._advise = advise
        self._vocabulary = shared.vocabulary
        self._bound = (shared.cache.version, adapted.version)
        self._owns_gpu = owns_gpu
        self._host = host
        if host:
            self.host = host.segments
            self.description += f"; {host.description}"
            self.block_bytes += host.segments.block_bytes
            self.fallbacks += host.segments.fallbacks

    def samples_ahead(self, sampling: Sampling) -> bool:
        return samples_ahead(sampling)

    def reserve(self, blocks: int) -> None:
        """OutOfMemoryError if there is not that much memory; then nothing has changed."""
        own = self._shared.cache.reserve
        if self._host:
            self._host.reserve(blocks, own)
        else:
            own(blocks)

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        """EngineError if there is no such place; OutOfMemoryError leaves all as it was."""
        if self._host:
            self._host.put_adapter(place, terms, self._adapted.put)
        else:
            self._adapted.put(place, terms)

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> GpuStep:
        """EngineError if the batch exceeds the limits or the reserved blocks."""
        gpu = self._shared.gpu
        self._check(batch)
        self._bind()
        work: list[Program | Call] = []
        results: list[Slice] = []
        outputs = 0
        phases = (slice(0, batch.generated), slice(batch.generated, len(batch.tokens)))
        in_vain = self._adapted.in_vain if has_adapters(batch, phases[0]) else None
        for at, rows in enumerate(phases):
            lowering, program = (self._adapted.phases if has_adapters(batch, rows) else self._programs)[at]
            size = _size(batch, rows)
            if not size.rows:
                continue
            gpu.upload(lowering.step, phase_words(batch, rows, outputs))
            part_batch = part_of(batch, rows) if program.waits else batch
            for part in program.at(size):
                if isinstance(part, Program):
                    work.append(part)
                else:
                    part.compute(work, part_batch, outputs)
                    work = []
            outputs += size.outputs
            results += lowering.output(size)
        if results:
            return self._unsampled(work, sampling, results, in_vain)
        return self._sampled(work, sampling, outputs, in_vain)

    def _sampled(
        self,
        work: list[Program | Call],
        sampling: Sequence[RowSampling],
        outputs: int,
        in_vain: Slice | None,
    ) -> GpuStep:
        """Tokens are chosen on the GPU, or here where the logits are needed for it."""
        shared = self._shared
        logits = Slice(shared.logits.buffer, 0, outputs * self._vocabulary * FLOAT)
        read = [Slice(shared.chosen.buffer, 0, outputs * FLOAT)] if outputs else []
        if not all(samples_ahead(how.params) for how in sampling):
            read.append(logits)
        read += [in_vain] if in_vain else []
        ticket = shared.gpu.submit([*work, *shared.sampler.calls(sampling)], read)

        def values() -> F32:
            rows: F32 = shared.gpu.read(logits, np.float32).reshape(outputs, self._vocabulary)
            return rows

        return GpuStep(ticket, sampling, values, sampled=True, lost=self._lost if in_vain else None)

    def _unsampled(
        self,
        work: list[Program | Call],
        sampling: Sequence[RowSampling],
        results: Sequence[Slice],
        in_vain: Slice | None,
    ) -> GpuStep:
        """The graph ends with all rows of both phases."""
        gpu = self._shared.gpu
        ticket = gpu.submit(work, [in_vain] if in_vain else [])

        def values() -> F32:
            rows: F32 = np.concatenate([gpu.read(piece, np.float32) for piece in results])
            return rows.reshape(-1, self._vocabulary)

        return GpuStep(ticket, sampling, values, sampled=False, lost=self._lost if in_vain else None)

    def _lost(self) -> StepLostError:
        """What a step ends with in which workgroups have waited for others in vain; none will do so again."""
        self._adapted.stop_meeting()
        return StepLostError("the GPU does not run workgroups beside each other.")

    def _bind(self) -> None:
        """Let programs be bound anew if a buffer has been replaced."""
        version = self._shared.cache.version, self._adapted.version
        if self._bound != version:
            self._bound = version
            for _, program in (*self._programs, *self._adapted.phases):
                program.unbind()

    def _check(self, batch: Batch) -> None:
        """Kernels do not check addresses, so wrong steps must end here."""
        self._adapted.check(batch)
        limits = self._shared.limits
        for what, count, most in (
            ("generated rows", batch.generated, limits.max_sequences),
            ("rows of prompts", len(batch.tokens) - batch.generated, limits.step_tokens),
            ("outputs", len(batch.outputs), self._shared.outputs),
            ("sequences", len(batch.block_tables), limits.max_sequences),
            ("positions", int(batch.positions.max()) + 1, limits.max_ctx),
            # Entries of tables past a sequence's length are not read.
            ("usable KV blocks", _highest(batch) + 1, self._shared.cache.blocks),
        ):
            if count > most:
                raise EngineError(f"a step has {count} {what}, the plan holds {most}.")

    def settings_for(self, positions: int) -> str | None:
        """See :class:`shimmy.engine.plan.AdvisingPlan`."""
        return self._advise(positions)

    def profile(self, batch: Batch) -> Profile:
        """See :class:`shimmy.engine.plan.ProfiledPlan`."""
        self._check(batch)
        self._bind()
        lowering, program = self._programs[0 if batch.generated else 1]
        rows = slice(0, len(batch.tokens))
        return profile(self._shared.gpu, lowering.step, program, batch, rows, _size(batch, rows))

    @property
    def lowered(self) -> dict[str, list[Dispatch | Fallback]]:
        """What a step runs, in order: its generated rows and its rows of prompts."""
        phases = zip(("generated", "prompt"), self._programs, strict=True)
        return {name: program.lowered for name, (_, program) in phases}

    def close(self) -> None:
        gpu = self._shared.gpu
        self._shared.cache.close()
        if self.host:
            self.host.close()
        # Whoever still holds the plan should not hold its memory.
        del self._shared, self._programs, self._adapted, self._host, self.host
        if self._owns_gpu:
            gpu.close()


def _highest(batch: Batch) -> int:
    """The highest KV block that a step reads or writes; -1: none."""
    tables = batch.block_tables
    last = np.full(len(tables), -1)
    np.maximum.at(last, batch.slots, batch.positions)
    used = np.arange(tables.shape[1]) <= last[:, None] // BLOCK_TOKENS
    return int(np.where(used, tables, -1).max(initial=-1))


def _size(batch: Batch, rows: slice) -> Size:
    """Of some rows of a step; contexts in whole pieces, so that few sizes occur."""
    count = rows.stop - rows.start
    if not count:
        return Size(0, 0, 0)
    context = -(-(int(batch.positions[rows].max()) + 1) // PIECE) * PIECE
    return Size(count, len(outputs_of(batch, rows)), context)
