"""One variable moves all caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy.caches import cache_folder
from shimmy.settings import load_settings
from shimmy_plugins.backends.cpu.object_cache import ObjectCache


def test_the_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    default = cache_folder()
    monkeypatch.setenv("SHIMMY_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path != default
    load_settings()  # knows the variable, though it is no setting
    ObjectCache().put("kernel", b"code")
    assert [file.name for file in (tmp_path / "kernels").iterdir()] == ["kernel.o"]
    monkeypatch.setenv("SHIMMY_CACHE_DIR", "")
    assert cache_folder() == default


def test_a_relative_folder_is_below_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_CACHE_DIR", "here")
    assert cache_folder() == Path.cwd() / "here"
