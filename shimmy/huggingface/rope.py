"""Rotary positions as config.json tells them, as GGUF metadata and tensors.

``rope_theta`` and ``rope_scaling``, or both in one ``rope_parameters``. Kinds that GGUF has no key for
become a divisor per pair of dimensions, in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from shimmy.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]

DEFAULT_BASE = 10000.0
#: The float32 next to it.
ALMOST_ONE = 1.0 + 2.0**-23
#: Kinds that change nothing within the context a model was trained for.
_PLAIN = ("default", "dynamic")
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a model rotates."""

    base: float
    dims: int
    """Dimensions of a head that are rotated, the first ones."""
    kind: str
    """``rope_type`` of config.json."""
    numbers: Mapping[str, Any]
    """What config.json says besides."""
    context: int
    """Positions the model was trained for."""

    def metadata(self) -> dict[str, Any]:
        """GGUF keys without the architecture's name."""
        keys: dict[str, Any] = {"rope.dimension_count": self.dims, "rope.freq_base": self.base}
        if self.kind == "linear":
            return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": self._number("factor")}
        if self.kind == "yarn":
            return keys | self._yarn()
        if self.kind == "longrope":
            return keys | self._longrope()
        return keys

    def tensors(self) -> dict[str, F32]:
        """Divisors of the frequencies, (dims / 2,) each."""
        if self.kind == "llama3":
            return {"rope_freqs.weight": self._llama3()}
        if self.kind == "longrope":
            names = ("long", "short")
            return {f"rope_factors_{name}.weight": self._factors(f"{name}_factor") for name in names}
        return {}

    @property
    def _original(self) -> int:
        """Positions the frequencies were trained for, before they were scaled."""
        return int(self.numbers.get(_ORIGINAL) or self.context)

    def _yarn(self) -> dict[str, Any]:
        keys: dict[str, Any] = {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": self._number("factor"),
            "rope.scaling.original_context_length": self._original,
        }
        if (magnitude := self._yarn_magnitude()) is not None:
            # To the format, 1 is "nothing of its own".
            keys["rope.scaling.yarn_attn_factor"] = ALMOST_ONE if magnitude == 1.0 else magnitude
        for name in ("beta_fast", "beta_slow"):
            if self.numbers.get(name) is not None:
                keys[f"rope.scaling.yarn_{name}"] = self._number(name)
        return keys

    def _yarn_magnitude(self) -> float | None:
        """The factor on cosines and sines, where it is not the paper's."""
        if self.numbers.get("attention_factor") is not None:
            return self._number("attention_factor")
        scales = [self.numbers.get(name) for name in ("mscale", "mscale_all_dim")]
        if not all(scales):
            return None
        stretch = 0.1 * math.log(max(self._number("factor"), 1.0))
        above, below = (stretch * self._number(name) + 1.0 for name in ("mscale", "mscale_all_dim"))
        return above / below

    def _longrope(self) -> dict[str, Any]:
        keys: dict[str, Any] = {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": self._original,
        }
        if self.numbers.get("attention_factor") is not None:
            keys["rope.scaling.attn_factor"] = self._number("attention_factor")
        return keys

    def _llama3(self) -> F32:
        """Slow pairs by the factor, fast ones not, those between in part (Llama 3.1, arXiv:2407.21783)."""
        import numpy as np

        factor = self._number("factor")
        slow, fast = self._number("low_freq_factor"), self._number("high_freq_factor")
        turns = self._original * self.base ** -(np.arange(0, self.dims, 2) / self.dims) / (2 * math.pi)
        kept = np.clip((turns - slow) / (fast - slow), 0.0, 1.0)
        return (1 / ((1 - kept) / factor + kept)).astype(np.float32)

    def _factors(self, name: str) -> F32:
        import numpy as np

        values = self.numbers.get(name)
        if not isinstance(values, list) or len(values) != self.dims // 2:
            raise ModelError(f"{name!r} of rope_scaling is no list of {self.dims // 2} numbers.")
        return np.array(values, np.float32)

    def _number(self, name: str) -> float:
        value: Any = self.numbers.get(name)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise ModelError(
                f"{name!r} of rope_scaling, kind {self.kind!r}, is {value!r:.40}; expected a number above 0."
            )
        return float(value)


def rotation(config: Mapping[str, Any], *, context: int) -> Rotation:
    """What a config.json says about rotary positions.

    Raises:
        ModelError: a kind of scaling that is not known here, or a number it needs is missing.
    """
    numbers = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(numbers, dict) or any(isinstance(value, dict) for value in numbers.values()):
        raise ModelError("rope_parameters differ from layer to layer, which is not converted.")
    numbers = {key: config[key] for key in (_ORIGINAL,) if key in config} | numbers
    kind = numbers.get("rope_type") or numbers.get("type") or "default"
    if kind == "su":  # its first name
        kind = "longrope"
    if kind not in (*_PLAIN, "linear", "yarn", "llama3", "longrope"):
        raise ModelError(f"rope_scaling is of the kind {kind!r:.40}, which shimmy does not know.")
    if kind == "yarn" and numbers.get("truncate") is False:
        raise ModelError("rope_scaling has 'truncate': false, which shimmy does not compute.")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    share = numbers.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    base = float(numbers.get("rope_theta") or config.get("rope_theta") or DEFAULT_BASE)
    return Rotation(base, int(head * share), kind, numbers, context)
