"""Settings: every value once. Flags > ``SHIMMY_*`` > ``shimmy.toml`` > default.

One setting has one name in four spellings: ``--max-ctx``, ``SHIMMY_MAX_CTX``, ``max_ctx`` in the
file, ``settings.max_ctx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from shimmy.plugins import PluginChoice
from shimmy.settings.sources import DEFAULT, Origin
from shimmy.settings.table import SettingInfo, describe, setting
from shimmy.settings.values import BindAddress, Bytes, Secret, split_address

LOOPBACK = "127.0.0.1"
#: Flags that are not simply the key with hyphens.
FLAGS = {
    "bind_address": "--bind",
    "plugins.enabled": "--with",
    "plugins.disabled": "--without",
    "sampling.temperature": "--temperature",
    "sampling.top_p": "--top-p",
    "sampling.top_k": "--top-k",
    "sampling.min_p": "--min-p",
    "sampling.repeat_penalty": "--repeat-penalty",
}


class Address(NamedTuple):
    """Where to listen; ``port`` None: look for a free one."""

    host: str
    port: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginTables:
    """The ``[plugins]`` table."""

    enabled: tuple[str, ...] | None = setting(None, "Load only these plugins.")
    disabled: tuple[str, ...] = setting((), "Never import these plugins.")
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingTable:
    """The ``[sampling]`` table: what a request gets that does not say."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = setting(
        None, "Temperature of requests that name none."
    )
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = setting(
        None, "Share of probability that requests draw from which do not say."
    )
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = setting(
        None, "Number of tokens that requests draw from which do not say; 0 is all."
    )
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = setting(
        None, "Least probability, relative to the likeliest token, likewise."
    )
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = setting(
        None, "Penalty on tokens seen before, likewise; 1 is none."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The core's settings. Frozen; :meth:`origin` tells where each value came from.

    Fields without a text are no settings: nobody finds them in flags or documentation. Made from values
    that are right already; :func:`shimmy.settings.load_settings` takes what people write.
    """

    config: Path | None = None
    """The file that ``--config`` or ``SHIMMY_CONFIG`` names."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where given values came from, by key."""

    host: str = setting(LOOPBACK, "Address to listen on.")
    port: Annotated[int, Meta(ge=1, le=65535)] | Literal["auto"] = setting(
        "auto", "Port to listen on; auto takes 11435, else the next free one."
    )
    bind_address: BindAddress | None = setting(
        None, "Host and port in one; wins over both unless they come from a stronger source."
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "Names a request's Host header may have besides this machine's loopback ones."
    )
    allowed_origins: tuple[str, ...] = setting((), "Web origins whose pages may call the server.")
    api_key: Secret | None = setting(None, "Requests must carry this key as a bearer token.")
    api_key_file: Path | None = setting(None, "A file that holds the key instead; one key per line.")
    strict: bool = setting(False, "Refuse requests with fields nobody knows.")
    base_gguf: Path | None = setting(None, "The model file, or folder, to serve by default.")
    model_paths: tuple[Path, ...] = setting((), "Model files, and folders to search for them.")
    models_dir: Path | None = setting(None, "One more folder to search for models.")
    auto_discover: Path | None = setting(None, "A trainer's output folder to search for models and adapters.")
    lora_gguf: Path | None = setting(
        None, "The LoRA adapter to serve by default: a folder, or one of its files."
    )
    lora_dirs: tuple[Path, ...] = setting(
        (), "Folders from which clients with the admin key may load adapters."
    )
    admin_key: Secret | None = setting(None, "Lets clients from other machines load and unload adapters.")
    served_model_name: tuple[str, ...] = setting(
        (), "Further names: of the default model, or MODEL=NAME of another."
    )
    frontends: tuple[str, ...] | None = setting(None, "Serve only these APIs.")
    strict_plugins: bool = setting(False, "Stop when a plugin fails to load.")
    engine_backend: str = setting("auto", "The compute engine, by its registered name.")
    precision: Literal["auto", "f32", "int8"] = setting(
        "auto", "Arithmetic of quantised weights; auto is the engine's fastest: int8 on the CPU."
    )
    gpu: str = setting(
        "auto", "The GPU that computes, by its index or a part of its name in `shimmy gpu-info`."
    )
    gpu_memory: Bytes | None = setting(
        None, "Memory of the GPU that a model may take; auto is what is free, if that is known."
    )
    threads: Annotated[int, Meta(ge=1, le=256)] | None = setting(
        None, "CPU threads that compute; auto is the physical cores the process may use."
    )
    instructions: Literal["auto", "avx2"] = setting(
        "auto", "CPU instructions used at most; auto uses the best there are."
    )
    quantize: str = setting("f16", "Type that the weights of Hugging Face folders are converted to.")
    max_ctx: Annotated[int, Meta(ge=512, le=131072)] | None = setting(
        None, "Longest context of a sequence, in tokens."
    )
    rope_scale: Annotated[float, Meta(ge=1, le=1024)] | None = setting(
        None, "Factor by which positions are stretched beyond the native context."
    )
    chat_template: str | None = setting(
        None, "A template family or a Jinja file, instead of the models' own."
    )
    pre_tokenizer: str | None = setting(
        None, "The pre-tokenizer of BPE vocabularies, instead of what the file names."
    )
    kv_type: Literal["f32", "f16", "q8_0"] = setting(
        "f32", "Type of the KV cache: f16 takes half the memory, q8_0 about a quarter."
    )
    kv_memory: Bytes | None = setting(None, "Memory for the KV cache of a model.")
    prefix_cache: bool = setting(True, "Keep what prompts that begin alike have in common, in the KV cache.")
    prefix_cache_memory: Bytes | None = setting(
        None, "Memory that may stay filled for it; auto is a quarter of kv_memory."
    )
    packed_cache: bool = setting(
        False, "Keep packed weights on disk: later starts map them, processes share them."
    )
    packed_cache_size: Bytes | None = setting(
        None, "Disk that they may take, longest unused ones go first; auto is 32 GiB."
    )
    max_sequences: Annotated[int, Meta(ge=1, le=1024)] = setting(
        32, "Sequences a model computes at a time; further requests wait."
    )
    step_tokens: Annotated[int, Meta(ge=1, le=8192)] = setting(
        128, "Most tokens that one step of the engine computes."
    )
    max_adapters: Annotated[int, Meta(ge=1, le=256)] = setting(
        8, "LoRA adapters of a model in memory at a time; the longest unused one goes."
    )
    max_lora_rank: Annotated[int, Meta(ge=1, le=1024)] = setting(
        256, "Highest rank of an adapter that is loaded."
    )
    lora_memory: Bytes = setting(2 << 30, "Memory for the adapters of a model together.")
    watch: bool = setting(False, "Take new checkpoints, adapters and models while the server runs.")
    max_loaded_models: Annotated[int, Meta(ge=1, le=64)] = setting(1, "Models in memory at a time.")
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least severity logged.")
    sampling: SamplingTable = field(default_factory=SamplingTable)
    plugins: PluginTables = field(default_factory=PluginTables)

    def origin(self, key: str) -> Origin:
        """Where the value of ``key`` (``max_ctx``, ``plugins.disabled``) came from."""
        return self.origins.get(key, DEFAULT)

    @property
    def address(self) -> Address:
        """Where to listen, by ``bind_address`` or by ``host`` and ``port``."""
        stronger = max(self.origin("host").source, self.origin("port").source)
        if self.bind_address is None or self.origin("bind_address").source < stronger:
            return Address(self.host, None if self.port == "auto" else self.port)
        if self.bind_address == "auto":
            return Address(LOOPBACK, None)
        return Address(*split_address(self.bind_address))

    @property
    def plugin_choice(self) -> PluginChoice:
        return PluginChoice(self.plugins.enabled, self.plugins.disabled, self.strict_plugins)


@cache
def settings_table() -> Mapping[str, SettingInfo]:
    """Every setting by key: its spellings, default, what it takes, and its help."""
    return (
        describe(Settings, FLAGS)
        | describe(SamplingTable, FLAGS, "sampling.")
        | describe(PluginTables, FLAGS, "plugins.")
    )
