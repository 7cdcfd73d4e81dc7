"""The built-in sources over folders made on the spot."""

import os
import sys
from pathlib import Path

import pytest

from shimmy.discovery.records import FoundModel, Searched, Skipped
from shimmy.discovery.scan import find_models, is_model_file
from shimmy.errors import ConfigError
from shimmy.settings import Settings, load_settings
from shimmy_plugins.discovery.directories import Directories
from shimmy_plugins.discovery.python_packages import PythonPackages
from tests.unit.discovery.homes import touch


def paths(reports) -> list[Path]:
    return [report.path for report in reports if isinstance(report, FoundModel)]


def test_folders_are_searched_in_stable_order(tmp_path):
    expected = [touch(tmp_path / name) for name in ("z.gguf", "a/b/deep.GGUF", "b/one.gguf")]
    for other in ("a/readme.txt", "a/model.gguf.part", ".hidden/secret.gguf"):
        touch(tmp_path / other)
    reports = list(find_models(tmp_path, "test"))
    assert paths(reports) == expected
    assert reports[1] == FoundModel("deep", expected[1], "test")


@pytest.mark.parametrize(
    ("name", "complete"),
    [
        ("tiny.gguf", True),
        ("Qwen2.5-0.5B.Q4_0.GGUF", True),
        ("tiny.gguf.part", False),
        ("tiny.gguf.incomplete", False),
        ("tiny.gguf.crdownload", False),
        ("tiny.gguf.tmp", False),
        ("tiny.part.gguf", False),
        ("tiny.safetensors", False),
    ],
)
def test_downloads_under_way_are_no_models(name, complete):
    assert is_model_file(name) == complete


def test_split_models_are_one(tmp_path):
    first, second = (touch(tmp_path / f"big-0000{number}-of-00002.gguf") for number in (1, 2))
    touch(tmp_path / "all/one-00001-of-00001.gguf")
    lost = touch(tmp_path / "lost/far-00003-of-00007.gguf")
    reports = list(find_models(tmp_path, "test"))
    assert [(r.name, r.path) for r in reports if isinstance(r, FoundModel)] == [
        ("big", first),
        ("one", tmp_path / "all/one-00001-of-00001.gguf"),
    ]
    assert reports[-1] == Skipped(
        lost,
        "test",
        "6 of its 7 parts missing: "
        "far-00001-of-00007.gguf, far-00002-of-00007.gguf, far-00004-of-00007.gguf, ….",
    )
    assert paths(Directories().scan(Settings(base_gguf=first)))[0] == first
    assert second.exists()


@pytest.mark.parametrize("separator", {os.pathsep, ";"})
def test_model_paths_come_from_the_environment(tmp_path, monkeypatch, separator):
    one, two = touch(tmp_path / "a/one.gguf"), touch(tmp_path / "b/two.gguf")
    monkeypatch.setenv("SHIMMY_MODEL_PATHS", separator.join([str(tmp_path / "a"), str(two)]))
    assert paths(Directories().scan(load_settings())) == [one, two]


def test_depth_bounds_the_search(tmp_path):
    shallow = touch(tmp_path / "a/one.gguf")
    touch(tmp_path / "a/b/two.gguf")
    assert paths(find_models(tmp_path, "test", depth=1)) == [shallow]


def test_links_that_lead_back_do_not_trap(tmp_path):
    model = touch(tmp_path / "a/one.gguf")
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    assert paths(find_models(tmp_path, "test")) == [model]


def test_unreadable_folders_are_reported(tmp_path, monkeypatch):
    model = touch(tmp_path / "good/one.gguf")
    touch(tmp_path / "locked/two.gguf")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # Permissions cannot keep root out, who runs many a test machine.
    monkeypatch.setattr(os, "scandir", refuse)
    found, locked = find_models(tmp_path, "test")
    assert found.path == model
    assert locked == Skipped(tmp_path / "locked", "test", "cannot be read: Permission denied")


def test_directories_follow_the_settings_and_look_around(tmp_path):
    base, listed, inside = (
        touch(tmp_path / name) for name in ("base.gguf", "listed.gguf", "dir/inside.gguf")
    )
    more = touch(tmp_path / "more/x.gguf")
    here = touch(Path("models/here.gguf")).absolute()
    settings = Settings(base_gguf=base, model_paths=(listed, tmp_path / "dir"), models_dir=tmp_path / "more")
    assert paths(Directories().scan(settings)) == [base, more, listed, inside, here]


def test_directories_report_what_is_not_there():
    gone = Path("gone")
    assert list(Directories().scan(Settings(model_paths=(gone,)))) == [
        Searched(gone.absolute(), "directories", exists=False),
        Skipped(gone, "directories", "there is no such file or folder."),
        Searched(Path("models").absolute(), "directories", exists=False),
    ]


def test_a_base_gguf_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("SHIMMY_BASE_GGUF", "gone.gguf")
    with pytest.raises(ConfigError, match=r"base_gguf is 'gone.gguf' \(from SHIMMY_BASE_GGUF\)"):
        list(Directories().scan(load_settings()))


def test_packages_are_looked_into_without_importing_them(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    model = touch(site / "some_model/tiny.gguf")
    touch(site / "some_model/data/deeper.gguf")
    touch(tmp_path / "elsewhere/other.gguf")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(site), str(site), str(tmp_path / "gone")])
    assert paths(PythonPackages().scan(Settings())) == [model]
    assert "some_model" not in sys.modules
