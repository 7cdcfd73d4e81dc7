"""Split a GGUF file into parts, as published models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import load_plugins


def split_gguf(source: Path, folder: Path, stem: str, count: int, **changes: Any) -> list[Path]:
    """``source`` as ``count`` files in ``folder``; ``changes`` to their metadata, ``split_no=7``."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = types_by_id(load_plugins().quant_types)
    with open_gguf(source) as file:
        metadata = dict(file.metadata)
        tensors = {
            name: RawTensor(file.raw(name, specs[info.ggml_id]).tobytes(), info.ggml_id, info.shape)
            for name, info in file.tensors.items()
        }
    split = {"split.count": count, "split.tensors.count": len(tensors)}
    changed = {key.replace("_", "."): value for key, value in changes.items()}
    paths = []
    for index in range(count):
        path = folder / f"{stem}-{index + 1:05}-of-{count:05}.gguf"
        head = (metadata if index == 0 else {}) | split | {"split.no": index} | changed
        # Every count-th tensor: neighbours in the model lie in different files.
        write_gguf(path, head, dict(list(tensors.items())[index::count]))
        paths.append(path)
    return paths
