"""One exception tree. Every error names the thing, what was found, what was expected, the next step.

ShimmyError
├── ConfigError            a setting, flag or environment variable        (exit 2)
├── PluginError            a plugin that cannot load, two claims to a name
├── RegistryError          a name nobody registered
├── ModelNotFoundError     no discovered model has this name              (404)
├── ModelError             a model that cannot be loaded
│   ├── GGUFError          the file is broken: field and offset
│   ├── AdapterError       a LoRA adapter that cannot be used: tensor     (400)
│   ├── GraphError         file and architecture disagree: tensor, shape
│   ├── TokenizerError     vocabulary or pre-tokenizer not understood
│   └── TemplateError      no chat template, or it refuses the messages   (400)
├── RequestError           the client's request cannot be served          (400)
│   └── ContextLengthError prompt and answer do not fit the context       (400)
└── EngineError            the engine failed                              (500)
    ├── OutOfMemoryError   does not fit: the arithmetic                   (507)
    └── WorkerDiedError    the engine process is gone                     (503)
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ShimmyError(Exception):
    """Base of all errors shimmy raises on purpose.

    Args:
        message: what is wrong, with found and expected values.
        hint: the next step for the reader, a full sentence, or None.
        param: the request field or setting at fault, or None.
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(ShimmyError):
    code = "invalid_config"


class PluginError(ShimmyError):
    code = "plugin_error"


class RegistryError(ShimmyError):
    code = "not_registered"


class ModelNotFoundError(ShimmyError):
    status = 404
    code = "model_not_found"


class ModelError(ShimmyError):
    code = "model_error"


class GGUFError(ModelError):
    code = "invalid_gguf"


class AdapterError(ModelError):
    status = 400
    code = "invalid_adapter"


class GraphError(ModelError):
    code = "graph_error"


class TokenizerError(ModelError):
    code = "tokenizer_error"


class TemplateError(ModelError):
    status = 400
    code = "template_error"


class RequestError(ShimmyError):
    status = 400
    code = "invalid_request"


class ContextLengthError(RequestError):
    code = "context_length_exceeded"


class EngineError(ShimmyError):
    code = "engine_error"


class OutOfMemoryError(EngineError):
    status = 507
    code = "out_of_memory"


class WorkerDiedError(EngineError):
    status = 503
    code = "engine_died"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest known names, else all of them (at most ten), else that there are none."""
    names = sorted(known)
    if not names:
        return "None are known."
    folded = {known.casefold(): known for known in names}
    if near := get_close_matches(name.casefold(), folded, n=3, cutoff=0.5):
        return "Did you mean " + " or ".join(repr(folded[n]) for n in near) + "?"
    return "Known: " + ", ".join(names[:10]) + (", …." if len(names) > 10 else ".")


def error_by_code(code: str) -> type[ShimmyError]:
    """The class whose ``code`` this is; used where errors cross a process boundary."""
    stack: list[type[ShimmyError]] = [ShimmyError]
    while stack:
        cls = stack.pop()
        if cls.code == code:
            return cls
        stack.extend(cls.__subclasses__())
    return EngineError
