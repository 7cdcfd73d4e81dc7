"""Models where the settings point to, and in ``./models``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.catalog import DiscoverySource, FoundModel, Skipped
    from shimmy.settings import Settings

NAME = "directories"
HERE = Path("models")


class Directories:
    """The settings base_gguf, model_paths and models_dir, then ``./models`` if it exists."""

    def scan(self, settings: Settings) -> Iterator[FoundModel | Skipped]:
        """Raises ConfigError if base_gguf is no file: whoever names one wants that one."""
        from shimmy.discovery.catalog import FoundModel, Skipped
        from shimmy.discovery.scan import find_models
        from shimmy.errors import ConfigError

        if (base := settings.base_gguf) is not None:
            if not base.is_file():
                origin = settings.origin("base_gguf")
                raise ConfigError(
                    f"base_gguf is {str(base)!r} (from {origin}), but no such file exists.",
                    hint="Give the path of a GGUF file.",
                    param="base_gguf",
                )
            yield FoundModel(base.stem, base.absolute(), NAME)
        named = [*settings.model_paths, *([settings.models_dir] if settings.models_dir else [])]
        for path in (*named, HERE):
            if path.is_file():
                yield FoundModel(path.stem, path.absolute(), NAME)
            elif path.is_dir():
                yield from find_models(path.absolute(), NAME)
            elif path is not HERE:
                yield Skipped(path, NAME, "there is no such file or folder.")


def load() -> DiscoverySource:
    return Directories()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
