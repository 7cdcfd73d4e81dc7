"""The protocol between the scheduler and a compute backend: a graph compiles to a plan, a plan runs steps.

A step is a batch of tokens from several sequences: prompt chunks and generated tokens alike run
through the same graph. The KV cache is paged: a block holds ``block_tokens`` positions of one
sequence for all layers, a sequence's block table lists its blocks in order. The scheduler hands
out block ids, the plan owns the memory behind them.

Steps take effect in the order of their submission, as do ``reserve`` and ``put_adapter`` between them:
a plan with several steps in flight sees to it, most simply by one queue of its device. So blocks and
places are used anew while a step that has used them before is still in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import EngineError

if TYPE_CHECKING:
    from shimmy.engine.protocol import Sampling
    from shimmy.engine.sampling import Chosen, RowSampling
    from shimmy.gguf.weights import Weights
    from shimmy.graph.batch import Batch
    from shimmy.graph.builder import Graph
    from shimmy.graph.lora import Terms
    from shimmy.graph.offload import Split

Progress = Callable[[str, int, int], None]
"""Called as progress(phase, done, total) while loading."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must be able to hold."""

    max_ctx: int
    """Most positions of one sequence."""
    max_sequences: int
    """Most sequences (rows of a block table) in a step."""
    step_tokens: int
    """Most tokens in a step."""
    threads: int
    """CPU threads the plan may use."""
    max_outputs: int | None = None
    """Most rows whose logits are wanted in a step; None: as many as sequences."""
    max_adapters: int = 8
    """Most adapters at a time."""
    max_lora_rank: int = 64
    """Highest rank of an adapter."""
    precision: str = "auto"
    """"f32" or "int8": the arithmetic asked for; "auto" leaves it to the backend."""
    gpu: str = "auto"
    """The ``gpu`` setting: which GPU computes; "auto" leaves it to the backend."""
    gpu_memory: int | None = None
    """Bytes of the GPU's memory that the plan may take; None: what is free."""
    instructions: str = "auto"
    """CPU instructions used at most, "avx2"; "auto" leaves them to the backend."""
    kv_type: str = "f32"
    """What keys and values are stored as: one of :data:`shimmy.graph.kv.KV_TYPES`."""
    packed_cache: int = 0
    """Bytes on disk that weights in a backend's own form may take; 0: they are not kept."""


class StepLostError(EngineError):
    """A step was not computed as it had to be, nor were those submitted after it: they must be done again."""


class Step(Protocol):
    """A submitted step. Both methods wait for it; a synchronous engine has finished already.

    Steps are asked for their tokens in order, each once. Both raise StepLostError where that is so.
    """

    def chosen(self) -> list[Chosen]:
        """The sampled tokens of the R output rows."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """(R, vocabulary) raw logits, for judges and tests; valid until the next submit."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """The step of an engine that computes while ``submit`` runs."""

    _logits: NDArray[np.float32]
    """A view of the plan's memory, so valid until the next submit."""
    _chosen: list[Chosen]

    def chosen(self) -> list[Chosen]:
        return self._chosen

    def logits(self) -> NDArray[np.float32]:
        return self._logits


class Plan(Protocol):
    """A compiled graph with its weights and its KV cache. Used from one thread."""

    precision: str
    """"f32" or "int8": the arithmetic in use."""
    description: str
    """What runs it, for people: "2 threads, AVX-512"."""
    weight_bytes: int
    """Memory held by weights, but for those of ``host``."""
    mapped_bytes: int
    """Part of it that is mapped from files, so that the system counts it as free."""
    device_memory: int | None
    """Memory left where the KV cache lies, once the plan is compiled; None: it is the machine's."""
    device_bytes: int | None
    """Memory that it takes of its device, once compiled; None: it has none but the machine's."""
    host: Segments | None
    """What another backend computes for it, from the machine's memory."""
    kv_type: str
    """What keys and values are stored as: ``limits.kv_type``."""
    block_tokens: int
    """Positions in one KV block."""
    block_bytes: int
    """Memory of one KV block, all layers, those of ``host`` included."""
    fallbacks: tuple[str, ...]
    """Labels of nodes that run on the NumPy reference for want of a kernel."""
    phases: bool
    """Whether a row's bits depend on its phase: then only rows of one phase stand for each other."""
    ahead: int
    """How many steps may be in flight; 1: each is asked for its tokens before the next is submitted."""

    def samples_ahead(self, sampling: Sampling) -> bool:
        """Whether a row sampled so may be followed by the next one before its token is known."""
        ...

    def reserve(self, blocks: int) -> None:
        """Make exactly the block ids below ``blocks`` usable: allocates, or frees those above.

        No step in flight uses any of those above.
        """
        ...

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        """Set what batches mean by adapter ``place``, from 0 on; None forgets it and frees its memory.

        Raises:
            OutOfMemoryError: its weights do not fit.
        """
        ...

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> Step:
        """Run one step: append to the KV cache, compute R rows of logits, sample each by its entry."""
        ...

    def close(self) -> None:
        """Free everything. The plan cannot be used afterwards."""
        ...


