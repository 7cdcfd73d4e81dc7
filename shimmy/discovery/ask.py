"""Ask all discovery sources at once: each in a thread, none trusted to answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shimmy.discovery.records import Report, Skipped
from shimmy.errors import ConfigError
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.settings import Settings

_logger = logging.getLogger(__name__)


class _Inquiry:
    """One source being asked."""

    def __init__(self, spec: DiscoverySourceSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._reports: list[Report] = []
        self._error: BaseException | None = None
        # A daemon: one that hangs in a dead network drive must not keep the process alive.
        self._thread = threading.Thread(target=self._ask, name=f"discovery {spec.name}", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            for report in self._spec.load().scan(self._settings):
                self._reports.append(report)
        except (Exception, SystemExit) as error:
            self._error = error

    def reports(self, deadline: float, seconds: float) -> list[Report]:
        """What it has reported by the deadline, and what went wrong; a ConfigError is raised."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        name, late = self._spec.name, self._thread.is_alive()
        reports = list(self._reports)
        if isinstance(self._error, ConfigError):
            raise self._error
        if late:
            _logger.warning("discovery source %r did not finish in %g s; going on without it.", name, seconds)
            reports.append(Skipped(None, name, f"not finished after {seconds:g} s; the rest was left out."))
        elif self._error is not None:
            _logger.error("discovery source %r failed; going on without it.", name, exc_info=self._error)
            problem = f"the source failed: {type(self._error).__name__}: {self._error}"
            reports.append(Skipped(None, name, problem))
        return reports


def ask_sources(
    sources: Iterable[DiscoverySourceSpec], settings: Settings, *, seconds: float
) -> list[Report]:
    """What all sources report, in their order; after ``seconds`` what they have found until then.

    Raises:
        ConfigError: a setting names what does not exist.
    """
    deadline = time.monotonic() + seconds
    inquiries = [_Inquiry(spec, settings) for spec in sources]
    return [report for inquiry in inquiries for report in inquiry.reports(deadline, seconds)]
