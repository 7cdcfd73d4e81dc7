"""WGSL from templates: a file reads as WGSL, with lines of Jinja where sizes and choices are baked in.

    # include "shimmy/common/reduce.wgsl"
    # for r in range(rows)
    let y${r} = subgroupAdd(sum${r});
    # endfor

``# `` begins a statement, ``## `` a comment of the template, ``${...}`` is a value. A name begins with that
of the folder, which whoever provides it has registered; shimmy's own is ``shimmy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources.abc import Traversable

from jinja2 import (
    BaseLoader,
    Environment,
    PrefixLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
)

from shimmy.errors import PluginError


class _Folder(BaseLoader):
    """Templates below a folder, which may lie in a zip file."""

    def __init__(self, folder: Traversable) -> None:
        self._folder = folder

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
        del environment
        parts = template.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise TemplateNotFound(template)
        file = self._folder.joinpath(*parts)
        if not file.is_file():
            raise TemplateNotFound(template)
        return file.read_text("utf-8"), str(file), None


class Composer:
    """Makes shaders of the templates in some folders, by the name each folder is registered under."""

    def __init__(self, folders: Mapping[str, Traversable]) -> None:
        self._environment = Environment(
            loader=PrefixLoader({name: _Folder(folder) for name, folder in folders.items()}),
            autoescape=False,  # noqa: S701 - WGSL, not HTML
            undefined=StrictUndefined,
            line_statement_prefix="# ",
            line_comment_prefix="## ",
            variable_start_string="${",
            variable_end_string="}",
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def compose(self, file: str, **parameters: object) -> str:
        """The WGSL that ``file`` is with these parameters; every one it uses must be given.

        Raises:
            PluginError: the file is missing, or is no template for these parameters.
        """
        try:
            return self._environment.get_template(file).render(parameters)
        except TemplateNotFound as error:
            raise PluginError(f"there is no shader {error.name!r}, needed for {file!r}.") from error
        except TemplateSyntaxError as error:
            where = f"{error.filename or file}, line {error.lineno}"
            raise PluginError(f"shader {where}: {error.message}") from error
        except TemplateError as error:
            raise PluginError(f"shader {file!r} with {_shown(parameters)}: {error}.") from error


def _shown(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in parameters.items())
