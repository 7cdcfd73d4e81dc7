"""The plugins and engines that tests run with."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from shimmy.engine.plan import Backend
from shimmy.engine.reference import ReferenceBackend
from shimmy.plugins import Plugins, load_plugins

#: The NumPy definitions, by which engines are judged.
JUDGE = ReferenceBackend()


@functools.cache
def installed_plugins() -> Plugins:
    """All that is installed, loaded once."""
    return load_plugins()


@functools.cache
def load_engine(plugins: Plugins, name: str) -> Backend:
    """The engine of this name, on the device it chooses itself. Raises RegistryError if there is none."""
    return plugins.backends.get(name).load(plugins)


def usable_engines(plugins: Plugins) -> Iterator[tuple[str, Backend]]:
    """Names and engines that can run here by their own choice of device; not the definitions themselves."""
    for spec in plugins.backends:
        if spec.probe() is None and not isinstance(
            backend := load_engine(plugins, spec.name), ReferenceBackend
        ):
            yield spec.name, backend
