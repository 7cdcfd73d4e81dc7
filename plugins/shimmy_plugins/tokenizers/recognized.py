"""The name for ``tokenizer.ggml.pre`` of a ``tokenizer.json`` whose way to cut words is one that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shimmy_plugins.tokenizers.pretokenizers import (
    CONTRACTIONS,
    DIGIT,
    GPT2_WORDS,
    PRE_TOKENIZERS,
)

#: How most files write :data:`CONTRACTIONS`.
_CASELESS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NFC = {"type": "NFC"}


def pre_tokenizer_name(content: Mapping[str, Any]) -> str | None:
    """The name under which GGUF files know how this tokenizer cuts words; None: it is none of those.

    What NFC does to a text before, no GGUF file says; those of such models go without it.
    """
    if content.get("normalizer") not in (None, _NFC):
        return None
    splits = _splits(content.get("pre_tokenizer"))
    ignores_merges = bool(content["model"].get("ignore_merges"))
    return next(
        (
            name
            for name, rules in PRE_TOKENIZERS.items()
            if rules.splits == splits and rules.ignore_merges == ignores_merges
        ),
        None,
    )


def _splits(step: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The expressions that cut words, as :class:`PreTokenizer` has them; None if there is more to it."""
    *steps, last = list(_flat(step)) or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    expressions = [_expression(each) for each in steps]
    if last.get("use_regex", True):
        expressions.append(GPT2_WORDS)
    known = tuple(each for each in expressions if each is not None)
    return known if len(known) == len(expressions) else None


def _flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if step is not None and step.get("type") == "Sequence":
        for part in step["pretokenizers"]:
            yield from _flat(part)
    elif step is not None:
        yield step


def _expression(step: Mapping[str, Any]) -> str | None:
    if step.get("type") == "Digits":
        return DIGIT if step.get("individual_digits") else r"\p{N}+"
    if step.get("type") != "Split" or "Regex" not in step["pattern"]:
        return None
    # To remove what lies between words is to isolate words that leave nothing between them.
    if (step.get("behavior"), bool(step.get("invert"))) not in (("Isolated", False), ("Removed", True)):
        return None
    expression: str = step["pattern"]["Regex"]
    return expression.replace(f"{_CASELESS}?", f"(?:{CONTRACTIONS})?").replace(_CASELESS, CONTRACTIONS)
