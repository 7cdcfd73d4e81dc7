"""A folder's tokenizer as GGUF metadata: its ``tokenizer.json``, else its ``tokenizer.model``.

The former goes along whole (``tokenizer.huggingface.json`` of the GGUF specification), and is what text is
cut by: so nothing of it can be misread. The keys of ggml say the same, as far as they can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import TokenizerError
from shimmy.huggingface.folder import SENTENCEPIECE, TOKENIZER, ModelFolder
from shimmy.huggingface.roles import Roles
from shimmy.huggingface.sentencepiece import sentencepiece_metadata
from shimmy.text.tokenizer import HUGGINGFACE_JSON, PRE_TOKENIZER
from shimmy.text.vocabulary import PREFIX, TokenType

if TYPE_CHECKING:
    from shimmy.registry import Registry
    from shimmy.specs import TokenizerSpec

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def tokenizer_metadata(
    folder: ModelFolder, rows: int | None, kinds: Registry[TokenizerSpec]
) -> dict[str, Any]:
    """The ``tokenizer.*`` keys but chat templates.

    Args:
        folder: where the files are.
        rows: tokens the model has; those up to there without a text are unused.
        kinds: know how GGUF calls a way to cut words.

    Raises:
        TokenizerError: the folder has no tokenizer, or one of a kind not known here.
        ModelError: a file cannot be read.
    """
    path = require_tokenizer(folder)
    if path.name == SENTENCEPIECE:
        return sentencepiece_metadata(folder, rows)
    try:
        vocabulary = _Vocabulary(folder.json(TOKENIZER), Roles.of(folder), rows)
        metadata = {**vocabulary.metadata(), HUGGINGFACE_JSON: folder.text(TOKENIZER)}
        recognize = kinds.get(vocabulary.kind).pre_tokenizer if vocabulary.kind in kinds else None
        if recognize and (name := recognize(vocabulary.content)):
            metadata[PRE_TOKENIZER] = name
        return metadata
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error.message}", hint=error.hint) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TokenizerError(
            f"{path}: is not as the tokenizers library writes it ({error!r:.80}).",
            hint="Copy or download the folder again.",
        ) from error


def require_tokenizer(folder: ModelFolder) -> Path:
    """The path of ``tokenizer.json``, else of ``tokenizer.model``; TokenizerError if there is neither."""
    for name in (TOKENIZER, SENTENCEPIECE):
        if (path := folder.path / name).is_file():
            return path
    raise TokenizerError(
        f"{folder.path}: has no {TOKENIZER!r} and no {SENTENCEPIECE!r}, so text cannot become tokens.",
        hint="Where it was trained: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`.",
    )


@dataclass(frozen=True)
class _Vocabulary:
    """What the files say of the tokens."""

    content: Mapping[str, Any]
    """``tokenizer.json``."""
    roles: Roles
    rows: int | None

    def metadata(self) -> dict[str, Any]:
        """GGUF keys and values."""
        keys: dict[str, Any] = {
            "model": self.kind,
            "tokens": self.tokens,
            "token_type": self._types(),
            **self.roles.ids(self._by_text, len(self.tokens)),
            "add_bos_token": self._adds("bos"),
            "add_eos_token": self._adds("eos"),
        }
        if self.kind == "t5":
            scores = [float(score) for _, score in self.model["vocab"]]
            keys["scores"] = scores + [0.0] * (len(self.tokens) - len(scores))
        else:
            keys["merges"] = self.merges
        if self.kind == "llama":
            keys["scores"] = self._scores()
            keys["add_space_prefix"] = self._has("Prepend") or self._has("Metaspace")
        return {PREFIX + key: value for key, value in keys.items()}

    @property
    def model(self) -> Mapping[str, Any]:
        model: Mapping[str, Any] = self.content["model"]
        return model

    @cached_property
    def kind(self) -> str:
        """As ``tokenizer.ggml.model`` calls it."""
        # Old files leave the type of the commonest out.
        kind = self.model.get("type", "BPE")
        if kind == "BPE":
            return "gpt2" if self._has("ByteLevel") else "llama"
        if kind == "Unigram":
            return "t5"
        raise TokenizerError(f"its model is of the type {kind!r:.40}, expected BPE or Unigram.")

    @cached_property
    def tokens(self) -> list[str]:
        """By id."""
        texts = {token: text for text, token in self._base.items()}
        size = max(texts, default=-1) + 1
        if self.rows is not None and size > self.rows:
            raise TokenizerError(f"has {size} tokens, the model only {self.rows}.")
        added = {each["id"]: each["content"] for each in self._added}
        size = self.rows or max([size - 1, *added]) + 1
        texts |= added
        return [texts.get(token, f"[PAD{token}]") for token in range(size)]

    @property
    def merges(self) -> list[str]:
        """Pairs of tokens, the first to be merged first."""
        return [merge if isinstance(merge, str) else " ".join(merge) for merge in self.model["merges"]]

    @cached_property
    def _base(self) -> Mapping[str, int]:
        """Tokens that text is merged to."""
        vocabulary = self.model["vocab"]
        if isinstance(vocabulary, list):
            return {text: token for token, (text, _) in enumerate(vocabulary)}
        return {str(text): int(token) for text, token in vocabulary.items()}

    @cached_property
    def _added(self) -> list[Mapping[str, Any]]:
        """Tokens found before text is cut; those that the model has no row for can never be."""
        added: list[Mapping[str, Any]] = self.content.get("added_tokens") or []
        return [token for token in added if self.rows is None or token["id"] < self.rows]

    @cached_property
    def _by_text(self) -> Mapping[str, int]:
        return {**self._base, **{each["content"]: each["id"] for each in self._added}}

    def _types(self) -> list[int]:
        types = [int(TokenType.UNUSED)] * len(self.tokens)
        for text, token in self._base.items():
            is_byte = self.kind != "gpt2" and _BYTE.fullmatch(text)
            types[token] = TokenType.BYTE if is_byte else TokenType.NORMAL
        for each in self._added:
            types[each["id"]] = TokenType.CONTROL if each["special"] else TokenType.USER_DEFINED
        if (unknown := self._unknown()) is not None:
            types[unknown] = TokenType.UNKNOWN
        return list(map(int, types))

    def _unknown(self) -> int | None:
        """The token for characters that have none; byte-level vocabularies need none."""
        if self.kind == "t5":
            return self.model.get("unk_id")
        return self._by_text.get(self.model.get("unk_token") or "") if self.kind == "llama" else None

    def _adds(self, role: str) -> bool:
        """Whether a text gets this token at its end."""
        if (explicit := self.roles.adds(role)) is not None:
            return explicit
        place = 0 if role == "bos" else -1
        token = self.roles.token(role, self._by_text)
        ends = [template["single"][place] for template in self._parts("post_processor", "TemplateProcessing")]
        return any(
            token is not None and self._by_text.get(end["SpecialToken"]["id"]) == token
            for end in ends
            if "SpecialToken" in end
        )

    def _scores(self) -> list[float]:
        """Scores that merge in the order of the merges."""
        scores = [-1.0 - len(self.merges)] * len(self.tokens)
        for rank, merge in reversed(list(enumerate(self.merges, 1))):
            if (token := self._base.get(merge.replace(" ", ""))) is not None:
                scores[token] = -float(rank)
        return scores

    def _has(self, kind: str) -> bool:
        steps = ("normalizer", "pre_tokenizer", "decoder")
        return any(True for step in steps for _ in self._parts(step, kind))

    def _parts(self, step: str, kind: str) -> Iterator[Mapping[str, Any]]:
        """The parts of this type of one step, however deep in sequences."""
        waiting = [self.content.get(step)]
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += part
            elif isinstance(part, dict):
                if part.get("type") == kind:
                    yield part
                waiting += [value for value in part.values() if isinstance(value, list)]
