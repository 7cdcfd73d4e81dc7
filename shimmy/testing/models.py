"""Small models of random weights, written for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shimmy.gguf.writer import write_gguf


def write_random_model(
    path: Path,
    architecture: str,
    parameters: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 0,
) -> Path:
    """Write a model file of F32 weights; the same arguments give the same file.

    Args:
        parameters: metadata below the architecture's name: ``block_count``, ``attention.head_count``.
        shapes: of the tensors, by full name, rows first. Matrices get normal numbers that keep rows about as
            long as they are; norms (``*_norm.weight``) are near one, other vectors near zero.
    """
    random = np.random.default_rng(seed)
    metadata = {"general.architecture": architecture, "general.name": f"random {architecture}"}
    tensors = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32)
        if len(shape) > 1:
            # An embedding's rows are of unit size in each number.
            values *= 1.0 if "embd" in name else shape[-1] ** -0.5
        else:
            values = values * np.float32(0.1) + np.float32(name.endswith("norm.weight"))
        tensors[name] = values.astype(np.float32)
    keys = {f"{architecture}.{key}": value for key, value in parameters.items()}
    write_gguf(path, metadata | keys, tensors)
    return path


def layers(count: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of so many layers, by the names of one's: ``attn_q.weight``."""
    return {f"blk.{layer}.{name}": shape for layer in range(count) for name, shape in shapes.items()}
