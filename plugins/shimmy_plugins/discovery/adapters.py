"""LoRA adapters: folders that trainers wrote, and adapters converted to GGUF, where the settings point to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.discovery.places import adapter_places
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.records import DiscoverySource, Report
    from shimmy.settings import Settings

NAME = "adapters"


class Adapters:
    """The setting lora_gguf, and every adapter below the folders that are searched for models."""

    def scan(self, settings: Settings) -> Iterator[Report]:
        """Raises ConfigError if lora_gguf is not there: whoever names one wants that one."""
        from shimmy.discovery.trained import chosen_adapters, find_adapters

        if settings.lora_gguf is not None:
            yield from chosen_adapters(settings, NAME)
        for root in adapter_places(settings):
            if root.is_dir():
                yield from find_adapters(root.absolute(), NAME)


def load() -> DiscoverySource:
    return Adapters()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
