"""Models where the settings point to, and in ``./models``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.discovery.places import HERE, model_places
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.records import DiscoverySource, Report
    from shimmy.settings import Settings

NAME = "directories"


class Directories:
    """The settings base_gguf, model_paths, models_dir and auto_discover, then ``./models`` if it exists."""

    def scan(self, settings: Settings) -> Iterator[Report]:
        """Raises ConfigError if base_gguf is not there: whoever names one wants that one."""
        from shimmy.discovery.records import FoundModel, Searched, Skipped
        from shimmy.discovery.scan import found_file, search
        from shimmy.settings.checks import check_base

        check_base(settings)
        if (base := settings.base_gguf) is not None:
            place = base.absolute()
            yield FoundModel(place.name, place, NAME) if place.is_dir() else found_file(place, NAME)
        for path in model_places(settings):
            for report in search(path.absolute(), NAME):
                yield report
                if isinstance(report, Searched) and not report.exists:
                    yield Skipped(path, NAME, "there is no such file or folder.")
        yield from search(HERE.absolute(), NAME)


def load() -> DiscoverySource:
    return Directories()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
