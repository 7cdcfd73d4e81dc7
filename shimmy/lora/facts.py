"""What there is to tell of an adapter, for people and as JSON takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.lora.adapter import Adapter
from shimmy.lora.config import read_json

#: Files in which trainers leave their results, the first that says a thing wins.
_RESULTS = ("training_results.json", "train_results.json", "all_results.json", "trainer_state.json")
_TOLD = ("train_loss", "eval_loss", "loss", "epoch", "global_step", "best_metric", "train_runtime")


def adapter_facts(adapter: Adapter) -> dict[str, Any]:
    """Its format, size, strength and targets, the base its trainer named, and how the training went."""
    return {
        "path": str(adapter.path),
        "format": adapter.format,
        "base": adapter.base,
        "architecture": adapter.architecture,
        "rank": adapter.rank,
        "parameters": adapter.parameters,
        "modules": len(adapter.modules),
        "targets": sorted({name.rpartition(".")[2] for name in adapter.modules}),
        "scales": sorted({round(module.scale, 6) for module in adapter.modules.values()}),
        "settings": dict(adapter.facts),
        "training": training_results(adapter.path),
    }


def training_results(folder: Path) -> dict[str, Any]:
    """Losses and steps as the trainer wrote them; empty where it wrote none."""
    told: dict[str, Any] = {}
    for name in _RESULTS:
        told = _numbers(folder / name) | told
    return told


def _numbers(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except AdapterError:
        return {}  # nothing that answers depend on
    history = content.get("log_history")
    rows = (
        [content, *(row for row in history if isinstance(row, Mapping))]
        if isinstance(history, list)
        else [content]
    )
    found: dict[str, Any] = {}
    for row in rows:
        # The last entry of a history is the latest.
        found |= {key: row[key] for key in _TOLD if type(row.get(key)) in (int, float)}
    return found
