"""reference: the NumPy definitions, op by op. Slow; the judge of the other engines, chosen only by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import BackendSpec

if TYPE_CHECKING:
    from shimmy.engine.plan import Backend
    from shimmy.hooks import Plugins


def _probe() -> str | None:
    """NumPy is a dependency of shimmy itself, so this engine runs everywhere."""
    return None


def _load(_plugins: Plugins) -> Backend:
    from shimmy.engine.reference import ReferenceBackend

    return ReferenceBackend()


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    register(BackendSpec(name="reference", priority=-1, probe=_probe, load=_load))
