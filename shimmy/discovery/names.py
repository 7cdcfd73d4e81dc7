"""Names for found models: short where that is clear, longer where it is not.

The rule: the file's stem without a quantisation suffix (``tiny.Q4_1.gguf`` is ``tiny``). Models
that would share a name all take their full stem (``tiny.Q4_1``, ``tiny.Q8_0``), and if they share
that too, as many parent folders as it takes (``a/tiny.Q4_1``). So no name depends on the order in
which models are found. A name that a source made up (one that is not the file's stem) stays whole.
The shorter spellings stay valid as aliases where only one model can be meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shimmy.discovery.catalog import FoundModel

#: ``.Q4_K_M``, ``-IQ3_XXS``, ``.BF16``: at most two letters, Q or F, a digit, and what follows.
_QUANTISATION = re.compile(r"[-._][a-z]{0,2}(?:q|fp?)\d\w*$", re.IGNORECASE)


def name_models(found: Sequence[FoundModel]) -> tuple[dict[str, FoundModel], dict[str, FoundModel]]:
    """Each model under its unique name, and further unambiguous spellings; paths must be unique."""
    spellings = [_spellings(model) for model in found]
    levels = [0] * len(found)
    while True:
        names = [spelling[level] for spelling, level in zip(spellings, levels, strict=True)]
        counts = Counter(names)
        if len(counts) == len(names):
            break
        for index, name in enumerate(names):
            if counts[name] > 1 and levels[index] < len(spellings[index]) - 1:
                levels[index] += 1
    known = dict(zip(names, found, strict=True))
    candidates = Counter(name for spelling in spellings for name in set(spelling))
    aliases = {
        name: model
        for model, spelling in zip(found, spellings, strict=True)
        for name in spelling
        if name not in known and candidates[name] == 1
    }
    return known, aliases


def _spellings(model: FoundModel) -> list[str]:
    """Names for the model, each longer than the one before; the last holds the whole path."""
    stem = model.path.stem
    short = _QUANTISATION.sub("", stem) if model.name == stem else model.name
    folders = model.path.parent.parts
    longer = ["/".join((*folders[-count:], stem)) for count in range(1, len(folders) + 1)]
    return list(dict.fromkeys([short or stem, model.name, *longer]))
