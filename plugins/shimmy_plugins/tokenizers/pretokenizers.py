"""How byte-level BPE cuts text into words before merging, by ``tokenizer.ggml.pre``.

Each expression cuts what the one before left whole, into its matches and what lies between. They
are the expressions the models were trained with, in the dialect of the ``tokenizers`` library.
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


DIGIT = r"\p{N}"
_THREE_DIGITS = r"\p{N}{1,3}"
#: Groups of three counted from the right, as people write them: 12 345.
_THOUSANDS = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"

# Case by case: a case-insensitive match would take the long s (U+017F) for an s.
CONTRACTIONS = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LINE_ENDS = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"

_LINES = r"[^\n]+|[\n]+"
_CHINESE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CHINESE_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\uac00-\ud7af\u1100-\u11ff]+"
)
_KOREAN_CHINESE_JAPANESE = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_HAN = r"\p{Han}"


def _gpt4_words(
    digits: str,
    *,
    contractions: str = CONTRACTIONS,
    letters: str = _LETTERS,
    signs: str = _SIGNS,
    line_ends: str = _LINE_ENDS,
    spaces: str = _SPACES,
) -> str:
    """GPT-4's words, and those of most models since; they differ in how digits are grouped."""
    return "|".join(filter(None, [contractions, letters, digits, signs, line_ends, spaces]))


def _gpt4o_words(digits: str, *, contractions: str = CONTRACTIONS, without: str = "") -> str:
    """GPT-4o's words: capitals, small letters, a contraction; ``without`` excludes some letters."""
    exclusion = f"&&[^{without}]" if without else ""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{exclusion}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{exclusion}]"
    first = r"[^\r\n\p{L}\p{N}]?"
    last = f"(?:{contractions})?" if contractions else ""
    letters = f"{first}{upper}*{lower}+{last}|{first}{upper}+{lower}*{last}"
    signs = r" ?[^\s\p{L}\p{N}]+[\r\n]*" if without else r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    return _gpt4_words(digits, contractions="", letters=letters, signs=signs)


def _deepseek_words(signs: str = r" ?[\p{P}\p{S}]+[\r\n]*", line_ends: str = _LINE_ENDS) -> str:
    """DeepSeek V3's words: a sign may begin one, and accents count as letters."""
    names = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    letters = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    return "|".join([names, letters, signs, line_ends, _SPACES])


#: Letters that have a case, as DeepSeek LLM's tokenizer lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BLOOM_WORDS = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_QWEN2_WORDS = _gpt4_words(DIGIT)
_LLAMA3_WORDS = _gpt4_words(_THREE_DIGITS)

_DEFAULT = PreTokenizer((r"[\p{P}$+<=>^~|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))

#: Names that mean the same, with what they mean.
_FAMILIES: tuple[tuple[str, PreTokenizer], ...] = (
    ("default", _DEFAULT),
    (
        "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert "
        "roberta-bpe jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code",
        PreTokenizer((GPT2_WORDS,)),
    ),
    (
        "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
        PreTokenizer((DIGIT, GPT2_WORDS)),
    ),
    ("falcon", PreTokenizer((r"[\p{P}$+<=>^~|`]+", GPT2_WORDS, r"[0-9][0-9][0-9]"))),
    (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        PreTokenizer((_LLAMA3_WORDS,), ignore_merges=True, add_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe glm4", PreTokenizer((_LLAMA3_WORDS,))),
    (
        "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo f2llmv2 grok-2 solar-open",
        PreTokenizer((_QWEN2_WORDS,)),
    ),
    (
        "qwen35",
        PreTokenizer(
            (
                _gpt4_words(
                    DIGIT,
                    letters=r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                    signs=r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                ),
            )
        ),
    ),
    ("ufakzeka", PreTokenizer((_gpt4_words(DIGIT, contractions=""),))),
    ("laguna", PreTokenizer((_LINES, _QWEN2_WORDS))),
    ("minicpm5", PreTokenizer((_THREE_DIGITS, _gpt4_words(r"\p{N}+")), ignore_merges=True)),
    ("seed-coder", PreTokenizer((_gpt4_words(DIGIT, signs=r" ?[^\s\p{L}\p{N}\r\n]+"),))),
    (
        "bailingmoe bailingmoe2 llada-moe",
        PreTokenizer((_gpt4_words(DIGIT, line_ends=r"\s*[\r\n]"),)),
    ),
    (
        "exaone-moe",
        PreTokenizer(
            (
                _gpt4_words(
                    DIGIT,
                    letters=r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
                    signs=r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
                    line_ends=r"\s*[\r\n]",
                ),
            )
        ),
    ),
    (
        "jais-2",
        PreTokenizer(
            (
                _gpt4_words(
                    _THREE_DIGITS,
                    spaces="|".join(rf"\s{{{run}}}(?!\S)" for run in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
                    + r"|\s",
                ),
            )
        ),
    ),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((_gpt4o_words(_THREE_DIGITS),))),
    ("granite-embed-multi-97m", PreTokenizer((_gpt4o_words(_THREE_DIGITS),), ignore_merges=True)),
    ("tekken", PreTokenizer((_gpt4o_words(DIGIT, contractions=""),), ignore_merges=True, add_bos=True)),
    (
        "tiny_aya cohere2moe",
        PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _gpt4o_words(_THREE_DIGITS))),
    ),
    ("kimi-k2", PreTokenizer((rf"{_HAN}+", _gpt4o_words(_THREE_DIGITS, without=_HAN)))),
    (
        "youtu",
        PreTokenizer((_KOREAN_CHINESE_JAPANESE, _gpt4o_words(DIGIT)), ignore_merges=True),
    ),
    (
        "deepseek-llm",
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{_CASED}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+\z",
                _CHINESE,
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-coder", PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, DIGIT))),
    (
        "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
        PreTokenizer((_THREE_DIGITS, _CHINESE_JAPANESE, _deepseek_words())),
    ),
    (
        "spark2_5",
        PreTokenizer(
            (
                _THREE_DIGITS,
                _CHINESE_JAPANESE,
                _deepseek_words(signs=r" ?[\p{P}\p{S}]+", line_ends=r"[\r\n]"),
                DIGIT,
            )
        ),
    ),
    ("afmoe", PreTokenizer((_THOUSANDS, _ASIAN, _deepseek_words()))),
    ("poro-chat bloom gpt3-finnish", PreTokenizer((_BLOOM_WORDS,))),
    ("viking", PreTokenizer((_BLOOM_WORDS, DIGIT))),
    ("superbpe", PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
    (
        "chameleon",
        PreTokenizer(
            (
                r"<sentinel:[0-9]+>",
                r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2_WORDS,
            ),
            add_bos=True,
        ),
    ),
)

PRE_TOKENIZERS = {name: rules for names, rules in _FAMILIES for name in names.split()}


def pre_tokenizer(name: object) -> PreTokenizer:
    """The rules called ``name``; a file without a name (None) means "default", as in llama.cpp."""
    if name is None:
        return _DEFAULT
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"'tokenizer.ggml.pre' is {name!r}, a way to cut words that is not known here.",
            hint=did_you_mean(str(name), PRE_TOKENIZERS) + " The setting `pre_tokenizer` takes one of them.",
            param="tokenizer.ggml.pre",
        )
    return PRE_TOKENIZERS[name]
