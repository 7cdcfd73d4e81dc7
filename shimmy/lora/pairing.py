"""Which base an adapter belongs to: by the name its trainer wrote down, then by its shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shimmy.errors import AdapterError, ModelError
from shimmy.gguf.parts import model_stem
from shimmy.gguf.reader import open_gguf, peek_gguf
from shimmy.huggingface.names import TensorNames
from shimmy.lora.adapter import Adapter

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard

#: Endings that say how weights are stored, not which they are.
_STORED = re.compile(
    r"-(?:(?:unsloth-)?bnb-4bit|gguf|hf|mlx|awq|gptq|dynamic|ud|[48]bit|i?q\d(?:-[a-z0-9]{1,2})*|b?f16|f32|fp16)$"
)
#: Bases of equal shapes that a message names.
_NAMED = 3


@dataclass(frozen=True)
class Candidate:
    """A base that an adapter may belong to."""

    card: ModelCard

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Of a folder of Hugging Face's, which has none yet, only the architecture."""
        if self.card.path.is_dir():
            return {"general.architecture": self.card.architecture}
        return peek_gguf(self.card.path)[0]

    @cached_property
    def names(self) -> frozenset[str]:
        """Its own names, comparable."""
        said = [self.metadata.get(f"general.{key}") for key in ("basename", "size_label", "finetune")]
        basename, size, finetune = (text if isinstance(text, str) else "" for text in said)
        own = [self.card.name, model_stem(self.card.path), self.metadata.get("general.name")]
        if basename:
            own += [f"{basename}-{size}-{finetune}", f"{basename}-{finetune}-{size}"]
        return frozenset(comparable(name) for name in own if isinstance(name, str)) - {""}

    @cached_property
    def origins(self) -> frozenset[str]:
        """What it was made of, as its file says."""
        keys = ("name", "repo_url")
        said = (self.metadata.get(f"general.base_model.0.{key}") for key in keys)
        return frozenset(comparable(name) for name in said if isinstance(name, str)) - {""}


def comparable(name: str) -> str:
    """``unsloth/Llama-3.2_1B-bnb-4bit`` as ``llama-3-2-1b``: the last part, without how it is stored."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    text = re.sub(r"[-_. ]+", "-", last.lower()).strip("-")
    while (shorter := _STORED.sub("", text)) != text:
        text = shorter
    return text


def choose_base(adapter: Adapter, candidates: Sequence[Candidate]) -> Candidate:
    """The base of an adapter.

    Raises:
        AdapterError: none fits, or several do and nothing tells which one is meant.
    """
    wanted = comparable(adapter.base) if adapter.base else ""
    problems: list[str] = []
    for named in (
        [c for c in candidates if wanted in c.names],
        [c for c in candidates if wanted in c.origins and wanted not in c.names],
    ):
        for candidate in named:
            if (problem := misfit(adapter, candidate)) is None:
                return candidate
            problems.append(f"{candidate.card.name!r} has its name, but {problem}")
    if problems:
        raise AdapterError(f"{adapter.path}: {problems[0]}")
    files = [candidate for candidate in candidates if not candidate.card.path.is_dir()]
    fitting = [candidate for candidate in files if misfit(adapter, candidate) is None]
    models = {candidate.names for candidate in fitting}
    if len(fitting) == 1 or (fitting and len(frozenset.intersection(*models)) > 0):
        return fitting[0]
    raise AdapterError(f"{adapter.path}: {_none(adapter, fitting)}", hint=_next_step(adapter, fitting))


def check_base(adapter: Adapter, base: ModelCard, others: Sequence[Candidate]) -> None:
    """Raise AdapterError unless the adapter fits a base that somebody named; with the models it would fit."""
    if (problem := misfit(adapter, Candidate(base))) is None:
        return
    fitting = [other.card.name for other in others if misfit(adapter, other) is None]
    hint = f"It fits {' or '.join(map(repr, fitting[:_NAMED]))}." if fitting else _next_step(adapter, [])
    raise AdapterError(f"{adapter.path}: does not fit {base.name!r}: {problem}", hint=hint)


def misfit(adapter: Adapter, candidate: Candidate) -> str | None:
    """Why an adapter does not fit a base, by names and shapes of its modules; None if it does."""
    try:
        architecture = str(candidate.metadata["general.architecture"])
        if adapter.architecture not in (None, architecture):
            return f"its architecture is {architecture!r}, the adapter's {adapter.architecture!r}."
        for module, found, expected in _differences(adapter, candidate, architecture):
            shapes = f"{found[0]} x {found[1]} there, and {expected[0]} x {expected[1]} in the adapter"
            return f"{module!r} is {shapes}."
    except ModelError as error:
        return error.message
    return None


def _differences(
    adapter: Adapter, candidate: Candidate, architecture: str
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Modules whose shapes differ: name, shape in the base, shape that the adapter needs."""
    if candidate.card.path.is_dir():
        return  # its tensors are looked at when it is loaded
    layers = candidate.metadata.get(f"{architecture}.block_count")
    names = None if adapter.format == "GGUF" else TensorNames(architecture, int(layers or 0))
    with open_gguf(candidate.card.path, skim=True) as file:
        tensors = file.tensors
    for name, module in adapter.modules.items():
        label = name if names is None else names.gguf_name(name)
        tensor = tensors.get(f"{label}.weight")
        if tensor is None or module.a is None or module.b is None:
            continue  # a tied head; whole matrices are looked at when they are loaded
        needed = (module.b.shape[0], module.a.shape[1])
        # Of an embedding A has the columns.
        if tensor.shape not in (needed, needed[::-1]):
            yield name, tensor.shape, needed


def _none(adapter: Adapter, fitting: Sequence[Candidate]) -> str:
    if fitting:
        names = ", ".join(repr(candidate.card.name) for candidate in fitting[:_NAMED])
        return f"several models have its shapes ({names}), and none is called {adapter.base!r}."
    trained = f"it was trained on {adapter.base!r}, and " if adapter.base else ""
    return f"{trained}no model at hand has its name or its shapes."


def _next_step(adapter: Adapter, fitting: Sequence[Candidate]) -> str:
    if fitting:
        return "Name the base: SHIMMY_BASE_GGUF and SHIMMY_LORA_GGUF."
    if adapter.base:
        return (
            f"Get a GGUF file of {adapter.base!r}, in any quantisation, into a folder that shimmy searches."
        )
    return "Get a GGUF file of its base into a folder that shimmy searches."
