"""One request inside the engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shimmy.engine.adapters import Places
from shimmy.engine.blocks import block_key, root_key
from shimmy.engine.protocol import Submit
from shimmy.engine.sampling import RowSampling


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known so far, and how many positions are in the KV cache, in which blocks.

    Steps in flight count as computed; the tokens they choose are yet to be known.
    """

    request: Submit
    tokens: list[int]
    stop_ids: frozenset[int]
    limit: int
    """Most tokens, prompt and answer."""
    adapters: Places = ()
    ahead: bool = False
    """Whether a row may be computed whose token is not known yet."""
    in_flight: int = 0
    """Tokens chosen by steps in flight."""
    output: int = 0
    """The output row that chooses the newest of them, in the step submitted last."""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    published: int = 0
    """How many of the blocks, from the first, are known by their content."""
    reused: int = 0
    """Tokens of the prompt that were found computed; fixed once the first token is generated."""
    prompt_counts: Counter[int] = field(default_factory=Counter)
    generated_counts: Counter[int] = field(default_factory=Counter)
    _keys: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, request: Submit, context: int, adapters: Places = (), *, ahead: bool = False) -> Sequence:
        limit = min(len(request.tokens) + request.max_tokens, context)
        sequence = cls(request, list(request.tokens), frozenset(request.stop_ids), limit, adapters, ahead)
        if request.sampling.repeat_penalty != 1.0:
            sequence.prompt_counts.update(request.tokens)
        return sequence

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def length(self) -> int:
        """Tokens known or in flight."""
        return len(self.tokens) + self.in_flight

    @property
    def generated(self) -> int:
        """Those of them that are not the prompt's."""
        return self.length - len(self.request.tokens)

    @property
    def pending(self) -> int:
        """Tokens not yet computed; 1 while it decodes."""
        return self.length - self.computed

    @property
    def prompt_pending(self) -> int:
        """Tokens of the prompt not yet computed; less than one behind it."""
        return len(self.request.tokens) - self.computed

    @property
    def ready(self) -> bool:
        """Whether its next row can be computed now, and not only when tokens in flight are known."""
        return not self.in_flight or (self.ahead and self.length < self.limit)

    @property
    def complete(self) -> bool:
        return len(self.tokens) >= self.limit

    def key(self, block: int, block_tokens: int, *, phases: bool) -> bytes:
        """The key of the content of one of its blocks, all of whose tokens are known.

        With ``phases`` it tells how many of them are the prompt's.
        """
        if not self._keys:
            # Ids are of versions, so what a replaced adapter has computed is found by nobody.
            self._keys.append(root_key(self.request.salt, sorted(self.request.adapters)))
        for i in range(len(self._keys) - 1, block + 1):
            start, end = i * block_tokens, (i + 1) * block_tokens
            prompt = max(min(len(self.request.tokens), end) - start, 0) if phases else block_tokens
            self._keys.append(block_key(self._keys[i], self.tokens[start:end], prompt))
        return self._keys[block + 1]

    def found(self, length: int) -> None:
        """The first ``length`` tokens are in the KV cache, as others have computed them."""
        if not self.generated:
            self.reused += length - self.computed
        self.computed = length

    def restart(self) -> None:
        """Nothing of it is in the KV cache any more."""
        self.computed = self.published = 0
        if not self.generated:
            self.reused = 0

    def append(self, token: int) -> None:
        """The token of the oldest step in flight that has one for this sequence is known."""
        self.in_flight -= 1
        self.tokens.append(token)
        self.generated_counts[token] += 1

    def row_sampling(self) -> RowSampling:
        """How the token behind the last one, known or in flight, is chosen."""
        return RowSampling(self.request.sampling, self.generated, self.prompt_counts, self.generated_counts)
