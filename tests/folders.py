"""The model folders of tests/fixtures, and what transformers makes of them."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shimmy.plugins import Plugins, load_plugins

FOLDER = Path(__file__).parent / "fixtures" / "folders"
NAMES = ("llama3", "mistral", "qwen2")


def reference(name: str) -> dict[str, Any]:
    """What transformers computes with a folder in float32."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


@functools.cache
def all_plugins() -> Plugins:
    """The built-in plugins."""
    return load_plugins()


def copy(name: str, place: Path) -> Path:
    """A folder of one's own, to change."""
    return Path(shutil.copytree(FOLDER / name, place / name))


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def change_tensors(path: Path, **changes: np.ndarray | None) -> None:
    """Set tensors of a float16 file, dots in their names written ``__``; None removes one."""
    named = {name.replace("__", "."): values for name, values in changes.items()}
    tensors = {**load_file(path), **named}
    save_file({name: values for name, values in tensors.items() if values is not None}, path)
