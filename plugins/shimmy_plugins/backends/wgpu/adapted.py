"""The programs of rows with adapters, made when the first adapter comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Generic, TypeVar

from shimmy.engine.plan import Limits
from shimmy.errors import EngineError
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms
from shimmy_plugins.backends.wgpu.device import Gpu, Slice
from shimmy_plugins.backends.wgpu.lora import LoraState

Phase = TypeVar("Phase")


class Adapted(Generic[Phase]):
    """A plan's adapters, and its phases as they are run with them.

    Their shaders are compiled when a step first needs them, so that others who are served wait for few.
    """

    def __init__(
        self,
        gpu: Gpu,
        limits: Limits,
        lower: Callable[[LoraState], Sequence[Phase]],
        experts: Set[str] = frozenset(),
    ) -> None:
        """``experts``: labels of products of experts; as soon as an adapter changes one, all are alone."""
        self.phases: Sequence[Phase] = ()
        """None before there was an adapter."""
        self._gpu = gpu
        self._limits = limits
        self._lower = lower
        self._experts = experts
        self._state: LoraState | None = None

    @property
    def version(self) -> int:
        """Another number whenever a buffer was replaced: bind groups must be made anew then."""
        return self._state.version if self._state else 0

    @property
    def in_vain(self) -> Slice | None:
        """What is not zero behind a step that is void; None: no product waits for others."""
        return self._state.in_vain.whole() if self._state and self._state.meets else None

    def stop_meeting(self) -> None:
        """See :meth:`.lora.LoraState.stop_meeting`."""
        if self._state:
            self._state.stop_meeting()

    def put(self, place: int, terms: Terms | None) -> None:
        """See :meth:`.lora.LoraState.put`."""
        if self._state is None and terms is None:
            return
        state = self._state or LoraState(self._gpu, self._limits)
        experts = terms is not None and not self._experts.isdisjoint(terms)
        if self._state is None or (experts and not state.experts):
            state.experts |= experts
            self.phases = self._lower(state)
            self._state = state
        state.put(place, terms)

    def check(self, batch: Batch) -> None:
        """EngineError if a step wants an adapter that is not loaded, or has entries that make no sense."""
        if batch.lora is None or not len(batch.lora.rows):
            return
        if self._state is None:
            raise EngineError("a step wants an adapter that is not loaded.")
        self._state.check(batch.lora, len(batch.tokens))
