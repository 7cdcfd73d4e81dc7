"""``shimmy generate``: one answer on the terminal, without a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shimmy.cli.common import (
    ENGINE,
    FINDING,
    NAMING,
    SAMPLING,
    TEXT,
    ModelName,
    bootstrap,
    find_model,
    settings_options,
)
from shimmy.cli.output import print_json

if TYPE_CHECKING:
    from shimmy.cli.inprocess import Answer
    from shimmy.engine.protocol import Submit
    from shimmy.server.text import ModelText

#: Tokens of an answer that has no end of its own, where nobody says how many.
RAW_TOKENS = 64

# Typer shows parameter names, so they are those of the HTTP API.


@settings_options(*SAMPLING, *FINDING, *NAMING, *TEXT, *ENGINE)
def command(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What to answer, or to continue; - reads standard input.")
    ],
    name: ModelName = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt, without chat template.")] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before the prompt.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print words as they come, or the whole at its end.")
    ] = True,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest answer; default: to its end, with --raw 64."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text. May be repeated.")
    ] = None,
    presence_penalty: Annotated[
        float, typer.Option(min=-2, max=2, metavar="VALUE", help="Penalty on tokens answered before, once.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float,
        typer.Option(min=-2, max=2, metavar="VALUE", help="Penalty on tokens answered before, each time."),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(min=-(2**63), max=2**63 - 1, metavar="N", help="Repeats an answer; default: random."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer and its facts as JSON.")] = False,
) -> None:
    """Answer a prompt on standard output, word by word."""
    from shimmy.cli.inprocess import Answer, adapters_of, loaded_engine
    from shimmy.engine.protocol import Submit
    from shimmy.server.generation import room_for_answer
    from shimmy.server.sampling import SamplingFields, choose_sampling
    from shimmy.server.text import read_text
    from shimmy.text.stream import TextStream

    settings, plugins = bootstrap(ctx)
    card = find_model(settings, plugins, name)
    text = read_text(card, settings, plugins)
    told = None if system is None else _given("--system", system)
    asked = _ask(text, _given("--prompt", prompt), told, raw=raw)
    # Before the load, which takes longest: an empty stop is refused here.
    shown = TextStream(text.tokenizer, (*(stop or ()), *asked.stops))
    fields = SamplingFields(presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, seed=seed)
    sampling = choose_sampling([fields], text.sampling, text.tokenizer.vocab_size)
    with loaded_engine(card, settings, plugins, quiet=json) as loaded:
        room = room_for_answer(loaded.ready, len(asked.tokens), max_tokens, asked.default_tokens)
        stops, adapters = sorted(text.stop_ids), adapters_of(card)
        request = Submit(1, asked.tokens, room, sampling, stops, adapters=adapters)
        answer = Answer(loaded.engine, shown, request)
        if json:
            response = "".join(answer)
            print_json({"model": card.name, "response": response, **_facts(request, answer)})
        else:
            _print(answer, stream=stream)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt as the engine takes it, and how its answer ends where nothing else is said."""

    tokens: list[int]
    stops: tuple[str, ...] = ()
    default_tokens: int | None = None
    """None: to the end."""


def _ask(text: ModelText, prompt: str, system: str | None, *, raw: bool) -> _Asked:
    """The prompt as a user's turn, or, raw or for a model without a chat template, as it stands.

    Raises:
        TemplateError: the template refuses the messages, or ``system`` is given and there is none.
    """
    if raw and system is not None:
        raise typer.BadParameter("it needs a chat template; leave out --raw.", param_hint="'--system'")
    if not raw and text.chat.template is None and system is None:
        note = f"the prompt is continued as it stands, as with --raw: {text.chat.reason}"
        print(f"note: {note}", file=sys.stderr)
        raw = True
    if raw:
        return _Asked(text.tokenizer.encode(prompt, parse_special=True), default_tokens=RAW_TOKENS)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return _Asked(text.chat.require().encode(messages, text.tokenizer), text.chat_stops)


def _print(answer: Iterable[str], *, stream: bool) -> None:
    """Print the answer's text as it comes, or the whole at its end."""
    if not stream:
        print("".join(answer))
        return
    try:
        for piece in answer:
            print(piece, end="", flush=True)
    finally:
        # Also after Ctrl-C: whatever comes next begins a line.
        print(flush=True)


def _facts(request: Submit, answer: Answer) -> dict[str, Any]:
    """What there is to tell of an answer besides its text."""
    usage = {
        "prompt_tokens": len(request.tokens),
        "completion_tokens": answer.tokens,
        "total_tokens": len(request.tokens) + answer.tokens,
    }
    return {"done_reason": answer.finish, "seed": request.sampling.seed, "usage": usage}


def _given(flag: str, text: str) -> str:
    """The text, from standard input if it is ``-``, less the end of its last line."""
    try:
        if text == "-":
            return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise typer.BadParameter(f"it is not UTF-8: {error.reason}.", param_hint=f"'{flag}'") from None
    return text
