"""Tokenizers whose encoding is a pipeline of the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.models import Model
from tokenizers.normalizers import Normalizer, Replace
from tokenizers.normalizers import Sequence as Steps
from tokenizers.pre_tokenizers import PreTokenizer

from shimmy.text.tokenizer import MARK
from shimmy.text.vocabulary import CONTROL_TYPES, TokenType, Vocabulary
from shimmy_plugins.tokenizers.base import VocabularyTokenizer, without_surrogates

#: Stands for MARK in the library, which takes no surrogates: a code point that no text should hold.
_STAND_IN = "\ufdd0"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps from text to ids, and the way back for one token's text."""

    model: Model
    to_bytes: Callable[[str], bytes]
    """The bytes that a normal token's text stands for."""
    normalizer: Normalizer | None = None
    pre_tokenizer: PreTokenizer | None = None
    space_prefix: bool = False
    """``normalizer`` puts a space before the text, so ``decode`` takes it away."""
    swallow_space: Collection[str] = ()
    """Special tokens that take the whitespace after them."""
    added: Mapping[str, AddedToken] = field(default_factory=dict)
    """Special tokens that say themselves how they are found in a text."""

    def found_as(self, text: str) -> AddedToken:
        """How a special token is found in a text."""
        rstrip = text in self.swallow_space
        return self.added.get(text) or AddedToken(text, normalized=False, rstrip=rstrip)


class PipelineTokenizer(VocabularyTokenizer):
    """A tokenizer over a vocabulary and a pipeline."""

    def __init__(self, vocabulary: Vocabulary, pipeline: Pipeline) -> None:
        super().__init__(vocabulary, pipeline.to_bytes, space_prefix=pipeline.space_prefix)
        self._pipeline = pipeline
        # Several encoders over one shared model, since a switch on one would not be thread-safe.
        defined = vocabulary.ids(TokenType.USER_DEFINED)
        self._whole = defined | vocabulary.ids(*CONTROL_TYPES)
        self._plain = _Encoder(pipeline, defined)
        self._special = _Encoder(pipeline, self._whole)

    @cached_property
    def _marked(self) -> _Encoder:
        """Finds control tokens, then removes the marks inside others. Rarely needed."""
        return _Encoder(self._pipeline, self._whole, removed=_STAND_IN)

    def _encode_plain(self, text: str) -> list[int]:
        return self._plain.ids(text)

    def _encode_special(self, text: str) -> list[int]:
        if MARK not in text:
            return self._special.ids(text)
        return self._marked.ids(text.replace(_STAND_IN, "\ufffd").replace(MARK, _STAND_IN))


class _Encoder:
    """The pipeline, run on what lies between the texts in ``whole``; of those, the longest first."""

    def __init__(self, pipeline: Pipeline, whole: Mapping[str, int], *, removed: str = "") -> None:
        self._encoder = Encoder(pipeline.model)
        steps: list[Normalizer] = [Replace(removed, "")] if removed else []
        if pipeline.normalizer is not None:
            steps.append(pipeline.normalizer)
        if steps:
            self._encoder.normalizer = Steps(steps)
        if pipeline.pre_tokenizer is not None:
            self._encoder.pre_tokenizer = pipeline.pre_tokenizer
        self._encoder.add_tokens([pipeline.found_as(text) for text in whole])
        # The library gives new ids to texts that the model does not have.
        new_ids = {text: self._encoder.token_to_id(text) for text in whole}
        self._moved = {new_ids[text]: token for text, token in whole.items() if new_ids[text] != token}

    def ids(self, text: str) -> list[int]:
        # A batch of one: alone, a text is encoded under Python's lock, which would hold up the server.
        [encoding] = self._encoder.encode_batch_fast([without_surrogates(text)], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return [self._moved.get(token, token) for token in ids] if self._moved else ids
