"""Which base an adapter belongs to: by the name its trainer wrote down, then by its shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shimmy.errors import AdapterError, GGUFError, ModelError
from shimmy.gguf.parts import model_stem
from shimmy.gguf.reader import open_gguf, peek_gguf
from shimmy.graph.shapes import matrix
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.names import TensorNames
from shimmy.lora.adapter import Adapter, Module

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard

#: Endings that say how weights are stored, not which they are.
_STORED = re.compile(
    r"-(?:(?:unsloth-)?bnb-4bit|gguf|hf|mlx|awq|gptq|dynamic|ud|[48]bit|i?q\d(?:-[a-z0-9]{1,2})*|b?f16|f32|fp16)$"
)
_MATRIX = 2
_SAME_NAME = "Is it the same model, and base_model_name_or_path right?"
#: Bases of equal shapes that a message names.
_NAMED = 3


@dataclass(frozen=True)
class Candidate:
    """A base that an adapter may belong to."""

    card: ModelCard
    problem: str | None = None
    """Why it cannot be used, as a sentence, if it cannot: then only messages name it."""

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Of a folder of Hugging Face's, which has none yet, the architecture; empty of a broken file."""
        if self.card.path.is_dir():
            return {"general.architecture": self.card.architecture}
        try:
            return peek_gguf(self.card.path)[0]
        except GGUFError:
            return {}

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
    named = [c for c in candidates if wanted in c.names]
    named += [c for c in candidates if wanted in c.origins and wanted not in c.names]
    for candidate in named:
        if candidate.problem is None and misfit(adapter, candidate) is None:
            return candidate
    fitting = _fitting(adapter, candidates)
    if named:
        raise _misnamed(adapter, named[0], fitting)
    if fitting and frozenset.intersection(*(candidate.names for candidate in fitting)):
        return fitting[0]
    if fitting:
        raise AdapterError(
            f"{adapter.path}: {_which(adapter, fitting)}",
            hint="Name the base: SHIMMY_BASE_GGUF and SHIMMY_LORA_GGUF.",
        )
    raise AdapterError(f"{adapter.path}: {_none(adapter, candidates)}", hint=_next_step(adapter))


def check_base(adapter: Adapter, base: ModelCard, others: Callable[[], Sequence[Candidate]]) -> None:
    """Raise AdapterError unless the adapter fits a base that somebody named; with the models it would fit."""
    candidate = Candidate(base)
    if (problem := misfit(adapter, candidate)) is not None:
        is_named = adapter.base is not None and comparable(adapter.base) in candidate.names
        hint = _fits(_fitting(adapter, others())) or (_SAME_NAME if is_named else _next_step(adapter))
        raise AdapterError(f"{adapter.path}: does not fit {base.name!r}: {problem}", hint=hint)


def misfit(adapter: Adapter, candidate: Candidate) -> str | None:
    """Why an adapter does not fit a base, by names and shapes of its modules; None if it does."""
    try:
        architecture = str(candidate.metadata.get("general.architecture"))
        if adapter.architecture not in (None, architecture):
            return f"its architecture is {architecture!r}, the adapter's {adapter.architecture!r}."
        for module, found, expected in _differences(adapter, candidate, architecture):
            return f"{module!r} is {_shown(found)} there, and {_shown(expected)} in the adapter."
    except ModelError as error:
        return error.message
    return None


