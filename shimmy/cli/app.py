"""The Typer app: global options, commands that are imported when they are used, exit codes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from shimmy import __version__
from shimmy.cli import FAILURE, INTERRUPTED, WRONG_USAGE
from shimmy.cli.common import ROOT, bootstrap, settings_options
from shimmy.cli.migration import advice_on
from shimmy.cli.output import print_error
from shimmy.errors import ConfigError, ShimmyError
from shimmy.registry import Registry

if TYPE_CHECKING:
    from shimmy.engine.launch import Early

#: The core's commands, as ``--help`` lists them. ``shimmy.cli.NAME`` holds a function ``command``.
COMMANDS = ("serve", "generate", "list", "discover", "probe", "plugins", "config")


class Commands(TyperGroup):
    """The core's commands, imported one by one, and those of plugins, loaded when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_all(ctx)
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS:
            return self._core_command(cmd_name)
        self._add_all(ctx)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Not every version of Typer gives it this code.
            raise typer.Exit(INTERRUPTED) from None

    def _core_command(self, name: str) -> Any:
        if name not in self.commands:
            self.commands[name] = _as_command(name, import_module(f"shimmy.cli.{name}").command)
        return self.commands[name]

    def _add_all(self, ctx: Any) -> None:
        for name in COMMANDS:
            self._core_command(name)
        try:
            _, plugins = bootstrap(ctx)
        except ConfigError:
            # Whoever looks at --help because the configuration is wrong shall see it.
            return
        claimed: Registry[Any] = Registry("command")
        for name in COMMANDS:
            claimed.add(name, self.commands[name], "shimmy itself")
        for plugin, app in plugins.command_apps(_new_app):
            for name, command in get_group(app).commands.items():
                claimed.add(name, command, plugin)
                self.commands[name] = command


def _new_app(**options: Any) -> typer.Typer:
    # Markup and pretty tracebacks would import rich, 100 ms, for every error.
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **options)


def _as_command(name: str, function: Callable[..., None]) -> Any:
    app = _new_app()
    app.command(name)(function)
    return get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shimmy {__version__}")
        raise typer.Exit


@settings_options(*ROOT, old=("model_paths", "max_ctx"))
def _root(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Read this shimmy.toml.")] = None,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """A local LLM server: a drop-in OpenAI API for GGUF models."""


def build() -> Any:
    """A new command line, as a click group."""
    app = _new_app(cls=Commands, no_args_is_help=True)
    app.callback()(_root)
    return get_command(app)


def run(arguments: Sequence[str], early: Early | None = None) -> int:
    """Run one command; prints what shimmy itself raises and returns the exit code.

    ``early`` is what has been started for the command already: its context's ``obj``.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files, and models' answers, may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        build().main(args=list(arguments), prog_name="shimmy", obj=early)
    except ShimmyError as error:
        print_error("error", error)
        return WRONG_USAGE if isinstance(error, ConfigError) else FAILURE
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
        if code == WRONG_USAGE and (advice := advice_on(arguments)):
            print(f"hint: {advice}", file=sys.stderr)
        return code
    return 0
