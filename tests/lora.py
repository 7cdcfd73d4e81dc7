"""What tests of adapters share: a base from a file, an adapter fitted to it, steps with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shimmy.engine.load import op_table, read_architecture
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch, LoraRows
from shimmy.graph.builder import record
from shimmy.graph.lora import Term
from shimmy.graph.scaling import read_scaling
from shimmy.lora.bind import Base, bind
from shimmy.lora.read import read_adapter
from shimmy.plugins import load_plugins

PLUGINS = load_plugins()


def open_base(path: Path) -> Base:
    """The base in a GGUF file."""
    file = open_gguf(path)
    weights = Weights(file, PLUGINS.quant_types)
    name = file.metadata["general.architecture"]
    params, definition = read_architecture(name, file, PLUGINS)
    scaling = read_scaling(file.metadata, name, weights, 512)
    return Base(
        name, definition, params, record(definition, params, weights, op_table(PLUGINS), scaling), weights
    )


def fitted(adapter: Path, base: Path) -> dict[str, Term]:
    """What an adapter adds to the nodes of a base."""
    return bind(read_adapter(adapter, PLUGINS.quant_types), open_base(base))


def with_adapters(batch: Batch, entries: Sequence[tuple[int, int, float]]) -> Batch:
    """The step with (row, place, scale) entries, in any order."""
    entries = sorted(entries, key=lambda entry: (entry[1], entry[0]))
    rows, places, scales = zip(*entries, strict=True) if entries else ((), (), ())
    return replace(
        batch,
        lora=LoraRows(np.array(rows, np.int32), np.array(places, np.int32), np.array(scales, np.float32)),
    )


def all_rows(batch: Batch, place: int, scale: float = 1.0) -> Batch:
    """The step with one adapter on every row."""
    return with_adapters(batch, [(row, place, scale) for row in range(len(batch.tokens))])
