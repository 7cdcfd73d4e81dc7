"""Finding, choosing and loading plugins.

A plugin that cannot be used becomes a row with its reason, never a crash; two claims to one name
are a start-up error. Nothing here is global: whoever calls :func:`load_plugins` owns the result.
Importing this module, and loading every built-in plugin, imports none of the heavy libraries
(no NumPy, no pydantic): the engine process starts through it as well.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, entry_points

from shimmy import API_VERSION
from shimmy.errors import ConfigError, PluginError, did_you_mean
from shimmy.hooks import PluginInfo, Plugins, Status
from shimmy.specs import FrontendSpec

__all__ = [
    "PluginChoice",
    "PluginInfo",
    "Plugins",
    "Status",
    "check_routes",
    "chosen_frontends",
    "load_plugins",
    "route_shape",
]

GROUP = "shimmy"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """Which plugins to load: only ``enabled`` (None: all), never ``disabled``."""

    enabled: tuple[str, ...] | None = None
    disabled: tuple[str, ...] = ()
    strict: bool = False
    """Whether a plugin that fails to load is an error instead of a row."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plugin before it is imported."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]

    def info(self, status: Status, detail: str = "", hooks: Iterable[str] = ()) -> PluginInfo:
        return PluginInfo(self.name, self.distribution, self.version, status, detail, tuple(sorted(hooks)))


def load_plugins(choice: PluginChoice | None = None, *, extra: Sequence[object] = ()) -> Plugins:
    """Load the installed plugins that ``choice`` names, and the ``extra`` modules or objects.

    Raises:
        ConfigError: ``choice`` names a plugin that is not installed.
        PluginError: two claims to one name; a plugin failed and ``choice.strict`` is set.
    """
    choice = choice or PluginChoice()
    installed = _installed()
    given = [_in_process(plugin) for plugin in extra]
    _check_choice(choice, [candidate.name for candidate in (*installed, *given)])
    plugins = Plugins()
    infos: list[PluginInfo] = []
    for candidate in (*installed, *given):
        if candidate.name in choice.disabled:
            infos.append(candidate.info("disabled", "named in plugins.disabled"))
        elif candidate in given or choice.enabled is None or candidate.name in choice.enabled:
            infos.append(_load(plugins, candidate))
        else:
            infos.append(candidate.info("disabled", "not named in plugins.enabled"))
    plugins.infos = tuple(infos)
    failed = next((info for info in infos if info.status == "failed"), None)
    if choice.strict and failed:
        raise PluginError(
            f"plugin {failed.owner} failed to load: {failed.detail}",
            hint="Repair or disable it, or unset strict_plugins to go on without it.",
        )
    return plugins


def chosen_frontends(plugins: Plugins, names: Iterable[str] | None) -> list[FrontendSpec]:
    """The frontends called ``names`` (None: all) and those that are always on.

    One that is always on goes away with its plugin only (``--without``), so that naming an API
    does not silently switch off what watches over the server.
    """
    wanted = None if names is None else set(names)
    return [spec for spec in plugins.frontends if wanted is None or spec.name in wanted or spec.always_on]


def check_routes(frontends: Iterable[FrontendSpec]) -> None:
    """Raise PluginError when two of the frontends that will be served claim one route."""
    claimed: dict[str, tuple[str, FrontendSpec]] = {}
    for frontend in frontends:
        for route in frontend.routes:
            other, owner = claimed.setdefault(route_shape(route), (route, frontend))
            if owner is not frontend or other != route:
                raise PluginError(
                    f"route {other!r} of frontend {owner.name} and {route!r} of frontend {frontend.name} "
                    "are claims to the same requests.",
                    hint="Disable one of them with `plugins.disabled` or --without.",
                )


def route_shape(route: str) -> str:
    """A route without the names of its variables: ``GET /v1/models/{}``."""
    return re.sub(r"{[^/]*}|<[^/]*>", "{}", route)


def _load(plugins: Plugins, candidate: _Candidate) -> PluginInfo:
    """Import and add one plugin; what is wrong with it ends up in its row."""
    try:
        plugin = candidate.load()
        _check_api_version(plugin)
        hooks, claims = plugins.add(candidate.name, plugin)
    # SystemExit too: a plugin that gives up while importing must not take shimmy along.
    except (Exception, SystemExit) as error:
        detail = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        _logger.warning("plugin %r is not loaded: %s", candidate.name, detail)
        return candidate.info("failed", detail)
    info = candidate.info("loaded", hooks=hooks)
    plugins.accept(info.owner, claims)
    return info


def _installed() -> list[_Candidate]:
    """The entry points of all distributions, sorted by name; a name given twice is an error."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    origins: dict[Distribution | None, tuple[str, str]] = {None: ("?", "?")}
    candidates = []
    for point in points:
        if point.dist not in origins:
            # Each access parses the distribution's whole METADATA file.
            assert point.dist is not None
            metadata = point.dist.metadata
            origins[point.dist] = (metadata["Name"], metadata["Version"])
        candidates.append(_Candidate(point.name, *origins[point.dist], point.load))
    _check_unique(candidates)
    return candidates


def _check_unique(candidates: Sequence[_Candidate]) -> None:
    for name, count in Counter(candidate.name for candidate in candidates).items():
        if count > 1:
            owners = " and ".join(c.distribution for c in candidates if c.name == name)
            raise PluginError(
                f"plugin name {name!r} is claimed twice: by {owners}.", hint="Uninstall one of them."
            )


def _in_process(plugin: object) -> _Candidate:
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return _Candidate(name, "given in process", "", lambda: plugin)


def _check_choice(choice: PluginChoice, known: Sequence[str]) -> None:
    for key, names in (("plugins.enabled", choice.enabled or ()), ("plugins.disabled", choice.disabled)):
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{key} names {name!r}, but no such plugin is installed.",
                    hint=did_you_mean(name, known),
                    param=key,
                )


def _check_api_version(plugin: object) -> None:
    version = getattr(plugin, "shimmy_api", API_VERSION)
    if version != API_VERSION:
        raise PluginError(
            f"it was written for plugin API {version}; this shimmy offers {API_VERSION}.",
            hint="Install versions of the two that fit.",
        )
