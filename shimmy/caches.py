"""Where shimmy keeps what it can make again: kernels, looks at model files, models made up to measure."""

from __future__ import annotations

import os
from pathlib import Path

#: The environment variable that names another folder.
VARIABLE = "SHIMMY_CACHE_DIR"


def cache_folder() -> Path:
    """``SHIMMY_CACHE_DIR``, else the user's cache directory for shimmy. It need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("shimmy")
