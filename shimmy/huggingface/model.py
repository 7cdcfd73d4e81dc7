"""A model folder read by the architecture that computes it: as the GGUF metadata a converter would write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shimmy.errors import ModelError, did_you_mean
from shimmy.huggingface.folder import CONFIG, GENERATION_CONFIG, ModelFolder
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.hooks import Plugins
    from shimmy.huggingface.rope import Rotation

T = TypeVar("T")

#: What makers recommend in generation_config.json -> where GGUF has it.
_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
#: The version of ggml's block formats.
_QUANTIZATION_VERSION = 2

_log = logging.getLogger(__name__)


class FolderModel:
    """What a folder's model is.

    Raises:
        ModelError: no plugin claims its architecture, its weights are quantised in a way of their own,
            or config.json has a value that the architecture does not compute.
    """

    def __init__(self, folder: ModelFolder, plugins: Plugins) -> None:
        self.folder = folder
        self._tokenizers = plugins.tokenizers
        self.spec, self.reading = _claimed(folder, plugins)
        self.architecture = self.spec.names[0]
        self._config_path = folder.path / CONFIG
        for key, values in self.reading.expected.items():
            if key in self.config and self.config[key] not in values:
                raise ModelError(
                    f"{self._config_path}: {key!r} is {self.config[key]!r:.40}, but {self.architecture!r} "
                    f"computes {' or '.join(map(repr, values))}.",
                    hint="Such a model needs an architecture plugin of its own.",
                )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json, with what the architecture derives from it.

        Raises:
            ModelError: it lacks something, or a value is not of its kind.
        """
        config, derive = self.folder.config, self.reading.derive
        if derive is None:
            return config
        try:
            return {**config, **self._located(lambda: derive(config))}
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ModelError(
                f"{self._config_path}: is none of {self.architecture!r} ({type(error).__name__}: {error}).",
                hint="The folder is incomplete, or was written by something unusual.",
            ) from error

    @cached_property
    def config_metadata(self) -> Mapping[str, Any]:
        """What config.json says of the model.

        Raises:
            ModelError: it lacks a key, or a value is not of its kind.
        """
        read = {gguf: self._value(key) for gguf, key in self.reading.keys.items()}
        own = {key: value for key, value in read.items() if value is not None}
        if (window := self._window()) is not None and window < own.get("context_length", 0):
            # Up to there, a window and none are the same.
            own["context_length"] = window
            _log.info("%s: each token sees %d others, so its context ends there.", self.folder.path, window)
        if self.rotation is not None:
            own |= self._located(self.rotation.metadata)
        general = {
            "general.architecture": self.architecture,
            "general.type": "model",
            "general.name": model_name(self.folder.path),
            "general.quantization_version": _QUANTIZATION_VERSION,
        }
        return general | {f"{self.architecture}.{key}": value for key, value in own.items()}

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """All metadata but the type of the weights, which is for the converter to choose.

        Raises:
            ModelError: as :attr:`config_metadata`, or the tokenizer is missing or not understood.
        """
        from shimmy.huggingface.templates import template_metadata
        from shimmy.huggingface.tokenizer import tokenizer_metadata

        recommended = self.folder.json_if_any(GENERATION_CONFIG)
        named = {gguf: recommended.get(key) for key, gguf in _SAMPLING.items()}
        sampling = {key: value for key, value in named.items() if _is_number(value)}
        vocabulary = self.config_metadata.get(f"{self.architecture}.vocab_size")
        tokens = tokenizer_metadata(self.folder, vocabulary, self._tokenizers)
        return {**self.config_metadata, **sampling, **tokens, **template_metadata(self.folder)}

    @cached_property
    def rotation(self) -> Rotation | None:
        """How it rotates; None without rotary positions."""
        from shimmy.huggingface.rope import rotation

        if not self.reading.rotary:
            return None
        context = self._value(self.reading.keys["context_length"])
        head = self.config.get("head_dim") or self.reading.defaults.get("head_dim")
        return self._located(lambda: rotation({**self.config, "head_dim": head}, context=context))

    def rope_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Divisors of frequencies, which the folder has as numbers in config.json, by GGUF name."""
        return {} if self.rotation is None else self._located(self.rotation.tensors)

    def _value(self, key: str) -> Any:
        """What config.json has under ``key``, else the default: a number, a choice, or one for each layer."""
        value = self.config.get(key)
        if value is None:
            if key not in self.reading.defaults:
                raise ModelError(
                    f"{self._config_path}: has no {key!r}, which {self.architecture!r} needs.",
                    hint="The folder is incomplete, or was written by something unusual.",
                )
            return self.reading.defaults[key]
        if _is_choice(value):
            return value
        if not _is_number(value) or value < 0:
            raise ModelError(f"{self._config_path}: {key!r} is {value!r:.40}, expected a number.")
        return value

    def _window(self) -> int | None:
        """How many tokens attention sees, where that is limited and the architecture does not know."""
        config = self.folder.config
        window = config.get("sliding_window")
        if type(window) is not int or not config.get("use_sliding_window", True):
            return None
        return None if "sliding_window" in self.reading.keys.values() else window

    def _located(self, compute: Callable[[], T]) -> T:
        try:
            return compute()
        except ModelError as error:
            raise ModelError(f"{self._config_path}: {error.message}", hint=error.hint) from None


def model_name(folder: Path) -> str:
    """What a folder's model is called: like the folder, in Hugging Face's cache like the repository."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def _claimed(folder: ModelFolder, plugins: Plugins) -> tuple[ArchitectureSpec, HuggingFaceSpec]:
    known = {
        name: (spec, spec.huggingface)
        for spec in plugins.architectures
        if spec.huggingface
        for name in spec.huggingface.classes
    }
    if (name := folder.model_class) not in known:
        raise ModelError(
            f"{folder.path}: no plugin converts the architecture {name!r:.80}.",
            hint=did_you_mean(name, known),
        )
    if quantized := folder.config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ModelError(
            f"{folder.path}: its weights are quantised by {method!r:.40}, which is not converted.",
            hint="Take the folder with unquantised weights, or a GGUF file of this model.",
        )
    return known[name]


def _is_choice(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and all(type(each) is bool for each in value))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
