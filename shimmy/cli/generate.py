"""``shimmy generate``: one answer on the terminal, without a server."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shimmy.cli.common import bootstrap, settings_options

if TYPE_CHECKING:
    from shimmy.engine.engine import Engine
    from shimmy.engine.protocol import Sampling
    from shimmy.text.tokenizer import Tokenizer

# Typer shows parameter names, so they are those of the HTTP API.


@settings_options("engine_backend", "threads", "max_ctx", "models_dir")
def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model of `shimmy list`.")],
    prompt: Annotated[str, typer.Option(help="What to answer, or to continue with --raw.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt, without chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from this share of likelihood.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from this many tokens; 0: from all.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats an answer; default: random.")] = None,
) -> None:
    """Answer a prompt on standard output, word by word."""
    from shimmy.discovery.catalog import Catalog
    from shimmy.engine.load import load_engine
    from shimmy.engine.protocol import EngineSettings, Sampling
    from shimmy.gguf.reader import open_gguf
    from shimmy.text.tokenizer import load_tokenizer

    settings, plugins = bootstrap(ctx)
    card = Catalog(settings, plugins).get(name)
    with open_gguf(card.path) as file:
        metadata = file.metadata
    tokenizer = load_tokenizer(metadata, plugins.tokenizers)
    tokens = _prompt_tokens(prompt, metadata, tokenizer, raw=raw)
    engine = load_engine(
        card.path, card.name, EngineSettings.of(settings), plugins, lambda _phase, _done, _total: None
    ).engine
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=secrets.randbits(63) if seed is None else seed,
    )
    try:
        for piece in _answer(engine, tokenizer, tokens, max_tokens, sampling):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    finally:
        engine.close()


def _prompt_tokens(prompt: str, metadata: Mapping[str, Any], tokenizer: Tokenizer, *, raw: bool) -> list[int]:
    """The prompt as a user's turn where the model has a chat template, else as it stands."""
    from shimmy.text.chat import chat_template_of, encode_chat

    template = None if raw else chat_template_of(metadata, tokenizer)
    if template is None:
        return tokenizer.encode(prompt)
    return encode_chat(template.render([{"role": "user", "content": prompt}]), tokenizer)


def _answer(
    engine: Engine, tokenizer: Tokenizer, tokens: list[int], max_tokens: int, sampling: Sampling
) -> Iterator[str]:
    """The pieces of text of one answer, as the engine makes them."""
    from shimmy.engine.protocol import Submit
    from shimmy.text.stream import TextStream

    text = TextStream(tokenizer)
    engine.submit(Submit(1, tokens, max_tokens, sampling, sorted(tokenizer.stop_ids)))
    while not engine.idle:
        for event in engine.step():
            if event.error:
                raise event.error.to_error()
            if event.token is not None:
                yield text.push([event.token])
    yield text.flush()
