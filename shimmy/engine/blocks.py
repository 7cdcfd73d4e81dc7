"""Hands out KV block ids, and finds again the blocks that hold what a sequence is about to compute.

The plan owns the memory behind the ids and is told how many are in use.
"""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

#: Bytes of a block's key: nobody finds two contents with one key by trying.
KEY_BYTES = 32


def root_key(*facts: object) -> bytes:
    """The key before a sequence's first block, of all that changes its values besides its tokens.

    What is fixed for a plan (model, positions, precision, type of the KV cache) is no such fact:
    cached blocks live and end with their plan.
    """
    return blake2b(repr(facts).encode(), digest_size=KEY_BYTES).digest()


def block_key(before: bytes, tokens: Sequence[int], prompt: int) -> bytes:
    """The key of a full block with these tokens behind the block, or the root, with the key ``before``.

    The first ``prompt`` tokens were computed as rows of a prompt, the others as they were generated.
    """
    return blake2b(before + array("i", [prompt, *tokens]).tobytes(), digest_size=KEY_BYTES).digest()


class BlockPool:
    """Ids 0 … capacity-1, the lowest free one first, so that unused memory is at the end.

    A block has users. One that is full can be known by the key of its content: then others may share
    it, and it stays when its last user goes, until its id is needed. Memory of up to ``keep`` blocks
    may be filled with such ones.
    """

    def __init__(self, capacity: int, keep: int = 0) -> None:
        self.capacity = capacity
        self.keep = min(keep, capacity)
        self._free: list[int] = []
        self._next = 0
        self._users: dict[int, int] = {}
        self._known: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        # Without users, the longest unused one first. A block never precedes one that continues it:
        # whoever uses that one uses both, and gives them back from the end.
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Blocks that have users."""
        return len(self._users)

    @property
    def cached(self) -> int:
        """Blocks without users that are kept for their content."""
        return len(self._unused)

    @property
    def available(self) -> int:
        """Blocks that can be taken: those that are only kept are given up for it."""
        return self.capacity - self.used

    @property
    def high_water(self) -> int:
        """One more than the highest id that holds anything."""
        return self._next

    @property
    def highest_used(self) -> int:
        """One more than the highest id that has users. Looks at all of them."""
        return max(self._users, default=-1) + 1

    def take(self) -> int:
        """An id that is free or only kept; the caller has checked ``available``."""
        if not self._free and self._unused and self._next >= self.keep:
            # More memory than may be kept is for blocks in use only.
            self._forget(next(iter(self._unused)))
        if self._free:
            block = heapq.heappop(self._free)
        elif self._next == self.capacity:
            raise IndexError("no KV block is free")
        else:
            block, self._next = self._next, self._next + 1
        self._users[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        """The block of this content, with one user more; None if there is none."""
        block = self._known.get(key)
        if block is not None:
            self._users[block] = self._users.get(block, 0) + 1
            self._unused.pop(block, None)
        return block

    def publish(self, block: int, key: bytes) -> int:
        """Make a full block known by its key; the block to use from now on.

        That is another one if the content is known already; then ``block`` is given back.
        """
        if (known := self.find(key)) is not None:
            self.give_back([block])
            return known
        self._known[key] = block
        self._keys[block] = key
        return block

    def give_back(self, blocks: Sequence[int]) -> None:
        """One user less for each of a sequence's blocks, in its order."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            del self._users[block]
            if block in self._keys:
                self._unused[block] = None
            else:
                heapq.heappush(self._free, block)
        while self.cached > self.keep:
            self._forget(next(iter(self._unused)))
        self._lower_high_water()

    def drop_from(self, block: int) -> None:
        """Give up the content of blocks without users from this id on."""
        for kept in [b for b in self._unused if b >= block]:
            self._forget(kept)
        self._lower_high_water()

    def _forget(self, block: int) -> None:
        """A block without users becomes free."""
        del self._unused[block]
        del self._known[self._keys.pop(block)]
        heapq.heappush(self._free, block)

    def _lower_high_water(self) -> None:
        """Forget free ids at the end; the heap may hold them anywhere."""
        if self._next - 1 in self._users or self._next - 1 in self._keys:
            return
        free = set(self._free)
        while self._next - 1 in free:
            self._next -= 1
            free.remove(self._next)
        if len(free) != len(self._free):
            self._free = sorted(free)
