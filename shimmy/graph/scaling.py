"""How a model's rotary frequencies are scaled: data, read from the file, the same for every engine.

The numbers that follow from it are in :mod:`shimmy.graph.rope`; this module needs no NumPy. Parts
compose in one order: the file's divisor per pair, its linear divisor, YaRN over both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from shimmy.errors import GGUFError, did_you_mean
from shimmy.gguf.params import read_params

if TYPE_CHECKING:
    from shimmy.graph.tensors import TensorTable

#: Values of ``rope.scaling.type``.
KINDS = ("none", "linear", "yarn", "llama3", "longrope")
#: The paper's choice of beta and alpha.
BETA_FAST, BETA_SLOW = 32.0, 1.0


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): slow pairs interpolated, fast ones kept."""

    factor: float
    """How many times the original context is stretched: s of the paper."""
    original_context: float
    """Positions the unstretched frequencies were trained for: L of the paper."""
    beta_fast: float = BETA_FAST
    """Pairs with more rotations than this within the original context are kept."""
    beta_slow: float = BETA_SLOW
    """Pairs with fewer rotations than this are interpolated."""
    kept_share: float = 1.0
    """What "kept" means: 1 is wholly, 0 would interpolate every pair."""
    log_multiplier: float = 0.0
    """Divides the temperature by that of another slope, as DeepSeek's ``mscale_all_dim`` does."""
    attention: float | None = None
    """The file's own magnitude; None follows from the factor."""

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines: 1/sqrt(t) = 0.1 ln s + 1, the attention temperature."""
        if self.attention is not None:
            return self.attention
        stretch = 0.1 * math.log(max(self.factor, 1.0))
        return (stretch + 1.0) / (stretch * self.log_multiplier + 1.0)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """What every rotation of a model has in common besides its base; the default changes nothing."""

    linear: float = 1.0
    """Every frequency is divided by this."""
    factors: str | None = None
    """Name of the tensor with a divisor per pair (llama3, longrope), if there is one."""
    yarn: Yarn | None = None
    magnitude: float = 1.0
    """Factor on cosines and sines, besides that of YaRN."""
    longrope: bool = False
    """Whether the divisors are one of LongRoPE's two sets."""

    @property
    def kind(self) -> str:
        """For people: "none", "linear", "yarn", ..., or several in their order: "llama3+yarn"."""
        parts = {
            "longrope": self.longrope,
            "llama3": self.factors is not None and not self.longrope,
            "linear": self.linear != 1.0,
            "yarn": self.yarn is not None,
        }
        return "+".join(name for name, present in parts.items() if present) or "none"

    @property
    def factor(self) -> float:
        """The divisor of the slowest pair, not counting a tensor's."""
        return self.linear * (self.yarn.factor if self.yarn else 1.0)

    def stretched(self, factor: float, original_context: float) -> RopeScaling:
        """This scaling with its context ``original_context`` stretched ``factor`` times by YaRN.

        A model with a YaRN of its own keeps the rest of that one's parameters, not its magnitude,
        which belongs to its factor. A factor of 1 is no YaRN.
        """
        if factor == 1.0:
            return replace(self, yarn=None)
        yarn = self.yarn or Yarn(factor, original_context / self.linear)
        return replace(self, yarn=replace(yarn, factor=factor, attention=None))


PLAIN = RopeScaling()


@dataclass(frozen=True)
class _Keys:
    """The metadata keys of an architecture that tell its scaling.

    ``rope.scaling.finetuned`` is not among them: it says where weights come from, not what to compute.
    """

    context_length: int | None = None
    rope__scaling__type: str | None = None
    rope__scaling__factor: float | None = None
    rope__scaling__original_context_length: int | None = None
    rope__scaling__attn_factor: float | None = None
    rope__scaling__yarn_log_multiplier: float = 0.0
    rope__scaling__yarn_ext_factor: float = 1.0
    rope__scaling__yarn_attn_factor: float = 1.0
    rope__scaling__yarn_beta_fast: float = BETA_FAST
    rope__scaling__yarn_beta_slow: float = BETA_SLOW
    rope__scale_linear: float | None = None
    """The older name of the factor."""

    @property
    def factor(self) -> float | None:
        """The factor, if the file has one."""
        return self.rope__scaling__factor or self.rope__scale_linear or None

    @property
    def original_context(self) -> int | None:
        return self.rope__scaling__original_context_length or self.context_length

    @property
    def stretch(self) -> float | None:
        """Trained context over original context; None if the file lacks them, or it is below 1."""
        if not self.context_length or not self.original_context:
            return None
        return max(1.0, self.context_length / self.original_context)


