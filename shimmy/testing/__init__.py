"""The conformance kit: what tests of architectures, quant types and engines are made of.

Third parties and shimmy's own tests use the very same; docs/testing.md tells how. The three classes need
pytest, which shimmy itself does not; everything else here needs only shimmy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shimmy.testing.architectures import ArchitectureConformance
    from shimmy.testing.backends import BackendConformance
    from shimmy.testing.quants import QuantConformance

__all__ = ["ArchitectureConformance", "BackendConformance", "QuantConformance"]

_MODULES = {
    "ArchitectureConformance": "architectures",
    "BackendConformance": "backends",
    "QuantConformance": "quants",
}


def __getattr__(name: str) -> Any:
    """The classes, each imported when it is asked for."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
