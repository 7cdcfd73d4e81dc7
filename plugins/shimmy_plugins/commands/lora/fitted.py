"""An adapter and its base, opened for the commands that write files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.engine.load import op_table, read_architecture
from shimmy.gguf.card import ModelCard, read_card
from shimmy.gguf.reader import GGUFFile, open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import record
from shimmy.graph.lora import Term
from shimmy.lora.adapter import Adapter
from shimmy.lora.bind import Base, bind
from shimmy.lora.read import read_adapter

if TYPE_CHECKING:
    from shimmy.lora.pairing import Candidate
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


def fit(base: Path, adapter: Path, settings: Settings, plugins: Plugins) -> Fitted:
    """Open both and fit them together.

    Raises:
        AdapterError: the adapter is broken, or for another base; names the model at hand that it fits.
        GGUFError, GraphError: it is the base that is broken.
    """
    from shimmy.lora.pairing import check_base

    file = open_gguf(base)
    weights = Weights(file, plugins.quant_types)
    read = read_adapter(adapter, plugins.quant_types)
    card = read_card(file, name=base.name, source="", quant_types=plugins.quant_types)
    check_base(read, card, partial(candidates, settings, plugins))
    params, definition = read_architecture(card.architecture, file, plugins)
    graph = record(definition, params, weights, op_table(plugins))
    opened = Base(card.architecture, definition, params, graph, weights)
    return Fitted(file, opened, weights, read, bind(read, opened))


def find_base(adapter: Adapter, settings: Settings, plugins: Plugins) -> ModelCard:
    """The model at hand that an adapter belongs to. AdapterError if there is none."""
    from shimmy.lora.pairing import choose_base

    return choose_base(adapter, candidates(settings, plugins)).card


def candidates(settings: Settings, plugins: Plugins) -> list[Candidate]:
    """The models at hand, those included that cannot be used."""
    from shimmy.discovery.catalog import Catalog

    return Catalog(settings, plugins).candidates()