class Segments(Protocol):
    """Segments of a graph (:mod:`shimmy.graph.offload`), compiled for the plan of another backend.

    Used from one thread. A step runs each of them at most once for each of its phases, in order.
    """

    description: str
    """What runs them, for people."""
    weight_bytes: int
    """Memory held by weights."""
    mapped_bytes: int
    """Part of it that is mapped from files."""
    block_tokens: int
    """Positions in one KV block; the plan's own blocks have as many."""
    block_bytes: int
    """Memory of one KV block, the layers of all segments; 0: none has state."""
    fallbacks: tuple[str, ...]
    """Labels of nodes that run on the NumPy reference for want of a kernel."""

    def reserve(self, blocks: int) -> None:
        """See :meth:`Plan.reserve`."""
        ...

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        """See :meth:`Plan.put_adapter`; all targets are nodes of the segments."""
        ...

    def run(self, number: int, batch: Batch, inputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Compute a segment for a batch whose tokens are all known.

        ``inputs`` are rows of its values, and so is the result; it is valid until the next run.

        Raises:
            EngineError: the batch exceeds the limits or the reserved blocks.
        """
        ...

    def close(self) -> None:
        """Free everything. They cannot be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel of a step."""

    node: str
    """The labels of the graph's nodes it computes, for people."""
    kernel: str
    seconds: float
    bytes: int | None
    """Read and written at least; None: not told."""
    operations: int | None
    """Multiplications and additions at least; None: not told."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a step's kernels take, each alone."""

    kernels: Sequence[KernelTime]
    bytes_per_second: float
    """What the device reads of its memory at most, measured just before."""


@runtime_checkable
class ProfiledPlan(Protocol):
    """A plan that can tell how long each kernel of a step takes."""

    def profile(self, batch: Batch) -> Profile:
        """Run a step of one phase several times; its KV blocks are reserved.

        Raises:
            EngineError: the device tells no times.
        """
        ...


@runtime_checkable
class AdvisingPlan(Protocol):
    """A plan that knows what would leave more room for the KV cache."""

    def settings_for(self, positions: int) -> str | None:
        """With what a context of so many positions would fit, "gpu_layers to 20 (of 32)".

        None: with nothing, or nobody knows.
        """
        ...


class Backend(Protocol):
    """A compute engine."""

    step_tokens: int
    """Tokens of a step that suit it: enough to be fast, few enough that others need not wait long."""

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        """Load weights and build kernels.

        Raises:
            ConfigError: the backend does not compute in ``limits.precision`` or store ``limits.kv_type``.
            GraphError: a node can neither be computed here nor by its NumPy definition.
            OutOfMemoryError: the weights do not fit.
        """
        ...


@runtime_checkable
class SegmentBackend(Protocol):
    """A backend that computes segments for another one's plans."""

    def compile_segments(
        self, graph: Graph, weights: Weights, limits: Limits, progress: Progress
    ) -> Segments:
        """Load the weights of a graph of segments, and build kernels. Raises like :meth:`Backend.compile`."""
        ...


@runtime_checkable
class OffloadingBackend(Backend, Protocol):
    """A backend whose plans can leave segments to another one."""

    def compile_split(
        self, split: Split, host: SegmentBackend, weights: Weights, limits: Limits, progress: Progress
    ) -> Plan:
        """Compile what stays, and let ``host`` compile the rest. Raises like :meth:`Backend.compile`."""
        ...
