"""Settings: flags > ``SHIMMY_*`` > ``shimmy.toml`` > default.

Reading takes two passes, for plugins declare settings of their own: :func:`load_settings`, then
plugins load, then :func:`check_plugin_settings`.
"""

from shimmy.settings.checks import check_plugin_settings
from shimmy.settings.load import load_settings
from shimmy.settings.model import Address, SamplingTable, Settings, settings_table
from shimmy.settings.sources import Origin
from shimmy.settings.values import Secret

__all__ = [
    "Address",
    "Origin",
    "SamplingTable",
    "Secret",
    "Settings",
    "check_plugin_settings",
    "load_settings",
    "settings_table",
]
