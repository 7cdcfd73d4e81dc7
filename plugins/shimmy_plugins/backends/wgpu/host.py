"""What another backend computes for a plan: segments of its graph, in the machine's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shimmy.engine.plan import Segments
from shimmy.errors import ConfigError, ShimmyError
from shimmy.graph.lora import Terms, target_labels
from shimmy.graph.offload import Split
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS


@dataclass(slots=True)
class HostPart:
    """Segments that take part in whatever happens to the plan."""

    segments: Segments
    split: Split
    _blocks: int = 0

    def __post_init__(self) -> None:
        if self.segments.block_bytes and self.segments.block_tokens != BLOCK_TOKENS:
            self.segments.close()
            raise ConfigError(
                f"the engine for {self.split.what} has KV blocks of {self.segments.block_tokens} positions, "
                f"wgpu of {BLOCK_TOKENS}.",
                hint="Set gpu_layers so that all layers are on the GPU.",
            )

    @property
    def description(self) -> str:
        """``layers 0 to 10: cpu, 2 threads, AVX-512``."""
        return f"{self.split.what}: {self.segments.description}"

    def reserve(self, blocks: int, own: Callable[[int], None]) -> None:
        """Reserve KV blocks there, then here by ``own``; if one fails, nothing has changed."""
        self.segments.reserve(blocks)
        try:
            own(blocks)
        except ShimmyError:
            self.segments.reserve(self._blocks)
            raise
        self._blocks = blocks

    def put_adapter(self, place: int, terms: Terms | None, own: Callable[[int, Terms | None], None]) -> None:
        """Give each side its terms; if ``own`` fails, the place has no adapter there."""
        targets = target_labels(self.split.host)
        theirs = None if terms is None else {label: terms[label] for label in terms.keys() & targets}
        ours = None if terms is None else {label: terms[label] for label in terms.keys() - targets}
        self.segments.put_adapter(place, theirs)
        try:
            own(place, ours)
        except ShimmyError:
            if terms is not None:
                self.segments.put_adapter(place, None)
            raise
