"""An adapter and its base, opened for the commands that write files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.engine.load import op_table, read_architecture
from shimmy.gguf.reader import GGUFFile, open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import record
from shimmy.graph.lora import Term
from shimmy.lora.adapter import Adapter
from shimmy.lora.bind import Base, bind
from shimmy.lora.read import read_adapter

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


@dataclass(frozen=True, slots=True)
class Fitted:
    """What an adapter adds to a base."""

    file: GGUFFile
    base: Base
    weights: Weights
    adapter: Adapter
    terms: dict[str, Term]


def fit(base: Path, adapter: Path, plugins: Plugins) -> Fitted:
    """Open both and fit them together. Raises AdapterError, GGUFError or GraphError."""
    file = open_gguf(base)
    weights = Weights(file, plugins.quant_types)
    architecture = str(file.metadata.get("general.architecture"))
    params, definition = read_architecture(architecture, file, plugins)
    graph = record(definition, params, weights, op_table(plugins))
    opened = Base(architecture, definition, params, graph, weights)
    read = read_adapter(adapter, plugins.quant_types)
    return Fitted(file, opened, weights, read, bind(read, opened))


def find_base(adapter: Path, settings: Settings, plugins: Plugins) -> Path:
    """The file of the model at hand that an adapter belongs to. AdapterError if there is none."""
    from shimmy.discovery.catalog import Catalog
    from shimmy.lora.pairing import Candidate, choose_base

    cards = [card for card in Catalog(settings, plugins).models() if card.base is None]
    read = read_adapter(adapter, plugins.quant_types)
    return choose_base(read, [Candidate(card) for card in cards]).card.path
