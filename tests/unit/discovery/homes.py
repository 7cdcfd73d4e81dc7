"""Home directories of three systems, made up on the one the tests run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy.discovery.places import Places

SYSTEMS = ("linux", "darwin", "win32")
every_system = pytest.mark.parametrize("system", SYSTEMS)


def home_of(system: str, root: Path, **variables: str) -> Places:
    """A user's places below ``root``, which is the home directory."""
    home = {
        "linux": {"HOME": str(root)},
        "darwin": {"HOME": str(root)},
        "win32": {
            "USERPROFILE": str(root),
            "APPDATA": str(root / "AppData" / "Roaming"),
            "LOCALAPPDATA": str(root / "AppData" / "Local"),
        },
    }
    return Places(system, home[system] | variables)


def touch(path: Path, content: str | bytes = b"") -> Path:
    """A file, and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
