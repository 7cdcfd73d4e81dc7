"""An adapter as GGUF, as llama.cpp reads it too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import AdapterError
from shimmy.files import written_whole
from shimmy.gguf.writer import write_gguf
from shimmy.graph.lora import Term
from shimmy_plugins.commands.lora.fitted import Fitted, fit

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


def convert(base: Path, adapter: Path, out: Path, settings: Settings, plugins: Plugins) -> None:
    """Write ``out``.

    Raises:
        AdapterError: the adapter does not fit the base, or has whole matrices or biases.
    """
    fitted = fit(base, adapter, settings, plugins)
    alpha = _alpha(fitted)
    tensors: dict[str, NDArray[Any]] = {}
    for label, term in fitted.terms.items():
        if term.a is None or term.b is None or term.offset is not None:
            raise AdapterError(
                f"{adapter}: {label!r} is replaced as a whole, or has a bias: adapters in GGUF have neither.",
                hint="`shimmy lora merge` can write it into the base.",
            )
        tensors |= _pair(label, term, folded=alpha == 0)
    metadata = {
        "general.architecture": fitted.base.architecture,
        "general.type": "adapter",
        "general.name": adapter.name,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    if fitted.adapter.base:
        metadata["general.base_model.count"] = 1
        metadata["general.base_model.0.name"] = fitted.adapter.base
    with written_whole(out) as part:
        write_gguf(part, metadata, tensors)


def _alpha(fitted: Fitted) -> float:
    """The one alpha of all modules; 0, by which llama.cpp means none, where they differ."""
    alphas = {round(term.scale * term.rank, 6) for term in fitted.terms.values()}
    return alphas.pop() if len(alphas) == 1 else 0.0


def _pair(label: str, term: Term, *, folded: bool) -> dict[str, NDArray[Any]]:
    """A and B; with ``folded`` B is scaled already. A of an embedding has a row for each token, as here."""
    assert term.a is not None
    assert term.b is not None
    b = (np.float32(term.scale) * term.b.astype(np.float32)) if folded else term.b
    return {
        f"{label}.weight.lora_a": np.ascontiguousarray(term.a),
        f"{label}.weight.lora_b": np.ascontiguousarray(b),
    }