def read_scaling(
    metadata: Mapping[str, Any], architecture: str, tensors: TensorTable, context: int
) -> RopeScaling:
    """The scaling a model was trained with, for a context of ``context`` positions.

    The context matters to LongRoPE alone: its long divisors serve contexts above the original one.

    Raises:
        GGUFError: the kind is unknown, or a key or tensor it needs is missing or senseless.
    """
    keys = read_params(_Keys, metadata, architecture)
    _check(keys, architecture)
    kind = _kind(keys, architecture, tensors)
    if kind == "longrope":
        return _longrope(keys, architecture, tensors, context)
    freqs = "rope_freqs.weight"
    if kind == "llama3" and freqs not in tensors:
        raise GGUFError(
            f"'{architecture}.rope.scaling.type' is 'llama3', but the file has no tensor {freqs!r}.",
            hint="Convert the model anew with a current converter.",
        )
    return RopeScaling(
        linear=(keys.factor or 1.0) if kind == "linear" else 1.0,
        factors=freqs if freqs in tensors else None,
        yarn=_yarn(keys, architecture) if kind == "yarn" else None,
        magnitude=keys.rope__scaling__attn_factor or 1.0,
    )


def _check(keys: _Keys, architecture: str) -> None:
    """Every number is finite and not below 0; a 0 is as good as none."""
    for field in fields(keys):
        value = getattr(keys, field.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            key = f"{architecture}.{field.name.replace('__', '.')}"
            raise GGUFError(
                f"metadata {key!r} is {value}, expected a finite number, 0 or above.",
                hint="Convert the model anew with a current converter.",
            )


def _kind(keys: _Keys, architecture: str, tensors: TensorTable) -> str:
    """One of KINDS; converters leave the type out for llama3 and longrope, whose tensors tell."""
    kind = keys.rope__scaling__type
    if kind is None:
        sets = ("rope_factors_long.weight", "rope_factors_short.weight")
        if "rope_freqs.weight" not in tensors and any(each in tensors for each in sets):
            return "longrope"
        return "linear" if keys.factor else "none"
    if kind not in KINDS:
        raise GGUFError(
            f"'{architecture}.rope.scaling.type' is {kind[:40]!r}, which shimmy does not know.",
            hint=did_you_mean(kind[:40], KINDS),
        )
    # Nothing kept is interpolation of all pairs.
    return "linear" if kind == "yarn" and keys.rope__scaling__yarn_ext_factor == 0 else kind


def _yarn(keys: _Keys, architecture: str) -> Yarn:
    factor = keys.factor or keys.stretch
    if factor is None or keys.original_context is None:
        raise GGUFError(
            f"'{architecture}.rope.scaling.type' is 'yarn', but the file does not say by what factor, "
            "or from what context.",
            hint=f"Add '{architecture}.rope.scaling.factor' and '.original_context_length'.",
        )
    own = keys.rope__scaling__yarn_attn_factor
    return Yarn(
        factor=factor,
        original_context=keys.original_context,
        beta_fast=keys.rope__scaling__yarn_beta_fast or BETA_FAST,
        beta_slow=keys.rope__scaling__yarn_beta_slow or BETA_SLOW,
        kept_share=keys.rope__scaling__yarn_ext_factor,
        log_multiplier=keys.rope__scaling__yarn_log_multiplier,
        # 1 is what the format has for "nothing of its own".
        attention=own if own not in (0.0, 1.0) else None,
    )


def _longrope(keys: _Keys, architecture: str, tensors: TensorTable, context: int) -> RopeScaling:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): sqrt(1 + ln s / ln L) unless the file has its own."""
    original, stretch = keys.original_context, keys.factor or keys.stretch
    name = f"rope_factors_{'long' if original and context > original else 'short'}.weight"
    if original is None or stretch is None or name not in tensors:
        raise GGUFError(
            f"{architecture!r} with rope scaling 'longrope' needs "
            f"'{architecture}.rope.scaling.original_context_length' and the tensor {name!r}.",
            hint="Convert the model anew with a current converter.",
        )
    magnitude = math.sqrt(1.0 + math.log(max(stretch, 1.0)) / math.log(max(original, 2)))
    own = keys.rope__scaling__attn_factor
    return RopeScaling(factors=name, magnitude=own or magnitude, longrope=True)
