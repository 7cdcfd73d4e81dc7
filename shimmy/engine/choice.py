"""Which backend computes a model, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy.engine.plan import SegmentBackend
from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from shimmy.engine.plan import Backend
    from shimmy.engine.settings import EngineSettings
    from shimmy.gguf.card import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.specs import BackendSpec


def choose_backend(card: ModelCard, settings: EngineSettings, plugins: Plugins) -> tuple[str, str, Backend]:
    """(name, why, backend): the one asked for, else a plugin's choice, else the best usable one.

    Whoever names a GPU asks for a backend that computes on GPUs.

    Raises:
        ConfigError: what is asked for cannot run here, or nothing can.
    """
    if settings.gpu != "auto":
        spec, reason = _on_named_gpu(settings, plugins), f"gpu is {settings.gpu!r}"
    elif settings.backend != "auto":
        spec, reason = _asked_for(settings, plugins), "asked for"
    else:
        spec, reason = _best(card, plugins)
    return spec.name, reason, spec.load(plugins)


def choose_host(main: str, plugins: Plugins) -> SegmentBackend:
    """The best usable backend besides ``main`` that computes segments for others.

    Raises:
        ConfigError: there is none.
    """
    problems = []
    for spec in sorted((s for s in plugins.backends if s.priority >= 0), key=lambda s: -s.priority):
        if spec.name == main:
            continue
        if problem := spec.probe():
            problems.append(f"{spec.name}: {problem}")
        elif isinstance(backend := spec.load(plugins), SegmentBackend):
            return backend
    found = "; ".join(problems) or "none is loaded"
    raise ConfigError(
        f"no engine can compute in the machine's memory what is to leave {main} ({found}).",
        hint="Leave gpu_layers, cpu_moe and n_cpu_moe out.",
    )


def _asked_for(settings: EngineSettings, plugins: Plugins) -> BackendSpec:
    spec = plugins.backends.get(settings.backend)
    if problem := spec.probe():
        raise ConfigError(
            f"engine_backend is {settings.backend!r}, which cannot run here: {problem}.",
            hint="Leave engine_backend at 'auto' to use what can.",
        )
    return spec


def _on_named_gpu(settings: EngineSettings, plugins: Plugins) -> BackendSpec:
    registry = plugins.backends
    asked = list(registry) if settings.backend == "auto" else [registry.get(settings.backend)]
    for spec in sorted(asked, key=lambda spec: -spec.priority):
        if spec.check_gpu:
            spec.check_gpu(settings.gpu)
            return spec
    problem = (
        "no engine here computes on GPUs"
        if settings.backend == "auto"
        else f"engine_backend is {settings.backend!r}, which computes on none"
    )
    raise ConfigError(
        f"gpu is {settings.gpu!r}, but {problem}.",
        hint="Leave one of the two at 'auto'.",
        param="gpu",
    )


def _best(card: ModelCard, plugins: Plugins) -> tuple[BackendSpec, str]:
    """What can run here by itself, or of these what a plugin prefers for the model; and why."""
    automatic = sorted((s for s in plugins.backends if s.priority >= 0), key=lambda s: -s.priority)
    problems = {s.name: s.probe() for s in automatic}
    available = [s.name for s in automatic if problems[s.name] is None]
    passed_over = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    if not available:
        found = "; ".join(passed_over) or "none is loaded"
        raise ConfigError(
            f"no compute backend can run here ({found}).",
            hint="`shimmy plugins` shows what is loaded; engine_backend may name one that is slow.",
        )
    if chosen := plugins.select_backend(card, available):
        return plugins.backends.get(chosen), "chosen by a plugin"
    return plugins.backends.get(available[0]), "; ".join(["best available", *passed_over])
