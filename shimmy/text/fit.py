"""Texts that are too long for a context whatever their tokens are: told without tokenizing megabytes."""

from __future__ import annotations

from shimmy.errors import ContextLengthError
from shimmy.text.tokenizer import Tokenizer


def longest_token(tokenizer: Tokenizer) -> int:
    """The most bytes of a prompt that become one token. Looks at the whole vocabulary."""
    plain = (len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
    return max(1, *plain, *(len(text.encode()) for text in tokenizer.control_texts))


def check_fits(text: str, longest: int, context: int) -> None:
    """Raise ContextLengthError for a text of more bytes than tokens of the ``longest`` could spell.

    A shorter one may still be too long. What a tokenizer drops first, such as runs of spaces, is
    counted too: nobody means megabytes of them.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    least = -(-size // longest)
    if least > context:
        raise ContextLengthError(
            f"this model's context holds {context} tokens, but the prompt's {size} bytes "
            f"are at least {least} tokens.",
            hint="Shorten the prompt, or raise max_ctx.",
            param="prompt",
        )
