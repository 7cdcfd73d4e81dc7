"""Names for found models: short where that is clear, longer where it is not.

The rule: the file's stem without a quantisation suffix (``tiny.Q4_1.gguf`` is ``tiny``). Models
that would share a name all take their full stem (``tiny.Q4_1``, ``tiny.Q8_0``), and if they share
that too, as many parent folders as it takes (``a/tiny.Q4_1``). So no name depends on the order in
which models are found. A name that a source made up (one that is not the file's stem) stays whole.
Where a source knows namespaces, these are the folders, and the source itself the outermost; there a
file that is only called ``model`` takes the namespace's last part as its name.
The other spellings stay valid as aliases where only one model can be meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from shimmy.discovery.records import FoundModel
from shimmy.gguf.parts import model_stem

#: ``.Q4_K_M``, ``-IQ3_XXS``, ``.BF16``: at most two letters, Q or F, a digit, and what follows.
_QUANTISATION = re.compile(r"(?:^|[-._])[a-z]{0,2}(?:q|fp?)\d\w*$", re.IGNORECASE)
#: Stems that say nothing of the model.
_ANONYMOUS = frozenset({"", "model", "ggml-model", "gguf-model"})
_FORMAT = re.compile(r"[-._]gguf$", re.IGNORECASE)


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
    return known, _aliases(known, found)


def plain_name(model: FoundModel) -> str:
    """The name that a model has if no other is called so."""
    return _spellings(model)[0]


def all_spellings(model: FoundModel) -> set[str]:
    """Everything that the model may be called; others may be called so too."""
    return {*_spellings(model), *model.aliases}


def _aliases(known: dict[str, FoundModel], found: Sequence[FoundModel]) -> dict[str, FoundModel]:
    everything = [all_spellings(model) for model in found]
    claims = Counter(name for names in everything for name in names)
    return {
        name: model
        for model, names in zip(found, everything, strict=True)
        for name in names
        if name not in known and claims[name] == 1
    }


def _spellings(model: FoundModel) -> list[str]:
    """Names for the model, each longer than the one before; the last is its path."""
    stem = model_stem(model.path)
    folders = model.namespace.split("/") if model.namespace else model.path.parent.parts
    # Folders are called as they are, and may well have a dot in their name.
    plain = model.name == stem and not model.path.is_dir()
    short = _short_name(stem, model.namespace) if plain else model.name
    longer = ["/".join((*folders[-count:], model.name)) for count in range(1, len(folders) + 1)]
    outermost = [f"{model.source}:{longer[-1]}"] if model.namespace else []
    return list(dict.fromkeys([short, model.name, *longer, *outermost, str(model.path)]))


def _short_name(stem: str, namespace: str) -> str:
    short = _QUANTISATION.sub("", stem)
    if short.lower() not in _ANONYMOUS:
        return short
    return _FORMAT.sub("", namespace.rpartition("/")[2]) or short or stem
