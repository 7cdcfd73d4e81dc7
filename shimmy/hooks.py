"""Plugins: what the loaded plugins registered, and their hooks as typed methods.

Hooks are called one plugin at a time, so that one that raises is named in the log and the others
still run. (:mod:`shimmy.plugins` finds and loads plugins.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pluggy

from shimmy import hookspecs
from shimmy.errors import PluginError, RegistryError, did_you_mean
from shimmy.registry import Registry
from shimmy.specs import (
    ArchitectureSpec,
    BackendSpec,
    ChatTemplateSpec,
    DiscoverySourceSpec,
    FrontendSpec,
    MetricSpec,
    OpSpec,
    QuantTypeSpec,
    SettingsSpec,
    ShaderSourceSpec,
    TokenizerSpec,
)

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel
    from quart import Request, ResponseReturnValue, Websocket

    from shimmy.discovery.catalog import FoundModel, ModelCard
    from shimmy.events import ModelLoaded, ModelUnloaded, RequestFinished, RequestStarted
    from shimmy.server.context import ServerContext

TRACE_VARIABLE = "SHIMMY_TRACE_HOOKS"

Status: TypeAlias = Literal["loaded", "disabled", "failed"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What became of one plugin; ``detail`` is the reason when it is not loaded, else empty."""

    name: str
    distribution: str
    version: str
    status: Status
    detail: str = ""
    hooks: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """How errors call the plugin: its name and the distribution it came with."""
        return f"{self.name} ({self.distribution})"


@dataclass(frozen=True, slots=True)
class Claim:
    """A plugin's wish to register ``spec`` under ``name``."""

    registry: Registry[Any]
    name: str
    spec: object


@dataclass(frozen=True, slots=True)
class _Collector:
    """Where the specs of one ``register_*`` hook go, and under which names."""

    registry: Registry[Any]
    spec: type
    names: Callable[[Any], Sequence[str]] = lambda spec: (spec.name,)


