"""Folders as trainers leave them, and what a catalog makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from shimmy.discovery.catalog import Catalog
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import Plugins
from shimmy.settings import Settings
from tests.zoo import LORA, model_path

QK, ROBOT = LORA / "llama_spm_qk", LORA / "llama_spm_robot"


def copy(adapter: Path, to: Path, **config: object) -> Path:
    shutil.copytree(adapter, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return to


def base(path: Path, name: str = "Zoo tiny llama spm") -> Path:
    """A copy of the zoo's model, called otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_gguf(model_path("llama_spm.f16")) as file:
        raw = {
            tensor: RawTensor(bytes(file.raw(tensor, _spec(info.ggml_id))), info.ggml_id, info.shape)
            for tensor, info in file.tensors.items()
        }
        write_gguf(path, {**file.metadata, "general.name": name, "general.size_label": "3M"}, raw)
    return path


def _spec(ggml_id: int):
    from tests.lora import PLUGINS

    return next(spec for spec in PLUGINS.quant_types if spec.ggml_id == ggml_id)


def catalog(plugins: Plugins, **settings: object) -> Catalog:
    return Catalog(Settings(**settings), plugins)


def pairs(found: Catalog) -> dict[str, str]:
    return {card.name: card.base.name for card in found.models() if card.base}


def reasons(found: Catalog) -> dict[str, str]:
    return {row.path.name: row.reason for row in found.skipped if row.path}
