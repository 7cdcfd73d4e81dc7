"""An adapter as its files say it: what it adds to which module, by the names its trainer used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from shimmy.errors import AdapterError, ModelError

if TYPE_CHECKING:
    # The server only looks at headers.
    from numpy.typing import NDArray

#: float32, or float16 where it is stored so.
Floats: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of an adapter, not read yet."""

    name: str
    """As the file calls it."""
    shape: tuple[int, ...]
    """As ``read`` gives it."""
    read: Callable[[], Floats]


@dataclass(frozen=True, slots=True)
class Module:
    """What an adapter does to one module of its base: y += scale * B(A x), and what comes with it.

    Of an embedding, A is (rank, vocabulary) and a token picks a column. All experts of a layer are one
    module, whose A is (experts, rank, in), and B (experts, out, rank).
    """

    a: Part | None = None
    """(rank, in)."""
    b: Part | None = None
    """(out, rank)."""
    scale: float = 1.0
    b_bias: Part | None = None
    """(out,): added to what B gives, so scaled as well."""
    weight: Part | None = None
    """(out, in): replaces the base's weight, whatever the scale of the adapter."""
    bias: Part | None = None
    """(out,): replaces the base's bias."""

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[-2]

    @property
    def parts(self) -> list[Part]:
        return [part for part in (self.a, self.b, self.b_bias, self.weight, self.bias) if part is not None]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's files, checked as far as they can be without its base. No weight is read yet."""

    path: Path
    """Its folder, or the GGUF file."""
    format: str
    """"PEFT", "MLX" or "GGUF"."""
    modules: Mapping[str, Module]
    """By the module's name: Hugging Face's (``model.layers.0.self_attn.q_proj``), in a GGUF file that
    of the tensor without its suffix (``blk.0.attn_q``)."""
    base: str | None = None
    """The base as the trainer named it: a repository, or a folder on its machine."""
    architecture: str | None = None
    """As GGUF names it, where the file says so."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for people: rank, alpha, targets."""

    @property
    def rank(self) -> int:
        """The largest of all modules."""
        return max((module.rank for module in self.modules.values()), default=0)

    @property
    def parameters(self) -> int:
        return sum(prod(part.shape) for m in self.modules.values() for part in m.parts)


@contextmanager
def adapter_errors(path: Path | None = None) -> Iterator[None]:
    """What is wrong with the weights or names inside becomes an AdapterError that names ``path``."""
    try:
        yield
    except ModelError as error:
        where = "" if path is None or str(path) in error.message else f"{path}: "
        raise AdapterError(f"{where}{error.message}", hint=error.hint) from error