def _differences(
    adapter: Adapter, candidate: Candidate, architecture: str
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Modules whose shapes differ: name, shape in the base, shape that the adapter needs."""
    if candidate.card.path.is_dir():
        shapes = _folder_shapes(adapter, candidate.card)
    else:
        shapes = _file_shapes(adapter, candidate, architecture)
    for name, module in adapter.modules.items():
        shape, needed = shapes(name), _needed(module)
        if shape is None or needed is None:
            continue
        # Of an embedding A has the columns.
        if needed not in (shape, shape[::-1]) and (len(shape) > _MATRIX or needed != matrix(shape)):
            yield name, shape, needed


#: The shape of a module of a base, (rows, columns); None: it is not known.
_Shapes = Callable[[str], tuple[int, ...] | None]


def _file_shapes(adapter: Adapter, candidate: Candidate, architecture: str) -> _Shapes:
    """Of a GGUF file's modules. These raise ModelError for a module that the base has not."""
    layers = candidate.metadata.get(f"{architecture}.block_count")
    names = None if adapter.format == "GGUF" else TensorNames(architecture, int(layers or 0))
    with open_gguf(candidate.card.path, skim=True) as file:
        tensors = file.tensors

    def shape(module: str) -> tuple[int, ...] | None:
        label = module if names is None else names.gguf_name(module)
        if label == "output" and "output.weight" not in tensors:
            label = "token_embd"  # the head is tied to it
        tensor = tensors.get(f"{label}.weight")
        return None if tensor is None else tensor.shape

    return shape


def _folder_shapes(adapter: Adapter, card: ModelCard) -> _Shapes:
    """Of a Hugging Face folder's modules, where the adapter has the same names."""
    tensors = {} if adapter.format == "GGUF" else ModelFolder(card.path).tensors

    def shape(module: str) -> tuple[int, ...] | None:
        tensor = tensors.get(f"{module}.weight")
        return None if tensor is None else tensor.shape

    return shape


def _needed(module: Module) -> tuple[int, ...] | None:
    """The shape that a module's matrix must have; None if nothing tells."""
    if module.a is not None and module.b is not None:
        return *module.b.shape[:-1], module.a.shape[-1]
    return None if module.weight is None else module.weight.shape


def _fitting(adapter: Adapter, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The bases of use that have its shapes; folders only where no file does."""
    usable = [candidate for candidate in candidates if candidate.problem is None]
    folders = [candidate for candidate in usable if candidate.card.path.is_dir()]
    for kind in ([each for each in usable if each not in folders], folders):
        if fitting := [candidate for candidate in kind if _has_shapes(adapter, candidate)]:
            return fitting
    return []


def _has_shapes(adapter: Adapter, candidate: Candidate) -> bool:
    """Whether a base has the adapter's shapes. Of a folder none may be known: then nothing speaks for it."""
    if misfit(adapter, candidate) is not None:
        return False
    return not candidate.card.path.is_dir() or any(
        map(_folder_shapes(adapter, candidate.card), adapter.modules)
    )


def _fits(fitting: Sequence[Candidate]) -> str | None:
    names = [repr(candidate.card.name) for candidate in fitting[:_NAMED]]
    return f"It fits {' or '.join(names)}." if names else None


def _misnamed(adapter: Adapter, candidate: Candidate, fitting: Sequence[Candidate]) -> AdapterError:
    """What is wrong with the base that the adapter's files name."""
    hint = None if candidate.problem else _SAME_NAME
    return AdapterError(
        f"{adapter.path}: {candidate.card.name!r} has the name of its base, but "
        f"{candidate.problem or misfit(adapter, candidate)}",
        hint=_fits(fitting) or hint,
    )


def _which(adapter: Adapter, fitting: Sequence[Candidate]) -> str:
    names = ", ".join(repr(candidate.card.name) for candidate in fitting[:_NAMED])
    called = f"none is called {adapter.base!r}" if adapter.base else "its files do not say which one is meant"
    return f"several models have its shapes ({names}), and {called}."


def _none(adapter: Adapter, candidates: Sequence[Candidate]) -> str:
    trained = f"it was trained on {adapter.base!r}, and " if adapter.base else ""
    for candidate in candidates:
        if candidate.problem and _has_shapes(adapter, candidate):
            return f"{trained}{candidate.card.name!r} has its shapes, but {candidate.problem}"
    shapes = ((name, _needed(module)) for name, module in adapter.modules.items())
    name, shape = next(((name, shape) for name, shape in shapes if shape), ("", None))
    needs = f" ({name!r} is {_shown(shape)})" if shape else ""
    missing = f"has its name or its shapes{needs}" if adapter.base else f"has its shapes{needs}"
    return f"{trained}no model at hand {missing}."


def _next_step(adapter: Adapter) -> str:
    name = repr(adapter.base) if adapter.base else "its base"
    return f"Get a GGUF file of {name}, in any quantisation, into a folder that shimmy searches."


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
