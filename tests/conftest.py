"""What all tests share: isolation from the machine they run on, and plugins made on the spot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from shimmy.plugins import Plugins, load_plugins

HOME_VARIABLES = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA")
#: Where else this machine's configuration and models may be found.
PLACE_VARIABLES = (
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS"),
)


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the whole run: caches that the product fills there serve the next test."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def isolated(
    monkeypatch: pytest.MonkeyPatch, empty_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No SHIMMY_* variable, configuration file or model of this machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("SHIMMY_"):
            monkeypatch.delenv(name)
    for name in HOME_VARIABLES:
        monkeypatch.setenv(name, str(empty_home))
    for name in PLACE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """All installed plugins. Tests that need a choice, or plugins of their own, load them themselves."""
    return load_plugins()


Install = Callable[..., None]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install_plugin(name, source, distribution="other")``: an installed distribution with one plugin."""
    site = tmp_path / "site"
    modules: list[str] = []

    def install(name: str, source: str, distribution: str = "other") -> None:
        module = f"{distribution}_{name}".replace("-", "_")
        modules.append(module)
        info = site / f"{distribution}-1.5.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (site / f"{module}.py").write_text(dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[shimmy]\n{name} = {module}\n" if file.tell() == 0 else f"{name} = {module}\n")
        monkeypatch.syspath_prepend(site)

    yield install
    for module in modules:
        sys.modules.pop(module, None)
