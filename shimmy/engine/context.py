"""How long a context is: what the model was trained for, what was asked for, what memory holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shimmy.engine.plan import AdvisingPlan
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, OutOfMemoryError
from shimmy.graph.scaling import RopeScaling, read_scaling

if TYPE_CHECKING:
    from shimmy.engine.plan import Plan
    from shimmy.graph.builder import Graph
    from shimmy.graph.tensors import TensorTable

#: The smallest context worth serving; less memory than this is an error.
MIN_CONTEXT = 512
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Context:
    """The context to load a model with, before memory has its say."""

    positions: int
    native: int
    """Positions the model was trained for."""
    scaling: RopeScaling
    """That of the file, or that which stretches the native context."""
    stretched: bool
    """Whether settings, not the file, decided on ``scaling``."""
    explicit: bool
    """Whether ``positions`` was asked for; what does not fit then is an error, not less."""


def choose_context(
    settings: EngineSettings,
    trained: int | None,
    metadata: Mapping[str, Any],
    architecture: str,
    tensors: TensorTable,
) -> Context:
    """The context by the settings ``max_ctx`` and ``rope_scale``, for a model of ``trained`` positions.

    Up to the native context the file's own scaling holds; above it YaRN stretches by
    ``max_ctx / native``, or over the original context of a model that YaRN has stretched before.
    ``rope_scale`` sets this factor by hand; without ``max_ctx`` the context follows from it.

    Raises:
        ConfigError: the model cannot be stretched.
        GGUFError: the file's scaling is unknown or incomplete.
    """
    native = trained or MIN_CONTEXT
    asked = settings.max_ctx or native
    scaling = read_scaling(metadata, architecture, tensors, asked)
    base = scaling.yarn.original_context if scaling.yarn else native
    factor = settings.rope_scale or (asked / base if asked > native else None)
    explicit = settings.max_ctx is not None
    if factor is None or (factor == 1.0 and scaling.yarn is None):
        return Context(asked, native, scaling, stretched=False, explicit=explicit)
    if trained is None:
        raise ConfigError(
            f"max_ctx is {asked}, and the model file has no '{architecture}.context_length', so by how "
            "much to stretch cannot be told.",
            hint="Set rope_scale to 1 if it was trained for that, or max_ctx to at most 512.",
            param="max_ctx",
        )
    if scaling.longrope:
        raise ConfigError(
            f"a context of {asked} (rope_scale {factor:g}) would stretch a model that LongRoPE has stretched "
            f"to its {native} positions already.",
            hint=f"Set max_ctx to at most {native} and leave rope_scale out.",
            param="max_ctx",
        )
    positions = asked if explicit else int(base * factor)
    return Context(positions, native, scaling.stretched(factor, base), stretched=True, explicit=explicit)


def check_positions(context: Context, graph: Graph) -> None:
    """ConfigError if the context needs rotary positions and ``graph`` has none that follow it, or more
    learned positions than the file has."""
    learned = (n.weights["weight"] for n in graph.nodes if n.op == "position_embed")
    for name in learned:
        if (rows := graph.tensors.shape(name)[0]) < context.positions:
            raise ConfigError(
                f"a context of {context.positions} needs as many learned positions, {name!r} has {rows}.",
                hint=f"Set max_ctx to at most {rows}.",
                param="max_ctx",
            )
    if context.positions <= context.native and not context.stretched:
        return
    if any(node.op == "rope" and node.attrs["scaling"] == context.scaling for node in graph.nodes):
        return
    raise ConfigError(
        f"a context of {context.positions} (rope_scale {context.scaling.factor:g}) needs rotary positions, "
        f"which can be stretched; this model has learned its {context.native} positions.",
        hint=f"Set max_ctx to at most {context.native} and leave rope_scale out.",
        param="max_ctx",
    )


def fit_context(plan: Plan, context: Context, kv_memory: int, *, automatic: bool = False) -> int:
    """min(wanted, what ``kv_memory`` bytes hold). Closes the plan and raises OutOfMemoryError if that
    is less than was asked for, or too little to be of use.

    ``automatic``: that many follow from what is free.
    """
    fits = kv_memory // plan.block_bytes * plan.block_tokens
    if fits >= context.positions:
        return context.positions
    least = min(MIN_CONTEXT, context.positions)
    if fits >= least and not context.explicit:
        return fits
    settings = None
    if automatic and isinstance(plan, AdvisingPlan):
        settings = plan.settings_for(context.positions)
    plan.close()
    per_token = plan.block_bytes / plan.block_tokens
    hint = (
        f"It holds a context of {fits}: lower max_ctx or raise kv_memory."
        if fits >= least
        else f"Raise kv_memory to {-(-int(least * per_token) // MIB)} MiB, for a context of {least}."
    )
    if settings:
        hint += f" Or set {settings}: the CPU computes the rest from the machine's memory."
    elif plan.device_memory is not None:
        hint += " If the GPU has no more, lower gpu_layers: others have theirs in the machine's memory."
    raise OutOfMemoryError(
        f"a context of {context.positions} needs {context.positions * per_token / MIB:.0f} MiB of KV cache "
        f"({per_token / 1024:.1f} KiB per token), kv_memory is {kv_memory / MIB:.0f} MiB.",
        hint=hint,
    )
