"""What commands share: options that are settings, and the way from flags to settings and plugins."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from shimmy.cli.migration import OLD_FLAGS, check_environment
from shimmy.errors import ModelNotFoundError
from shimmy.plugins import Plugins, load_plugins
from shimmy.settings import Settings, check_plugin_settings, load_settings, settings_table
from shimmy.settings.table import SettingInfo, Shape

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard

ModelName: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A model of `shimmy list`; default: that which `serve` loads."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

#: Settings that are flags of ``shimmy`` itself and come before the command; all others, which serving
#: takes; and those that several commands take, by what they decide.
ROOT = ("plugins.enabled", "plugins.disabled", "strict_plugins", "log_level")
SERVING = tuple(key for key in settings_table() if key not in ROOT)
FINDING = ("base_gguf", "model_paths", "models_dir", "auto_discover", "lora_gguf", "quantize")
NAMING = ("served_model_name",)
TEXT = ("chat_template", "pre_tokenizer")
COMPUTING = ("engine_backend", "precision", "gpu", "gpu_memory", "threads", "instructions")
OFFLOADING = ("gpu_layers", "cpu_moe", "n_cpu_moe")
ENGINE = (
    *COMPUTING,
    *OFFLOADING,
    "max_ctx",
    "rope_scale",
    "kv_type",
    "quantize",
    "kv_memory",
    "prefix_cache",
    "prefix_cache_memory",
    "packed_cache",
    "packed_cache_size",
    "max_sequences",
    "step_tokens",
    "max_adapters",
    "max_lora_rank",
    "lora_memory",
)
SAMPLING = tuple(key for key in settings_table() if key.startswith("sampling."))


def settings_options(
    *keys: str, old: Iterable[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per named setting; :func:`bootstrap` reads them from its context.

    The command itself does not receive them::

        @settings_options("host", "port")
        def command(ctx: typer.Context) -> None:
            settings, plugins = bootstrap(ctx)

    Flags of old are taken too, without being shown: those of ``keys``, and of the settings ``old``.
    """
    table = settings_table()
    options = {_parameter(key): _option(table[key]) for key in keys}
    options |= {_old(key): _old_option(table[key]) for key in (*keys, *old) if key in OLD_FLAGS}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**arguments: Any) -> None:
            function(**{name: value for name, value in arguments.items() if name not in options})

        signature = inspect.signature(function, eval_str=True)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in options.items()
        ]
        parameters = [*signature.parameters.values(), *added]
        # Typer reads both.
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def bootstrap(ctx: typer.Context) -> tuple[Settings, Plugins]:
    """Settings from all sources, flags of the command and of ``shimmy`` itself first; plugins; logging.

    Raises:
        ConfigError: anything about the settings is wrong.
        PluginError: two claims to one name; or a failed plugin, if those are to be fatal.
    """
    check_environment()
    given = _given(ctx.find_root().params) | _given(ctx.params)
    flags = {key: given.get(_parameter(key), given.get(_old(key))) for key in settings_table()}
    settings = load_settings(flags, config=_path(given.get("config")))
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[_StandardError()])
    _log_from(settings.log_level, "shimmy")
    plugins = load_plugins(settings.plugin_choice)
    _log_from(settings.log_level, *plugins.packages)
    check_plugin_settings(settings, plugins)
    return settings, plugins


def find_model(settings: Settings, plugins: Plugins, name: str | None) -> ModelCard:
    """The model of this name, or at this path; the default one for None.

    Raises:
        ModelNotFoundError: there is none; with the names that come near.
        ModelError: the file is there, but is no language model that shimmy can run.
    """
    from shimmy.discovery.catalog import Catalog

    catalog = Catalog(settings, plugins)
    if name is None:
        return catalog.default()
    try:
        return catalog.get(name)
    except ModelNotFoundError:
        if not (path := Path(name).expanduser()).exists():
            raise
    return Catalog(settings.model_copy(update={"base_gguf": path.absolute()}), plugins).default()


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; None and nothing stand for those that were not."""
    return {name: value for name, value in parameters.items() if value not in (None, (), [])}


def _parameter(key: str) -> str:
    """The name of a setting's option among a command's parameters."""
    return key.replace(".", "_")


def _old(key: str) -> str:
    return f"old_{_parameter(key)}"


def _option(info: SettingInfo) -> Any:
    """A Typer annotation. Values stay text: the settings check them, and say where they came from."""
    text = f"{info.help} Takes {info.expected}; default: {info.default}."
    if info.is_switch:
        name = info.flag.removeprefix("--")
        return Annotated[
            bool | None, typer.Option(f"--{name}/--no-{name}", help=info.help, show_default=False)
        ]
    if info.shape in (Shape.NAMES, Shape.PATHS):
        metavar = "NAME" if info.shape is Shape.NAMES else "PATH"
        help_text = f"{info.help} May be repeated; default: {info.default}."
        return Annotated[list[str] | None, typer.Option(info.flag, metavar=metavar, help=help_text)]
    metavar = "PATH" if info.shape is Shape.PATH else "VALUE"
    return Annotated[str | None, typer.Option(info.flag, metavar=metavar, help=text)]


def _old_option(info: SettingInfo) -> Any:
    kind = list[str] if info.shape in (Shape.NAMES, Shape.PATHS) else str
    return Annotated[kind | None, typer.Option(OLD_FLAGS[info.key], hidden=True)]


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


class _StandardError(logging.Handler):
    """Writes to what ``sys.stderr`` is at that time: a progress bar on it steps aside for a line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_from(level: str, *packages: str) -> None:
    for name in packages:
        logging.getLogger(name).setLevel(level.upper())
