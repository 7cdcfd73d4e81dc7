"""Writes models of random weights: as slow as real ones, and made in seconds.

All matrices of one type are windows on one pool of random blocks, so a file is written about as
fast as the disk takes it, in little memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.caches import cache_folder
from shimmy.files import written_whole
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.commands.bench.mixtures import type_of, types_used
from shimmy_plugins.commands.bench.random_blocks import check_random_type, random_blocks
from shimmy_plugins.commands.bench.shapes import Shape, matrices, metadata, vectors

#: Part of the file names in the cache: a file of another version is not used.
VERSION = 3
#: Matrices begin at different blocks of their pool, so no two of the same size are equal.
_SLACK = 4096
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def cached_model(shape: Shape, quant: str, quant_types: Registry[QuantTypeSpec]) -> Path:
    """The model file in the cache folder, written first if it is not there."""
    path = cache_folder() / "bench" / f"{shape.name}-{quant}-v{VERSION}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            write_random_model(part, shape, quant, quant_types)
    return path


def write_random_model(path: Path, shape: Shape, quant: str, quant_types: Registry[QuantTypeSpec]) -> None:
    """Write a model that loads and generates (nonsense). The same arguments give the same file.

    Raises:
        ConfigError: no random weights can be made of the type ``quant``.
        RegistryError: no loaded plugin registers it.
    """
    for name in types_used(quant):
        check_random_type(name)
    types = {name: quant_types.get(name) for name in types_used(quant)}
    chosen = {name: type_of(name, size[-1], quant, shape, types) for name, size in matrices(shape)}
    random = np.random.default_rng(0)
    pools = _pools(shape, chosen, types, random)
    tensors: dict[str, Any] = {
        name: np.zeros(length, np.float32) if name.endswith("bias") else np.ones(length, np.float32)
        for name, length in vectors(shape)
    }
    for name, size in matrices(shape):
        spec = types[chosen[name]]
        start = int(random.integers(_SLACK))
        window = pools[spec.name][start : start + prod(size) // spec.block_elements]
        tensors[name] = RawTensor(window.reshape(-1).data, spec.ggml_id, size)
    # Not the shape's name: by it llama.cpp would look for words that the vocabulary has not.
    names = {"general.name": f"random weights, {quant}"}
    write_gguf(path, metadata(shape) | names | vocabulary(shape.vocabulary), tensors)


def _pools(
    shape: Shape, chosen: Mapping[str, str], types: Mapping[str, QuantTypeSpec], random: np.random.Generator
) -> dict[str, NDArray[np.uint8]]:
    """Random blocks by type, enough for the largest matrix of each."""
    elements: dict[str, int] = {}
    for name, size in matrices(shape):
        elements[chosen[name]] = max(elements.get(chosen[name], 0), prod(size))
    # Rows of unit length: activations neither grow nor vanish on their way through the layers.
    deviation = shape.embedding_length**-0.5
    return {
        name: random_blocks(types[name], most // types[name].block_elements + _SLACK, deviation, random)
        for name, most in elements.items()
    }


def vocabulary(size: int) -> dict[str, Any]:
    """A vocabulary that can spell any text, byte by byte, and is otherwise made of invented words."""
    control = ["<unk>", "<s>", "</s>"]
    spelling = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ("\u2581" + "".join(letters) for letters in _letters())
    tokens = [*control, *spelling, *itertools.islice(words, max(0, size - 259))][:size]
    kinds = ([2, 3, 3] + [6] * 256 + [1] * size)[:size]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(rank) for rank in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }


def _letters() -> Iterable[tuple[str, ...]]:
    for length in itertools.count():
        yield from itertools.product(_LETTERS, repeat=length)
