"""Which backend computes: by settings, by what can run, by a GPU that is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shimmy.engine.choice import choose_backend
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, RegistryError
from shimmy.registry import Registry
from shimmy.specs import BackendSpec

GPUS = ("Voodoo", "Banshee")


def check_gpu(gpu: str) -> None:
    if gpu not in GPUS:
        raise ConfigError(f"gpu is {gpu!r}, which is no adapter here.")


def spec(name: str, priority: int, problem: str | None = None, **more: Any) -> BackendSpec:
    return BackendSpec(name, priority, lambda: problem, lambda plugins: f"the {name}", **more)


CARD, CPU, JUDGE = (
    spec("card", 20, "no GPU", check_gpu=check_gpu, aliases=("board",)),
    spec("cpu", 10),
    spec("judge", -1),
)


def choose(*specs: BackendSpec, chosen: str | None = None, **settings: str) -> tuple[str, str, object]:
    registry: Registry[BackendSpec] = Registry("backend")
    for each in specs:
        for name in (each.name, *each.aliases):
            registry.add(name, each, "test")
    plugins = SimpleNamespace(backends=registry, select_backend=lambda card, names: chosen)
    return choose_backend(None, EngineSettings(**settings), plugins)


def test_the_best_that_can_run_is_taken():
    assert choose(JUDGE, CPU, spec("card", 20)) == ("card", "best available", "the card")


def test_the_reason_tells_what_was_passed_over():
    assert choose(JUDGE, CPU, CARD) == ("cpu", "best available; card: no GPU", "the cpu")


def test_a_plugin_may_choose():
    assert choose(CPU, spec("card", 20), chosen="cpu") == ("cpu", "chosen by a plugin", "the cpu")


@pytest.mark.parametrize(("name", "taken"), [("cpu", "cpu"), ("judge", "judge"), ("board", "card")])
def test_what_is_asked_for_is_taken(name, taken):
    answer = choose(JUDGE, CPU, spec("card", 20, aliases=("board",)), backend=name)
    assert answer == (taken, "asked for", f"the {taken}")


def test_what_is_asked_for_and_cannot_run_is_an_error():
    with pytest.raises(
        ConfigError, match="engine_backend is 'board', which cannot run here: no GPU. Leave .*'auto'"
    ):
        choose(CPU, CARD, backend="board")
    with pytest.raises(RegistryError, match="'crad'.*'card'"):
        choose(CPU, CARD, backend="crad")


def test_nothing_that_can_run_is_an_error():
    with pytest.raises(ConfigError, match="no compute backend can run here .card: no GPU.. .shimmy plugins."):
        choose(CARD, JUDGE)
    with pytest.raises(ConfigError, match="none is loaded"):
        choose(JUDGE)


@pytest.mark.parametrize("backend", ["auto", "card"])
def test_who_names_a_gpu_gets_the_backend_that_has_it(backend):
    answer = choose(JUDGE, CPU, CARD, spec("slate", 5, check_gpu=check_gpu), gpu="Voodoo", backend=backend)
    assert answer == ("card", "gpu is 'Voodoo'", "the card")


def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="gpu is 'Riva', which is no adapter here"):
        choose(CPU, CARD, gpu="Riva")


@pytest.mark.parametrize(
    ("specs", "backend", "problem"),
    [
        ((JUDGE, CPU), "auto", "no engine here computes on GPUs"),
        ((CPU, CARD), "cpu", "engine_backend is 'cpu', which computes on none"),
    ],
)
def test_a_gpu_needs_a_backend_that_computes_on_gpus(specs, backend, problem):
    with pytest.raises(ConfigError, match=f"gpu is 'Voodoo', but {problem}. Leave one of the two"):
        choose(*specs, gpu="Voodoo", backend=backend)
