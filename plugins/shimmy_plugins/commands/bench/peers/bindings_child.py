"""The child of :mod:`bindings`: loads a model through ctypes and computes what it is asked for.

On a GPU, all settings but the sizes are the library's own: all layers there, a KV cache of F16.

Asked for ``{"prompts": [[ids], …]}`` it forgets what it had and computes the prompts; for
``{"steps": n}``, n steps of all sequences. It answers ``{"seconds": …}``. Nothing is sampled: which
token follows makes no difference to the time, and sampling in Python would.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from shimmy_plugins.commands.bench.peers.llama_library import open_library

#: Tokens of one call, as llama.cpp's own programs do it.
CHUNK = 512
_KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}


class Item(NamedTuple):
    """One token of a call."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


class Bindings:
    """A loaded model; ``library`` has the functions of ``llama.h``, older or newer."""

    def __init__(self, library: Any, setup: dict[str, Any]) -> None:
        self._library = library
        library.llama_backend_init()
        on_gpu = "folder" in setup
        model_params = _model_params(library, on_gpu=on_gpu)
        self._model = library.llama_model_load_from_file(setup["model"].encode(), model_params)
        if not self._model:
            raise RuntimeError(f"cannot load {setup['model']}")
        context_params = _context_params(library, setup, on_gpu=on_gpu)
        self._context = library.llama_init_from_model(self._model, context_params)
        if not self._context:
            raise RuntimeError(f"cannot make a context of {setup['context']} x {setup['sequences']} tokens")
        self._batch = library.llama_batch_init(CHUNK, 0, 1)
        self._prompts: list[list[int]] = []
        self._position = 0

    def prompts(self, prompts: list[list[int]]) -> float:
        """Compute new sequences; the seconds it took."""
        self._forget()
        self._prompts = prompts
        self._position = len(prompts[0])
        items = [
            Item(token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        started = time.perf_counter()
        for start in range(0, len(items), CHUNK):
            self._decode(items[start : start + CHUNK])
        return time.perf_counter() - started

    def steps(self, count: int) -> float:
        """Continue all sequences; the seconds it took."""
        started = time.perf_counter()
        for _ in range(count):
            # Any token will do: the prompt's, over and over.
            self._decode(
                [
                    Item(prompt[self._position % len(prompt)], self._position, sequence, True)
                    for sequence, prompt in enumerate(self._prompts)
                ]
            )
            self._position += 1
        return time.perf_counter() - started

    def _decode(self, items: Sequence[Item]) -> None:
        batch = self._batch
        batch.n_tokens = len(items)
        for i, item in enumerate(items):
            batch.token[i] = item.token
            batch.pos[i] = item.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = item.sequence
            batch.logits[i] = item.wants_logits
        if code := self._library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {code} for {len(items)} tokens")
        if items[-1].wants_logits:
            # Waits for the computation, where it is not finished yet.
            self._library.llama_get_logits_ith(self._context, len(items) - 1)

    def _forget(self) -> None:
        library = self._library
        if hasattr(library, "llama_get_memory"):
            library.llama_memory_clear(library.llama_get_memory(self._context), True)
        else:
            library.llama_kv_cache_clear(self._context)


def _model_params(library: Any, *, on_gpu: bool) -> Any:
    params = library.llama_model_default_params()
    if on_gpu:
        return params
    params.n_gpu_layers = 0
    if hasattr(params, "repack_tensors"):
        # ik_llama.cpp's faster layouts, made while loading.
        params.repack_tensors = True
    return params


def _context_params(library: Any, setup: dict[str, Any], *, on_gpu: bool) -> Any:
    params = library.llama_context_default_params()
    params.n_ctx = setup["context"] * setup["sequences"]
    params.n_seq_max = setup["sequences"]
    params.n_batch = params.n_ubatch = CHUNK
    if on_gpu:
        return params
    params.n_threads = params.n_threads_batch = setup["threads"]
    params.type_k = params.type_v = _KV_TYPES[setup["kv_type"]]
    if hasattr(params, "flash_attn"):
        # With several sequences in a call, or an F32 cache, ik_llama.cpp's own fails an assertion.
        params.flash_attn = setup["sequences"] == 1 and setup["kv_type"] != "f32"
    return params


def main() -> None:
    """Load, say so, then answer questions line by line until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Libraries that print shall not disturb the answers.
    os.dup2(2, 1)
    setup = json.loads(sys.argv[1])
    library = open_library(Path(setup["folder"])) if "folder" in setup else import_module(setup["module"])
    bindings = Bindings(library, setup)
    answers.write("ready\n")
    for line in sys.stdin:
        question = json.loads(line)
        try:
            asked = question.get("prompts")
            seconds = bindings.steps(question["steps"]) if asked is None else bindings.prompts(asked)
            answers.write(json.dumps({"seconds": seconds}) + "\n")
        except RuntimeError as error:
            answers.write(json.dumps({"error": str(error)}) + "\n")


if __name__ == "__main__":
    main()
