from pathlib import Path

import pytest

from shimmy.discovery.places import Places
from tests.unit.discovery.homes import every_system, home_of


@every_system
def test_home_and_paths_in_it(system, tmp_path):
    places = home_of(system, tmp_path, THERE="~/there", BLANK=" ")
    assert places.home == tmp_path
    assert places.path("~") == tmp_path
    assert places.variable("THERE") == tmp_path / "there"
    assert places.variable("BLANK") is None
    assert places.variable("UNSET") is None
    assert places.path("/absolute") == Path("/absolute")


def test_caches():
    assert Places("linux", {"HOME": "/h"}).dot_cache == Path("/h/.cache")
    assert Places("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/c"}).dot_cache == Path("/c")


@pytest.mark.parametrize(
    ("system", "variables", "folders"),
    [
        ("linux", {}, ["/h/.config"]),
        ("linux", {"XDG_CONFIG_HOME": "/c"}, ["/c"]),
        ("darwin", {}, ["/h/Library/Application Support"]),
        ("win32", {}, ["/h/AppData/Roaming", "/h/AppData/Local"]),
        ("win32", {"APPDATA": "/r", "LOCALAPPDATA": "/l"}, ["/r", "/l"]),
    ],
)
def test_application_data(system, variables, folders):
    home = {"HOME": "/h", "USERPROFILE": "/h"}
    assert Places(system, home | variables).application_data == tuple(map(Path, folders))


def test_windows_without_a_profile():
    assert Places("win32", {"HOMEDRIVE": "/drive", "HOMEPATH": "/me"}).home == Path("/drive/me")


def test_this_process(empty_home):
    assert Places().home == empty_home
