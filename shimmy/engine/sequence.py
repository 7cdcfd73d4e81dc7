"""One request inside the engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shimmy.engine.protocol import Submit
from shimmy.engine.sampling import RowSampling


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known so far, how many of them are in the KV cache, and in which blocks."""

    request: Submit
    tokens: list[int]
    stop_ids: frozenset[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    prompt_counts: Counter[int] = field(default_factory=Counter)
    generated_counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, request: Submit) -> Sequence:
        sequence = cls(request, list(request.tokens), frozenset(request.stop_ids))
        if request.sampling.repeat_penalty != 1.0:
            sequence.prompt_counts.update(request.tokens)
        return sequence

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.tokens)

    @property
    def pending(self) -> int:
        """Tokens known but not yet computed; 1 while it decodes."""
        return len(self.tokens) - self.computed

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self.generated_counts[token] += 1

    def row_sampling(self) -> RowSampling:
        return RowSampling(self.request.sampling, self.generated, self.prompt_counts, self.generated_counts)
