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
    """Tokens known so far, how many of them are in the KV cache, and in which blocks."""

    request: Submit
    tokens: list[int]
    stop_ids: frozenset[int]
    adapters: Places = ()
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
    def of(cls, request: Submit, adapters: Places = ()) -> Sequence:
        sequence = cls(request, list(request.tokens), frozenset(request.stop_ids), adapters)
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

    def key(self, block: int, block_tokens: int) -> bytes:
        """The key of the content of one of its blocks, all of whose tokens are known."""
        if not self._keys:
            # Ids are of versions, so what a replaced adapter has computed is found by nobody.
            self._keys.append(root_key(self.request.salt, sorted(self.request.adapters)))
        for i in range(len(self._keys) - 1, block + 1):
            tokens = self.tokens[i * block_tokens : (i + 1) * block_tokens]
            self._keys.append(block_key(self._keys[i], tokens))
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
        self.tokens.append(token)
        self.generated_counts[token] += 1

    def row_sampling(self) -> RowSampling:
        return RowSampling(self.request.sampling, self.generated, self.prompt_counts, self.generated_counts)
