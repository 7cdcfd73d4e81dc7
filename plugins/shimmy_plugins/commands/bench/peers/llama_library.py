"""The functions of ``llama.h`` that the benchmark calls, from shared libraries, declared for ctypes.

Of the structures of settings only the first fields are known, which have not changed for years. The rest is
longer than in any version so far, and stays as the library sets it.
"""

from __future__ import annotations

import ctypes as c
import sys
from pathlib import Path
from typing import Any, ClassVar

_REST = 1024


class ModelParams(c.Structure):
    """Opaque."""

    _fields_: ClassVar = [("rest", c.c_uint8 * _REST)]


class ContextParams(c.Structure):
    """Sizes, and what is behind them."""

    _fields_: ClassVar = [
        *((name, c.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        ("rest", c.c_uint8 * _REST),
    ]


class Batch(c.Structure):
    """``llama_batch``."""

    _fields_: ClassVar = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


_MODEL = _CONTEXT = _MEMORY = c.c_void_p
#: Name: result, arguments.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (_MODEL, [c.c_char_p, ModelParams]),
    "llama_init_from_model": (_CONTEXT, [_MODEL, ContextParams]),
    "llama_batch_init": (Batch, [c.c_int32, c.c_int32, c.c_int32]),
    "llama_decode": (c.c_int32, [_CONTEXT, Batch]),
    "llama_get_logits_ith": (c.POINTER(c.c_float), [_CONTEXT, c.c_int32]),
    "llama_get_memory": (_MEMORY, [_CONTEXT]),
    "llama_memory_clear": (None, [_MEMORY, c.c_bool]),
}


def open_library(folder: Path) -> c.CDLL:
    """``libllama`` of a folder, with all backends that lie there. Raises OSError."""
    if sys.platform == "linux" and (loader := folder / "libvulkan.so.1").is_file():
        c.CDLL(str(loader), mode=c.RTLD_GLOBAL)
    for name in ("libggml-base.so", "libggml.so"):
        ggml = c.CDLL(str(folder / name), mode=c.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
    ggml.ggml_backend_load_all_from_path(str(folder).encode())
    library = c.CDLL(str(folder / "libllama.so"))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
