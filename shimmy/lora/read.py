"""Open an adapter, whatever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.errors import AdapterError
from shimmy.lora import mlx
from shimmy.lora.adapter import Adapter
from shimmy.lora.config import CONFIG, read_json
from shimmy.lora.mlx import read_mlx
from shimmy.lora.peft import WEIGHTS, read_peft, weight_files

if TYPE_CHECKING:
    from shimmy.registry import Registry
    from shimmy.specs import QuantTypeSpec

_AGAIN = "It is damaged or incomplete: copy the whole folder that the trainer wrote, or save it again."


def read_adapter(path: Path, quant_types: Registry[QuantTypeSpec]) -> Adapter:
    """The adapter in a folder, in a GGUF file, or of which ``path`` is the weight file; headers only.

    Raises:
        AdapterError: there is none, or it is broken, incomplete, or of another kind; says what and where.
        GGUFError: a GGUF file is broken.
    """
    try:
        return _read(adapter_place(path), quant_types)
    except AdapterError as error:
        raise AdapterError(error.message, hint=error.hint or _AGAIN) from error


def _read(place: Path, quant_types: Registry[QuantTypeSpec]) -> Adapter:
    if place.suffix == ".gguf":
        # Needs NumPy, which the server has no other use for.
        from shimmy.lora.gguf import read_gguf_adapter

        return read_gguf_adapter(place, quant_types)
    content = read_json(place / CONFIG) if (place / CONFIG).exists() else None
    if (place / mlx.WEIGHTS).is_file() and not (place / WEIGHTS).is_file():
        return read_mlx(place, content or {})
    if content is None:
        if any(place.glob("adapter_model*")):
            raise AdapterError(
                f"{place}: has no {CONFIG}, so the strength of the adapter is not known.",
                hint="Copy the whole folder that the trainer wrote.",
            )
        raise AdapterError(f"{place}: holds no adapter: neither {CONFIG} nor {WEIGHTS}.")
    return read_peft(place, content)


def adapter_place(path: Path) -> Path:
    """The folder of an adapter, or its GGUF file; ``path`` may also be a file of the folder.

    Raises:
        AdapterError: there is nothing of that name, or a file of another kind.
    """
    if path.is_dir():
        return path
    if not path.exists():
        raise AdapterError(f"{path}: there is no such file or folder.", hint="Give the folder of an adapter.")
    if path.suffix == ".gguf":
        return path
    if path.suffix in (".safetensors", ".json"):
        return path.parent
    if path.suffix in (".bin", ".pt", ".pth"):
        # Says how to convert it, if it is what it looks like.
        weight_files(path.parent)
    raise AdapterError(f"{path}: is neither a safetensors nor a GGUF file.")
