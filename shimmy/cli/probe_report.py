"""What ``shimmy probe`` finds out about a model, as data and as lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shimmy.cli.inprocess import Answer, adapters_of, loaded_engine
from shimmy.cli.output import readable_context, readable_count, readable_size
from shimmy.engine.protocol import Ready, Sampling, Submit
from shimmy.gguf.reader import GGUFFile, open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.lora.facts import adapter_facts
from shimmy.lora.read import read_adapter
from shimmy.server.text import ModelText, read_text
from shimmy.text.stream import TextStream
from shimmy.text.tokenizer import tokenizer_kind

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.engine import Engine
    from shimmy.plugins import Plugins
    from shimmy.registry import Registry
    from shimmy.settings import Settings
    from shimmy.text.tokenizer import Tokenizer

TRIAL_PROMPT = "Hello"
TRIAL_TOKENS = 8

Report = dict[str, Any]


def probe(card: ModelCard, settings: Settings, plugins: Plugins, *, quiet: bool) -> Report:
    """Load the model and let it write a few tokens; what there is to tell, as JSON takes it.

    Raises whatever is wrong with it.
    """
    text = read_text(card, settings, plugins)
    with loaded_engine(card, settings, plugins, quiet=quiet) as loaded:
        trial = _trial(loaded.engine, text, adapters_of(card))
    with open_gguf(loaded.file, skim=True) as file:
        metadata, types = file.metadata, _bytes_by_type(file, plugins)
    facts = loaded.ready
    kind = tokenizer_kind(metadata, pre_tokenizer=settings.pre_tokenizer)
    return {
        "model": {
            "name": card.name,
            "path": str(card.path),
            "architecture": facts.architecture,
            "parameters": card.parameters,
            "size_bytes": card.size_bytes,
            "bytes_by_type": types,
        },
        "adapter": None
        if card.adapter is None
        else adapter_facts(read_adapter(card.adapter, plugins.quant_types)),
        "context": _context(facts),
        "memory": _memory(facts),
        "template": {"name": text.chat.name, "reason": text.chat.reason},
        "tokenizer": {
            "kind": kind,
            "pre": settings.pre_tokenizer or metadata.get("tokenizer.ggml.pre"),
            "vocabulary": text.tokenizer.vocab_size,
            "add_bos": text.tokenizer.add_bos,
            "special": _special(text),
        },
        "engine": _engine(facts),
        "plugins": _involved(plugins, card, facts, text.chat.name, kind, types),
        "trial": trial,
        "load_seconds": round(facts.seconds, 3),
        "load_phases": {phase: round(seconds, 3) for phase, seconds in facts.phases.items()},
    }


def as_facts(report: Report) -> Iterator[tuple[str, str]]:
    """The report as lines for people: what each is about, and what there is to say."""
    model, context, engine = report["model"], report["context"], report["engine"]
    yield "model", f"{model['architecture']}, {readable_count(model['parameters'])} parameters"
    yield "file", f"{model['path']}, {readable_size(model['size_bytes'])}"
    if adapter := report["adapter"]:
        yield "adapter", f"{adapter['path']} ({adapter['format']})"
        yield "", f"rank {adapter['rank']}, {readable_count(adapter['parameters'])} parameters"
        yield from (("", f"{name} {value:.6g}") for name, value in adapter["training"].items())
    yield "types", _shares(model["bytes_by_type"])
    yield (
        "context",
        readable_context(context["effective"], context["native"], context["rope"], context["rope_factor"]),
    )
    yield from _memory_facts(report["memory"], context["effective"])
    template = report["template"]
    yield "template", f"{template['name'] or 'none'}: {template['reason']}"
    yield from _tokenizer_facts(report["tokenizer"])
    yield (
        "engine",
        f"{engine['backend']}, {engine['precision']}: {engine['description']} ({engine['reason']})",
    )
    yield "fallbacks", ", ".join(engine["fallbacks"]) or "none: all ops have kernels"
    first, *others = report["plugins"]
    yield "plugins", first
    yield from (("", plugin) for plugin in others)
    trial = report["trial"]
    yield "trial", f"{trial['tokens']} tokens in {trial['seconds']:.3g} s: {trial['text']!r}"
    phases = ", ".join(f"{phase} {seconds:.3g} s" for phase, seconds in report["load_phases"].items())
    yield "loaded in", f"{report['load_seconds']:.3g} s{f' ({phases})' * bool(phases)}"


def _bytes_by_type(file: GGUFFile, plugins: Plugins) -> dict[str, int]:
    """How many bytes of the weights are of each type, the most first."""
    specs = types_by_id(plugins.quant_types)
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        if spec := specs.get(tensor.ggml_id):
            sizes[spec.name] += file.n_bytes(tensor.name, spec)
    return dict(sizes.most_common())


def _context(facts: Ready) -> dict[str, Any]:
    return {
        "native": facts.native_context,
        "effective": facts.context,
        "rope": facts.rope_kind,
        "rope_factor": facts.rope_factor,
    }


def _engine(facts: Ready) -> dict[str, Any]:
    return {
        "backend": facts.backend,
        "reason": facts.backend_reason,
        "precision": facts.precision,
        "description": facts.description,
        "fallbacks": facts.fallbacks,
    }


def _memory(facts: Ready) -> dict[str, Any]:
    return {
        "weight_bytes": facts.weight_bytes,
        "host_weight_bytes": facts.host_weight_bytes,
        "device_bytes": facts.device_bytes,
        "kv_type": facts.kv_type,
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "kv_budget_bytes": facts.kv_memory,
        "kv_budget_tokens": facts.kv_memory // facts.kv_bytes_per_token,
    }


def _special(text: ModelText) -> dict[str, Any]:
    """The tokens with a role, by id and as the vocabulary spells them."""
    tokenizer = text.tokenizer
    return {
        "bos": _token(tokenizer, tokenizer.bos_id),
        "eos": _token(tokenizer, tokenizer.eos_id),
        "stop": [_token(tokenizer, token) for token in sorted(text.stop_ids)],
    }


def _token(tokenizer: Tokenizer, token: int | None) -> dict[str, Any] | None:
    return None if token is None else {"id": token, "text": tokenizer.token_text(token)}


def _involved(
    plugins: Plugins,
    card: ModelCard,
    facts: Ready,
    template: str | None,
    tokenizer: str,
    types: Mapping[str, int],
) -> list[str]:
    """The plugins that this model needs, with their distributions."""
    parts: list[tuple[Registry[Any], Iterable[str | None]]] = [
        (plugins.discovery_sources, [card.source]),
        (plugins.architectures, [facts.architecture]),
        (plugins.quant_types, types),
        (plugins.tokenizers, [tokenizer]),
        (plugins.chat_templates, [template]),
        (plugins.backends, [facts.backend]),
    ]
    owners = [
        registry.owner(name) for registry, names in parts for name in names if name and name in registry
    ]
    return list(dict.fromkeys(owners))


def _trial(engine: Engine, text: ModelText, adapters: list[tuple[int, float]]) -> dict[str, Any]:
    """A few likeliest tokens: whether the model computes at all, and about how fast."""
    tokens = text.tokenizer.encode(TRIAL_PROMPT)
    room = min(TRIAL_TOKENS, engine.context - len(tokens))
    request = Submit(1, tokens, room, Sampling(temperature=0.0), adapters=adapters)
    answer = Answer(engine, TextStream(text.tokenizer), request)
    started = time.monotonic()
    written = "".join(answer)
    seconds = time.monotonic() - started
    return {"prompt": TRIAL_PROMPT, "text": written, "tokens": answer.tokens, "seconds": round(seconds, 3)}


def _shares(sizes: Mapping[str, int]) -> str:
    total = sum(sizes.values())
    return ", ".join(f"{name} {size / total:.1%}" for name, size in sizes.items()) + " of the bytes"


def _memory_facts(memory: Mapping[str, Any], context: int) -> Iterator[tuple[str, str]]:
    per_token, budget = memory["kv_bytes_per_token"], memory["kv_budget_bytes"]
    there = memory["host_weight_bytes"]
    apart = f", {readable_size(there)} of them in the machine's memory" if there else ""
    yield "weights", readable_size(memory["weight_bytes"]) + apart
    if memory["device_bytes"] is not None:
        yield "GPU memory", f"{readable_size(memory['device_bytes'])} taken, more as the KV cache grows"
    yield (
        "KV cache",
        f"{memory['kv_type']}, {readable_size(per_token)} per token, "
        f"{readable_size(per_token * context)} for a whole context; grows up to "
        f"{readable_size(budget)}, {memory['kv_budget_tokens']} tokens",
    )


def _tokenizer_facts(tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pre = f", pre {tokenizer['pre']}" if tokenizer["pre"] else ""
    yield "tokenizer", f"{tokenizer['kind']}{pre}, {tokenizer['vocabulary']} tokens"
    special = tokenizer["special"]
    named = [f"{role} {_shown(special[role])}" for role in ("bos", "eos") if special[role]]
    ends = ", ".join(_shown(token) for token in special["stop"])
    yield "", "; ".join([*named, f"answers end at {ends or 'no token'}"])


def _shown(token: Mapping[str, Any]) -> str:
    return f"{token['id']} {token['text']!r}"
