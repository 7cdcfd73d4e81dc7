"""Where models and adapters are looked for: by the settings, and in a user's folders on each system."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shimmy.settings import Settings

#: Searched wherever shimmy is started, if it is there.
HERE = Path("models")


def model_places(settings: Settings) -> list[Path]:
    """Files, and folders to search, that the settings name for models; they need not exist."""
    folders = (settings.models_dir, settings.auto_discover)
    return [*(folder for folder in folders if folder is not None), *settings.model_paths]


def adapter_places(settings: Settings) -> list[Path]:
    """All that is searched for adapters, and from where clients may load some; they need not exist."""
    return [*settings.lora_dirs, *model_places(settings), HERE]


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of the user of this process, or of another machine's by its platform and variables."""

    platform: str = sys.platform
    """As ``sys.platform`` has it."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def home(self) -> Path:
        """The home directory; RuntimeError if nothing tells which one."""
        if self.platform == "win32":
            drive, path = self.environ.get("HOMEDRIVE", ""), self.environ.get("HOMEPATH", "")
            home = self.environ.get("USERPROFILE") or drive + path
        else:
            home = self.environ.get("HOME", "")
        return Path(home) if home else Path.home()

    def variable(self, name: str) -> Path | None:
        """The path an environment variable holds, ``~`` resolved; None if it is unset or empty."""
        value = self.environ.get(name, "").strip()
        return self.path(value) if value else None

    def path(self, text: str) -> Path:
        """``~/models`` as a path; ``~`` is this home."""
        if text == "~" or text.startswith(("~/", "~\\")):
            return self.home / text[2:]
        return Path(text)

    @property
    def dot_cache(self) -> Path:
        """``~/.cache``, which many programs use on every system, or XDG_CACHE_HOME."""
        return self.variable("XDG_CACHE_HOME") or self.home / ".cache"

    @property
    def application_data(self) -> tuple[Path, ...]:
        """Where the system wants programs to keep what belongs to the user."""
        if self.platform == "win32":
            roaming = self.variable("APPDATA") or self.home / "AppData" / "Roaming"
            return roaming, self.variable("LOCALAPPDATA") or self.home / "AppData" / "Local"
        if self.platform == "darwin":
            return (self.home / "Library" / "Application Support",)
        return (self.variable("XDG_CONFIG_HOME") or self.home / ".config",)
