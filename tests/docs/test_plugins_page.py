"""docs/plugins.md says of each hook what the code says, and its examples run."""

import inspect
import re
import tomllib
from types import ModuleType, SimpleNamespace

import pytest

from shimmy import hookspecs
from shimmy.events import RequestFinished
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.settings import Settings, check_plugin_settings
from tests.docs.pages import page, snippets

PAGE = "plugins.md"
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "shimmy_spec")}


def heading(name: str) -> str:
    # Annotations are strings there, so they print with quotes.
    signature = str(inspect.signature(HOOKS[name])).replace("'", "")
    return f"### `{name}{signature}`"


def test_headings_are_the_real_signatures_in_the_order_of_the_code():
    headings = re.findall(r"^### .*$", page(PAGE), re.MULTILINE)
    assert headings == [heading(name) for name in HOOKS]


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_says_where_it_runs_as_the_code_does(name: str):
    process = re.search(r"Runs in: (\w+)", HOOKS[name].__doc__ or "")
    assert process
    section = page(PAGE).partition(heading(name))[2].lstrip()
    assert section.startswith(f"Runs in: {process[1]}")


@pytest.mark.parametrize(("line", "code"), snippets(PAGE, "python"), ids=lambda value: f"line {value}"[:9])
def test_snippets_run(line: int, code: str):
    module = ModuleType(f"snippet_at_line_{line}")
    exec(compile(code, f"{PAGE}:{line}", "exec"), vars(module))
    info = load_plugins(PluginChoice(enabled=()), extra=[module]).infos[-1]
    assert info.status == "loaded"


def test_the_example_does_what_the_page_says(monkeypatch):
    [_, code] = snippets(PAGE, "python")[0]
    module = ModuleType("shimmy_requests")
    exec(code, vars(module))
    plugins = load_plugins(PluginChoice(enabled=()), extra=[module])
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__REQUESTS__LONG_AFTER", "4")
    assert check_plugin_settings(Settings(), plugins)["requests"].model_dump() == {"long_after": 4}
    plugins.server_started(SimpleNamespace(plugins=plugins))
    for tokens in (4, 5):
        plugins.request_finished(RequestFinished("1", "openai", "m", 3, tokens, "stop", 0.1, 0.2))
    assert plugins.metrics.get("requests").read() == 2
    assert plugins.metrics.get("long_requests").read() == 1


def test_the_metadata_example_is_what_shimmy_looks_for():
    [(_, code)] = snippets(PAGE, "toml")
    assert tomllib.loads(code)["project"]["entry-points"]["shimmy"] == {"requests": "shimmy_requests"}
