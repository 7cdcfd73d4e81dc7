"""The merges of a large SentencePiece vocabulary, remembered between runs: finding them takes a second.

An entry's name is a hash of the pieces and their scores, so it is never out of date.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from shimmy import __version__
from shimmy.text.remembered import recall, remember

#: Pairs of pieces that form a piece, in the order in which they are merged.
Merges: TypeAlias = list[tuple[str, str]]

#: Pieces from which on remembering pays.
LEAST_PIECES = 2**16
_SIDES = ("left", "right")


def remembered(
    find: Callable[[Mapping[str, float]], Merges], pieces: Mapping[str, float], memory: Path
) -> Merges:
    """What ``find`` makes of pieces and their scores, or made of them before; ``memory`` is a folder."""
    if len(pieces) < LEAST_PIECES:
        return find(pieces)
    entry, texts = memory / f"{_name(pieces)}.msgpack", list(pieces)
    if (numbers := recall(entry)) is not None:
        left, right = (map(texts.__getitem__, memoryview(numbers[side]).cast("I")) for side in _SIDES)
        return list(zip(left, right, strict=True))
    merges, number = find(pieces), {text: i for i, text in enumerate(texts)}
    columns = (array("I", (number[pair[at]] for pair in merges)) for at in range(2))
    remember(entry, {side: column.tobytes() for side, column in zip(_SIDES, columns, strict=True)})
    return merges


def _name(pieces: Mapping[str, float]) -> str:
    digest = hashlib.blake2b(__version__.encode(), digest_size=16)
    digest.update("\0".join(pieces).encode("utf-8", "surrogatepass"))
    digest.update(array("d", pieces.values()).tobytes())
    return digest.hexdigest()
