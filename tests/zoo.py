"""The zoo models of tests/fixtures: paths, reference answers, and the variants made from others."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import load_plugins

FOLDER = Path(__file__).parent / "fixtures" / "zoo"

#: Kept out of the repository for their size: the F16 file holds the same values, exactly (F32) or
#: before the rounding that gguf's own quantiser does (BF16).
DERIVED = {"llama_spm.f32": GGMLQuantizationType.F32, "llama_spm.bf16": GGMLQuantizationType.BF16}


def model_path(name: str) -> Path:
    """The file of a zoo model, ``llama_spm.q4_0``."""
    if name in DERIVED:
        return _derive(name, FOLDER / "models" / "llama_spm.f16.gguf")
    return FOLDER / "models" / f"{name}.gguf"


@functools.cache
def reference(name: str) -> dict[str, Any]:
    """The reference file of a model, ``llama_spm``; see the zoo's README for its keys."""
    content: dict[str, Any] = json.loads((FOLDER / "ref" / f"{name}.json").read_text("utf-8"))
    return content


@functools.cache
def _derive(name: str, source: Path) -> Path:
    target = Path(tempfile.mkdtemp(prefix="shimmy-zoo-")) / f"{name}.gguf"
    with open_gguf(source) as file:
        weights = Weights(file, load_plugins().quant_types)
        tensors = {}
        for tensor, info in file.tensors.items():
            values = weights.dequantize(tensor).reshape(info.shape)
            # Vectors stay F32, as converters leave them.
            kind = DERIVED[name] if len(info.shape) > 1 else GGMLQuantizationType.F32
            data = np.ascontiguousarray(quantize(values, kind)).tobytes()
            tensors[tensor] = RawTensor(data, int(kind), info.shape)
        write_gguf(target, dict(file.metadata), tensors)
    return target
