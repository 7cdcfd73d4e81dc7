"""Settings: flags > ``SHIMMY_*`` > ``shimmy.toml`` > default.

Reading takes two passes, for plugins declare settings of their own: :func:`load_settings`, then
plugins load, then :func:`check_plugin_settings`.
"""

from shimmy.settings.checks import check_plugin_settings
from shimmy.settings.model import Address, Settings, load_settings, settings_table
from shimmy.settings.sources import Origin

__all__ = ["Address", "Origin", "Settings", "check_plugin_settings", "load_settings", "settings_table"]
