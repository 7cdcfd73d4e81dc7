"""Settings: every value once. Flags > ``SHIMMY_*`` > ``shimmy.toml`` > default.

One setting has one name in four spellings: ``--max-ctx``, ``SHIMMY_MAX_CTX``, ``max_ctx`` in the
file, ``settings.max_ctx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Interval
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shimmy.plugins import PluginChoice
from shimmy.settings.problems import check_obsolete, config_error
from shimmy.settings.sources import DEFAULT, EnvironmentSource, FileSource, Origin, flag_arguments
from shimmy.settings.table import PREFIX, SettingInfo, describe, takes_auto
from shimmy.settings.values import BindAddress, Bytes, UserPath, split_address

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


class PluginTables(BaseModel):
    """The ``[plugins]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: tuple[str, ...] | None = Field(default=None, description="Load only these plugins.")
    disabled: tuple[str, ...] = Field(default=(), description="Never import these plugins.")
    settings: dict[str, dict[str, Any]] = {}


class SamplingTable(BaseModel):
    """The ``[sampling]`` table: what a request gets that does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Interval(ge=0, le=2)] | None = Field(
        default=None, description="Temperature of requests that name none."
    )
    top_p: Annotated[float, Interval(ge=0, le=1)] | None = Field(
        default=None, description="Share of probability that requests draw from which do not say."
    )
    top_k: Annotated[int, Interval(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Number of tokens that requests draw from which do not say; 0 is all."
    )
    min_p: Annotated[float, Interval(ge=0, le=1)] | None = Field(
        default=None, description="Least probability, relative to the likeliest token, likewise."
    )
    repeat_penalty: Annotated[float, Interval(ge=0.01, le=10)] | None = Field(
        default=None, description="Penalty on tokens seen before, likewise; 1 is none."
    )


class Settings(BaseSettings):
    """The core's settings. Frozen; :meth:`origin` tells where each value came from.

    Fields without a description are no settings: nobody finds them in flags or documentation.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        # plugins, settings, NAME and KEY, which may hold the delimiter itself.
        env_nested_max_split=3,
    )

    config: UserPath | None = None
    """The file that ``--config`` or ``SHIMMY_CONFIG`` names."""
    origins: dict[str, Origin] = {}
    """Where given values came from, by key."""

    host: str = Field(default=LOOPBACK, description="Address to listen on.")
    port: Annotated[int, Interval(ge=1, le=65535)] | Literal["auto"] = Field(
        default="auto", description="Port to listen on; auto takes 11435, else the next free one."
    )
    bind_address: BindAddress | None = Field(
        default=None,
        description="Host and port in one; wins over both unless they come from a stronger source.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names a request's Host header may have besides this machine's loopback ones."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Web origins whose pages may call the server."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Requests must carry this key as a bearer token."
    )
    api_key_file: UserPath | None = Field(
        default=None, description="A file that holds the key instead; one key per line."
    )
    strict: bool = Field(default=False, description="Refuse requests with fields nobody knows.")
    base_gguf: UserPath | None = Field(
        default=None, description="The model file, or folder, to serve by default."
    )
    model_paths: tuple[UserPath, ...] = Field(
        default=(), description="Model files, and folders to search for them."
    )
    models_dir: UserPath | None = Field(default=None, description="One more folder to search for models.")
    auto_discover: UserPath | None = Field(
        default=None, description="A trainer's output folder to search for models and adapters."
    )
    lora_gguf: UserPath | None = Field(
        default=None, description="The LoRA adapter to serve by default: a folder, or one of its files."
    )
    lora_dirs: tuple[UserPath, ...] = Field(
        default=(), description="Folders from which clients with the admin key may load adapters."
    )
    admin_key: SecretStr | None = Field(
        default=None, description="Lets clients from other machines load and unload adapters."
    )
    served_model_name: tuple[str, ...] = Field(
        default=(), description="Further names: of the default model, or MODEL=NAME of another."
    )
    frontends: tuple[str, ...] | None = Field(default=None, description="Serve only these APIs.")
    strict_plugins: bool = Field(default=False, description="Stop when a plugin fails to load.")
    engine_backend: str = Field(default="auto", description="The compute engine, by its registered name.")
    precision: Literal["auto", "f32", "int8"] = Field(
        default="auto",
        description="Arithmetic of quantised weights; auto is the engine's fastest: int8 on the CPU.",
    )
    gpu: str = Field(
        default="auto",
        description="The GPU that computes, by its index or a part of its name in `shimmy gpu-info`.",
    )
    gpu_memory: Bytes | None = Field(
        default=None,
        description="Memory of the GPU that a model may take; auto is what is free, if that is known.",
    )
    gpu_layers: Annotated[int, Interval(ge=0, le=1024)] | None = Field(
        default=None, description="Layers on the GPU, the last ones; the CPU computes others. Auto is all."
    )
    cpu_moe: bool = Field(
        default=False, description="Keep the experts' weights in the machine's memory; the CPU computes them."
    )
    n_cpu_moe: Annotated[int, Interval(ge=0, le=1024)] = Field(
        default=0, description="Do so with the experts of so many layers, the first ones."
    )
    threads: Annotated[int, Interval(ge=1, le=256)] | None = Field(
        default=None, description="CPU threads that compute; auto is the physical cores the process may use."
    )
    instructions: Literal["auto", "avx2"] = Field(
        default="auto", description="CPU instructions used at most; auto uses the best there are."
    )
    quantize: str = Field(
        default="f16", description="Type that the weights of Hugging Face folders are converted to."
    )
    max_ctx: Annotated[int, Interval(ge=512, le=131072)] | None = Field(
        default=None, description="Longest context of a sequence, in tokens."
    )
    rope_scale: Annotated[float, Interval(ge=1, le=1024)] | None = Field(
        default=None, description="Factor by which positions are stretched beyond the native context."
    )
    chat_template: str | None = Field(
        default=None, description="A template family or a Jinja file, instead of the models' own."
    )
    pre_tokenizer: str | None = Field(
        default=None, description="The pre-tokenizer of BPE vocabularies, instead of what the file names."
    )
    kv_type: Literal["f32", "f16", "q8_0"] = Field(
        default="f32", description="Type of the KV cache: f16 takes half the memory, q8_0 about a quarter."
    )
    kv_memory: Bytes | None = Field(default=None, description="Memory for the KV cache of a model.")
    prefix_cache: bool = Field(
        default=True, description="Keep what prompts that begin alike have in common, in the KV cache."
    )
    prefix_cache_memory: Bytes | None = Field(
        default=None, description="Memory that may stay filled for it; auto is a quarter of kv_memory."
    )
    packed_cache: bool = Field(
        default=False, description="Keep packed weights on disk: later starts map them, processes share them."
    )
    packed_cache_size: Bytes | None = Field(
        default=None, description="Disk that they may take, longest unused ones go first; auto is 32 GiB."
    )
    max_sequences: Annotated[int, Interval(ge=1, le=1024)] = Field(
        default=32, description="Sequences a model computes at a time; further requests wait."
    )
    step_tokens: Annotated[int, Interval(ge=1, le=8192)] | None = Field(
        default=None,
        description="Most tokens that one step computes; auto is 128 on the CPU, 1024 on a GPU.",
    )
    max_adapters: Annotated[int, Interval(ge=1, le=256)] = Field(
        default=8, description="LoRA adapters of a model in memory at a time; the longest unused one goes."
    )
    max_lora_rank: Annotated[int, Interval(ge=1, le=1024)] = Field(
        default=256, description="Highest rank of an adapter that is loaded."
    )
    lora_memory: Bytes = Field(default=2 << 30, description="Memory for the adapters of a model together.")
    watch: bool = Field(
        default=False, description="Take new checkpoints, adapters and models while the server runs."
    )
    max_loaded_models: Annotated[int, Interval(ge=1, le=64)] = Field(
        default=1, description="Models in memory at a time."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity logged."
    )
    sampling: SamplingTable = SamplingTable()
    plugins: PluginTables = PluginTables()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_args: PydanticBaseSettingsSource,
        **_kwargs: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first: flags are given as arguments."""
        table = settings_table()
        return init_settings, EnvironmentSource(settings_cls, table), FileSource(settings_cls, table)

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, given: dict[str, Any], validate: ModelWrapValidatorHandler[Settings]) -> Settings:
        """What pydantic finds wrong becomes an error that tells where the value came from."""
        try:
            return validate(given)
        except ValidationError as error:
            raise config_error(error, given, settings_table()) from None

    @field_validator("*", mode="before")
    @classmethod
    def _spellings(cls, value: Any, info: ValidationInfo) -> Any:
        """``auto`` may stand for None, True is no number, and some values are obsolete."""
        name = info.field_name or ""
        annotation = cls.model_fields[name].annotation
        if value == "auto" and takes_auto(annotation):
            return None
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("a truth value")
        check_obsolete(name, value)
        return value

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


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """The settings in force. ``flags`` are by key (``max_ctx``, ``plugins.disabled``); None is not given.

    Raises:
        ConfigError: an unknown key or variable, a value of wrong type or out of range.
    """
    return Settings(**flag_arguments(flags or {}, config, settings_table()))
