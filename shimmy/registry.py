"""Registry[S]: names to specs. Two claims to one name are an error, an unknown name gets a hint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from shimmy.errors import PluginError, RegistryError, did_you_mean

S = TypeVar("S")


class Registry(Generic[S]):
    """Specs of one kind (``what`` names it in errors), each under one or more names."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._specs: dict[str, tuple[S, str]] = {}

    def add(self, name: str, spec: S, owner: str) -> None:
        """Register ``spec``; ``owner`` is the plugin (and distribution) that claims the name."""
        if name in self._specs:
            raise PluginError(
                f"{self.what} {name!r} is claimed twice: by {self._specs[name][1]} and by {owner}.",
                hint="Disable one of them with `plugins.disabled` or --without.",
            )
        self._specs[name] = (spec, owner)

    def get(self, name: str) -> S:
        try:
            return self._specs[name][0]
        except KeyError:
            raise RegistryError(
                f"no {self.what} is called {name!r}.", hint=did_you_mean(name, self._specs)
            ) from None

    def owner(self, name: str) -> str:
        self.get(name)
        return self._specs[name][1]

    def names(self) -> list[str]:
        return sorted(self._specs)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[S]:
        """Each spec once, in order of registration, however many names it has."""
        seen: set[int] = set()
        for spec, _ in self._specs.values():
            if id(spec) not in seen:
                seen.add(id(spec))
                yield spec

    def __len__(self) -> int:
        return len(self._specs)