class Plugins:
    """The loaded plugins: one registry per kind of spec, and the hooks as typed methods.

    A plugin that raises in a hook is named in the log, and the next one is called.
    """

    def __init__(self) -> None:
        self.infos: tuple[PluginInfo, ...] = ()
        self.settings_tables: Mapping[str, BaseModel] = {}
        self.architectures: Registry[ArchitectureSpec] = Registry("architecture")
        self.quant_types: Registry[QuantTypeSpec] = Registry("quant type")
        self.tokenizers: Registry[TokenizerSpec] = Registry("tokenizer model")
        self.chat_templates: Registry[ChatTemplateSpec] = Registry("chat template")
        self.discovery_sources: Registry[DiscoverySourceSpec] = Registry("discovery source")
        self.frontends: Registry[FrontendSpec] = Registry("frontend")
        self.backends: Registry[BackendSpec] = Registry("backend")
        self.ops: Registry[OpSpec] = Registry("op")
        self.shader_sources: Registry[ShaderSourceSpec] = Registry("shader source")
        self.settings: Registry[SettingsSpec] = Registry("plugin settings table")
        self.metrics: Registry[MetricSpec] = Registry("metric")
        self._ggml_ids: Registry[QuantTypeSpec] = Registry("ggml type id")
        self._collectors = {
            "register_architectures": _Collector(
                self.architectures, ArchitectureSpec, lambda spec: spec.names
            ),
            "register_quant_types": _Collector(self.quant_types, QuantTypeSpec),
            "register_tokenizers": _Collector(self.tokenizers, TokenizerSpec, lambda spec: (spec.model,)),
            "register_chat_templates": _Collector(self.chat_templates, ChatTemplateSpec),
            "register_discovery_sources": _Collector(self.discovery_sources, DiscoverySourceSpec),
            "register_api_frontends": _Collector(self.frontends, FrontendSpec),
            "register_backends": _Collector(
                self.backends, BackendSpec, lambda spec: (spec.name, *spec.aliases)
            ),
            "register_ops": _Collector(self.ops, OpSpec),
            "register_shader_sources": _Collector(self.shader_sources, ShaderSourceSpec),
            "register_settings": _Collector(self.settings, SettingsSpec),
            "register_metrics": _Collector(self.metrics, MetricSpec),
        }
        self._manager = pluggy.PluginManager("shimmy")
        self._manager.add_hookspecs(hookspecs)
        if os.environ.get(TRACE_VARIABLE) == "1":
            self._manager.add_hookcall_monitoring(_trace_before, _trace_after)

    # What plugins registered

    @property
    def packages(self) -> set[str]:
        """The top-level packages of the loaded plugins: what the names of their loggers begin with."""
        modules = (
            getattr(plugin, "__name__", type(plugin).__module__) for plugin in self._manager.get_plugins()
        )
        return {module.partition(".")[0] for module in modules}

    def settings_of(self, name: str) -> Any:
        """The checked ``[plugins.settings.<name>]``: an instance of the model registered for it.

        Raises:
            RegistryError: no plugin registered such a table, or no settings are checked yet.
        """
        try:
            return self.settings_tables[name]
        except KeyError:
            hint = did_you_mean(name, self.settings_tables)
            raise RegistryError(f"there is no checked settings table {name!r}.", hint=hint) from None

    def command_apps(self, new_app: Callable[[], typer.Typer]) -> Iterator[tuple[str, typer.Typer]]:
        """The name of each plugin that adds commands, with an app of its own that holds them."""
        for name in self._implementers("register_commands"):
            app = new_app()
            self._ask_one("register_commands", name, {"app": app})
            yield name, app

    # Questions: the first answer that is not None, else None

    def select_backend(self, card: ModelCard, available: Sequence[str]) -> str | None:
        answer: str | None = self._question("select_backend", card=card, available=available)
        return answer

    def select_chat_template(self, card: ModelCard) -> str | None:
        answer: str | None = self._question("select_chat_template", card=card)
        return answer

    def resolve_model(self, name: str) -> FoundModel | None:
        answer: FoundModel | None = self._question("resolve_model", name=name)
        return answer

    def handle_error(self, error: Exception, request: Request | Websocket) -> ResponseReturnValue | None:
        answer: ResponseReturnValue | None = self._question("handle_error", error=error, request=request)
        return answer

    # Reports

    def server_started(self, context: ServerContext) -> None:
        self._report("server_started", context=context)

    def server_stopping(self, context: ServerContext) -> None:
        self._report("server_stopping", context=context)

    def model_loaded(self, event: ModelLoaded) -> None:
        self._report("model_loaded", event=event)

    def model_unloaded(self, event: ModelUnloaded) -> None:
        self._report("model_unloaded", event=event)

    def request_started(self, event: RequestStarted) -> None:
        self._report("request_started", event=event)

    def request_finished(self, event: RequestFinished) -> None:
        self._report("request_finished", event=event)

    # Calling hooks, one plugin at a time

    def _implementers(self, hook: str) -> list[str]:
        """Names of the plugins that implement ``hook``, in calling order."""
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return [implementation.plugin_name for implementation in reversed(implementations)]

    def _call_one(self, hook: str, name: str, arguments: dict[str, Any]) -> Any:
        others = (plugin for other, plugin in self._manager.list_name_plugin() if other != name)
        return self._manager.subset_hook_caller(hook, others)(**arguments)

    def _ask_one(self, hook: str, name: str, arguments: dict[str, Any]) -> Any:
        """The plugin's answer; None, and a log entry with its name, when it raises."""
        try:
            return self._call_one(hook, name, arguments)
        except Exception:
            _logger.exception("plugin %r failed in %s; going on without it.", name, hook)
            return None

    def _question(self, hook: str, **arguments: Any) -> Any:
        for name in self._implementers(hook):
            answer = self._ask_one(hook, name, arguments)
            if answer is not None:
                return answer
        return None

    def _report(self, hook: str, **arguments: Any) -> None:
        for name in self._implementers(hook):
            self._ask_one(hook, name, arguments)

    # Adding plugins

    def add(self, name: str, plugin: object) -> tuple[tuple[str, ...], list[Claim]]:
        """Check and register a plugin: (names of its hooks, what it asks to register).

        Raises whatever is wrong with the plugin, and then leaves no trace of it here.
        """
        self._manager.register(plugin, name)
        try:
            hooks = self._checked_hooks(plugin)
            return tuple(sorted(hooks)), list(self._claims(name, hooks))
        except BaseException:
            self._manager.unregister(name=name)
            raise

    def accept(self, owner: str, claims: Iterable[Claim]) -> None:
        """Fill the registries with what ``owner`` asks for; PluginError if a name is taken."""
        for claim in claims:
            claim.registry.add(claim.name, claim.spec, owner)

    def _checked_hooks(self, plugin: object) -> list[str]:
        """Names of the hooks the plugin implements; an unknown one is an error."""
        callers = self._manager.get_hookcallers(plugin) or []
        known = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "shimmy_spec")]
        for caller in callers:
            mine = [impl for impl in caller.get_hookimpls() if impl.plugin is plugin]
            if not caller.has_spec() and not all(impl.optionalhook for impl in mine):
                raise PluginError(f"there is no hook {caller.name!r}.", hint=did_you_mean(caller.name, known))
            if any(impl.wrapper or impl.hookwrapper for impl in mine):
                raise PluginError(
                    f"{caller.name!r} is a hook wrapper; shimmy calls plugins one at a time.",
                    hint="Write a plain hook implementation.",
                )
        return [caller.name for caller in callers]

    def _claims(self, name: str, hooks: Iterable[str]) -> Iterator[Claim]:
        """What the plugin registers through its ``register_*`` hooks."""
        for hook in sorted(set(hooks) & set(self._collectors)):
            collector = self._collectors[hook]
            specs: list[Any] = []
            self._call_one(hook, name, {"register": specs.append})
            for spec in specs:
                if not isinstance(spec, collector.spec):
                    raise PluginError(
                        f"{hook} registered a {type(spec).__name__}; expected a {collector.spec.__name__}."
                    )
                for key in collector.names(spec):
                    yield Claim(collector.registry, key, spec)
                if isinstance(spec, QuantTypeSpec):
                    yield Claim(self._ggml_ids, str(spec.ggml_id), spec)


def _trace_before(hook_name: str, implementations: Sequence[Any], arguments: Any) -> None:
    # Names only: arguments may lead to prompts, which are never logged.
    plugins = ", ".join(implementation.plugin_name for implementation in implementations)
    _logger.info("hook %s(%s) -> %s", hook_name, ", ".join(arguments), plugins or "nobody")


def _trace_after(outcome: Any, hook_name: str, implementations: Sequence[Any], arguments: Any) -> None:  # noqa: ARG001
    ending = "returned" if outcome.exception is None else f"raised {type(outcome.exception).__name__}"
    _logger.info("hook %s %s", hook_name, ending)
