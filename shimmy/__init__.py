"""shimmy: a local LLM server built from plugins.

This module is what a plugin needs at import time and nothing heavy: the hook marker,
the version, and the plugin API version it was written for.
"""

from pluggy import HookimplMarker

__version__ = "0.1.0"

#: Version of the hook signatures and of the records in :mod:`shimmy.specs`. A plugin may say
#: ``shimmy_api = 1`` at module level; one that names another version is reported and not loaded.
API_VERSION = 1

hookimpl = HookimplMarker("shimmy")

__all__ = ["API_VERSION", "__version__", "hookimpl"]
