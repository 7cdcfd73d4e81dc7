"""Chat messages to a prompt, by the Jinja template of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

from shimmy.errors import TemplateError
from shimmy.text.budget import OutOfBudget
from shimmy.text.literal import control_texts
from shimmy.text.tokenizer import Tokenizer

#: Longest prompt a template may write, in characters; ends loops that only print.
MAX_PROMPT_CHARACTERS = 32 * 2**20


class TemplateLimitError(TemplateError):
    """The template does more than one run of it may."""


class ChatTemplate:
    """A compiled chat template; ``name`` is the model (or family) it belongs to, for errors.

    ``bos`` and ``eos`` are the texts the template knows as ``bos_token`` and ``eos_token``;
    ``stops`` are texts that end an answer where no token does.
    """

    def __init__(self, source: str, *, bos: str, eos: str, name: str, stops: tuple[str, ...] = ()) -> None:
        from jinja2 import TemplateSyntaxError

        from shimmy.text.sandbox import CompiledTemplate

        self.source = source
        self.name = name
        self.stops = stops
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = CompiledTemplate(source)
        except TemplateSyntaxError as error:
            raise self._unusable(f"is not valid Jinja: line {error.lineno}: {error.message}") from error
        except OutOfBudget as error:
            raise self._unusable(str(error)) from error
        except Exception as error:  # a stranger's text: nested too deeply, a number of thousands of digits
            raise self._unusable(f"cannot be compiled: {error or type(error).__name__}") from error

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> list[int]:
        """Ids of the prompt for ``messages``, with BOS once if the model wants it.

        Control tokens are those the template writes: where a message, a tool or ``extra`` spells
        one, it stays text. Raises what :meth:`render` raises.
        """
        marked = control_texts(tokenizer.control_texts).marked
        text = self.render(
            marked(messages),
            add_generation_prompt=add_generation_prompt,
            tools=marked(tools),
            **marked(extra),
        )
        return encode_chat(text, tokenizer)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for ``messages``; ``extra`` are further variables some templates know.

        Raises :class:`TemplateError` with the template's own message where it refuses them.
        """
        from shimmy.text.sandbox import RefusedByTemplate

        variables: dict[str, Any] = {
            "documents": None,
            **extra,
            **self._tokens,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._bounded(variables)
        except RefusedByTemplate as refusal:
            raise TemplateError(
                f"the chat template of {self.name} refuses the messages: {refusal}", param="messages"
            ) from refusal
        except OutOfBudget as error:
            raise TemplateLimitError(
                f"the chat template of {self.name} {error}{_line(error)}.",
                hint="Send fewer or shorter messages, or set another chat template for this model.",
                param="messages",
            ) from error
        except Exception as error:  # a template is a program: anything may happen inside
            reason = _sentence(str(error) or type(error).__name__)
            raise TemplateError(
                f"the chat template of {self.name} failed{_line(error)}: {reason}",
                hint="Check that the messages have the roles and the content it expects.",
                param="messages",
            ) from error

    def _bounded(self, variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.pieces(variables):
            size += len(piece)
            if size > MAX_PROMPT_CHARACTERS:
                raise OutOfBudget(f"writes more than {MAX_PROMPT_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _unusable(self, what: str) -> TemplateError:
        return TemplateError(
            f"the chat template of {self.name} {_sentence(what)}",
            hint="Set another chat template for this model.",
        )


def chat_template_of(
    metadata: Mapping[str, Any],
    tokenizer: Tokenizer,
    variant: str | None = None,
    *,
    carrier: Path | None = None,
) -> ChatTemplate | None:
    """The template a GGUF file carries for itself, or None; ``variant`` names one of several.

    Errors name the ``carrier``, a file that the template comes from instead, else the model.
    """
    key = f"tokenizer.chat_template.{variant}" if variant else "tokenizer.chat_template"
    source = metadata.get(key)
    if source is None:
        return None
    name = str(carrier or metadata.get("general.name", "this model"))
    if not isinstance(source, str):
        raise TemplateError(f"'{key}' of {name} is of type {type(source).__name__}; expected a string.")
    return make_template(source, tokenizer, name=name)


def make_template(
    source: str, tokenizer: Tokenizer, *, name: str, stops: tuple[str, ...] = ()
) -> ChatTemplate:
    """A template that writes the BOS and EOS of ``tokenizer``."""
    bos, eos = (
        "" if token is None else tokenizer.token_text(token) for token in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return ChatTemplate(source, bos=bos, eos=eos, name=name, stops=stops)


def encode_chat(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a rendered chat: its control tokens count, and BOS comes once if the model wants it.

    Messages of users belong into :meth:`ChatTemplate.encode`: here, what they spell counts too.
    """
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    # Most templates write BOS themselves; two of them would harm as much as none.
    if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        return [tokenizer.bos_id, *ids]
    return ids


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _line(error: Exception) -> str:
    """Where in the template it happened: jinja2 makes template lines look like frames."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f" in line {lines[-1]}" if lines else ""
