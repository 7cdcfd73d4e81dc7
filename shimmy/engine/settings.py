"""The part of the settings that an engine worker gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from shimmy.settings import Settings


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings a worker needs, frozen at its start."""

    backend: str = "auto"
    precision: str = "auto"
    gpu: str = "auto"
    gpu_memory: int | None = None
    """Bytes; None: what is free."""
    gpu_layers: int | None = None
    """Layers on the GPU, counted from the last; None: all."""
    cpu_moe: bool = False
    n_cpu_moe: int = 0
    """Layers, counted from the first, whose experts are not on the GPU."""
    threads: int | None = None
    instructions: str = "auto"
    max_ctx: int | None = None
    rope_scale: float | None = None
    """Factor of YaRN, at least 1; None lets ``max_ctx`` decide."""
    kv_type: str = "f32"
    quantize: str = "f16"
    """What matrices of model folders become when they are converted."""
    kv_memory: int | None = None
    """Bytes; None takes a share of the machine's memory."""
    prefix_cache: bool = True
    prefix_cache_memory: int | None = None
    """Bytes; None takes a share of ``kv_memory``."""
    packed_cache: bool = False
    packed_cache_size: int | None = None
    """Bytes; None: :data:`shimmy.engine.load.PACKED_CACHE_SIZE`."""
    max_sequences: int = 32
    step_tokens: int | None = None
    """None: what suits the backend."""
    max_adapters: int = 8
    max_lora_rank: int = 256
    lora_memory: int = 2 << 30
    """Bytes of all adapters together."""
    plugins_enabled: tuple[str, ...] | None = None
    plugins_disabled: tuple[str, ...] = ()
    strict_plugins: bool = False

    @classmethod
    def of(cls, settings: Settings) -> EngineSettings:
        """The part of the core's settings that concerns an engine."""
        renamed: dict[str, Any] = {
            "backend": settings.engine_backend,
            "plugins_enabled": settings.plugins.enabled,
            "plugins_disabled": settings.plugins.disabled,
        }
        same = {name: getattr(settings, name) for name in cls.__struct_fields__ if name not in renamed}
        return cls(**renamed, **same)
