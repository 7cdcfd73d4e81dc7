"""What a tokenizer is to the rest of shimmy, and how one is made from GGUF metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from shimmy.errors import TokenizerError, did_you_mean

if TYPE_CHECKING:
    from shimmy.registry import Registry
    from shimmy.specs import TokenizerSpec


#: A mark inside text for ``Tokenizer.encode(parse_special=True)``: no control token is read across it,
#: and it is no text itself. A lone surrogate, since no text that came as UTF-8 can hold one.
MARK = "\udcff"
#: Where GGUF metadata name the way words are cut; also the ``param`` of the error that it is not known.
PRE_TOKENIZER = "tokenizer.ggml.pre"
#: Where GGUF metadata carry a whole ``tokenizer.json``, which then decides.
HUGGINGFACE_JSON = "tokenizer.huggingface.json"


class Tokenizer(Protocol):
    """Text to ids and back. Thread-safe; no method changes what another returns."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    """Whether ``encode(add_special=True)`` puts ``bos_id`` first."""
    stop_ids: frozenset[int]
    """Ids that end a generation: EOS, end of turn, and their kind."""
    control_texts: frozenset[str]
    """Spellings of the control tokens: what counts only with ``parse_special``."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of ``text``; control tokens spelled in it count as such only with ``parse_special``.

        :data:`MARK` has its meaning with ``parse_special`` only.
        """
        ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes this token adds to a text that has begun; b"" for control tokens."""
        ...

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of the token (``<|im_end|>``)."""
        ...


#: GGUF metadata (the ``tokenizer.ggml.*`` keys) -> tokenizer.
TokenizerFactory: TypeAlias = Callable[[Mapping[str, Any]], Tokenizer]


def load_tokenizer(
    metadata: Mapping[str, Any], registry: Registry[TokenizerSpec], *, pre_tokenizer: str | None = None
) -> Tokenizer:
    """The tokenizer of a GGUF file, made by the plugin that knows its kind.

    ``pre_tokenizer`` takes the place of what the file says in :data:`PRE_TOKENIZER`.
    """
    if pre_tokenizer is not None:
        metadata = {**metadata, PRE_TOKENIZER: pre_tokenizer}
    kind = tokenizer_kind(metadata, pre_tokenizer=pre_tokenizer)
    if kind not in registry:
        raise TokenizerError(
            f"its tokenizer is {kind!r}, which no plugin handles.",
            hint=did_you_mean(kind, registry.names()),
        )
    try:
        return registry.get(kind).load()(metadata)
    except TokenizerError as error:
        if pre_tokenizer is None or error.param != PRE_TOKENIZER:
            raise
        found = (
            f"the setting `pre_tokenizer` is {pre_tokenizer!r}, a way to cut words that is not known here."
        )
        raise TokenizerError(found, hint=error.hint, param="pre_tokenizer") from None


def tokenizer_kind(metadata: Mapping[str, Any], *, pre_tokenizer: str | None = None) -> str:
    """What a file's tokenizer is: "huggingface" with a ``tokenizer.json``, else its ``tokenizer.ggml.model``.

    A pre-tokenizer that the user names has no place in a ``tokenizer.json``, so that is left aside then.

    Raises:
        TokenizerError: the file does not say.
    """
    if pre_tokenizer is None and HUGGINGFACE_JSON in metadata:
        return "huggingface"
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str):
        raise TokenizerError("the file has no 'tokenizer.ggml.model', so text cannot become tokens.")
    return model
