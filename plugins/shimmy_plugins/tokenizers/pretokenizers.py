"""How byte-level BPE cuts text into words before merging, by ``tokenizer.ggml.pre``.

Each expression cuts what the one before left whole, into its matches and what lies between.
"""

from __future__ import annotations

from dataclasses import dataclass

from shimmy.errors import TokenizerError, did_you_mean


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """The expressions, and what else the name stands for."""

    splits: tuple[str, ...]
    ignore_merges: bool = False
    """A word that is in the vocabulary is one token, whatever the merges say."""
    add_bos: bool = False
    """Whether BOS is added when the file does not say."""


_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _modern_words(digits: str) -> str:
    """GPT-4's words, and those of most models since; they differ in how digits are grouped."""
    # Case by case: a case-insensitive match would take the long s (U+017F) for an s.
    contractions = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    signs = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    spaces = r"\s*[\r\n]+|\s+(?!\S)|\s+"
    return "|".join([contractions, letters, digits, signs, spaces])


_GPT2 = PreTokenizer((_GPT2_WORDS,))
_LLAMA3 = PreTokenizer((_modern_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer((_modern_words(r"\p{N}"),))
_DIGITS_APART = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_DEFAULT = PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE_TOKENIZERS = {
    "default": _DEFAULT,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "smollm": _DIGITS_APART,
    "starcoder": _DIGITS_APART,
    "refact": _DIGITS_APART,
    "command-r": _DIGITS_APART,
}


def pre_tokenizer(name: object) -> PreTokenizer:
    """The rules called ``name``; a file without a name (None) means "default", as in llama.cpp."""
    if name is None:
        return _DEFAULT
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"'tokenizer.ggml.pre' is {name!r}, a way to cut words that is not known here.",
            hint=did_you_mean(str(name), PRE_TOKENIZERS),
        )
    return PRE_TOKENIZERS[name]
