"""From a model file to a running engine: architecture, graph, backend, context, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.engine.choice import choose_backend
from shimmy.engine.context import Context, check_positions, choose_context, fit_context
from shimmy.engine.engine import Engine
from shimmy.engine.machine import available_memory, usable_cores
from shimmy.engine.offload import divided
from shimmy.engine.plan import Backend, Limits, Plan, Progress
from shimmy.engine.protocol import PROTOCOL_VERSION, Ready
from shimmy.engine.recording import naming, record_file
from shimmy.engine.settings import EngineSettings
from shimmy.gguf.card import read_card
from shimmy.gguf.params import read_params
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Architecture, Graph
from shimmy.graph.ops import CORE_OPS, Op
from shimmy.lora.bind import Base, bind
from shimmy.lora.read import read_adapter

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard
    from shimmy.gguf.reader import GGUFFile
    from shimmy.graph.lora import Term
    from shimmy.lora.adapter import Adapter
    from shimmy.plugins import Plugins

#: Share of the memory that is free after loading the weights which the KV cache may grow into.
KV_SHARE = 0.5
#: The same on a device, whose memory nothing else is expected to want; the rest is for adapters.
DEVICE_KV_SHARE = 0.8
#: Share of the KV cache that may stay filled for prompts to come.
PREFIX_SHARE = 0.25
#: Bytes on disk that packed weights may take unless a setting says otherwise.
PACKED_CACHE_SIZE = 32 << 30


@dataclass(frozen=True, slots=True)
class Loaded:
    """A running engine and the facts about it."""

    engine: Engine
    ready: Ready
    file: Path
    """The GGUF file, of a folder that which was made of it."""
    base: Base
    """What adapters are fitted to."""


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """A model that is read, but not yet compiled."""

    file: GGUFFile
    card: ModelCard
    weights: Weights
    params: Any
    """Those of its architecture, as the metadata have them."""
    architecture: Architecture
    context: Context
    graph: Graph


def load_engine(
    path: Path, name: str, settings: EngineSettings, plugins: Plugins, progress: Progress
) -> Loaded:
    """Load a GGUF file, or a model folder. Raises ModelError, ConfigError or OutOfMemoryError, each saying
    what to do."""
    started = time.monotonic()
    progress = phases = _Phases(progress)
    model = record_model(path, name, settings, plugins, progress)
    wanted, graph = model.context, model.graph
    backend_name, reason, chosen = choose_backend(model.card, settings, plugins)
    backend, note = divided(backend_name, chosen, settings, plugins)
    limits = limits_for(wanted, settings, backend)
    plan = backend.compile(graph, model.weights, limits, progress)
    kv_memory = settings.kv_memory or automatic_kv_memory(plan)
    engine = Engine(
        plan,
        context=fit_context(plan, wanted, kv_memory, automatic=settings.kv_memory is None),
        vocabulary=graph.nodes[graph.output].shape[0],
        kv_blocks=kv_memory // plan.block_bytes,
        max_sequences=limits.max_sequences,
        step_tokens=limits.step_tokens,
        kept_blocks=kept_blocks(settings, kv_memory, plan.block_bytes),
        adapter_places=limits.max_adapters,
    )
    ready = Ready(
        version=PROTOCOL_VERSION,
        architecture=model.card.architecture,
        backend=backend_name,
        backend_reason=f"{reason}; {note}" if note else reason,
        kv_memory=kv_memory,
        plugins=[info.name for info in plugins.infos if info.status == "loaded"],
        seconds=time.monotonic() - started,
        phases=phases.seconds,
        **_engine_facts(engine, wanted),
    )
    base = Base(model.card.architecture, model.architecture, model.params, graph, model.weights)
    return Loaded(engine, ready, model.file.path, base)


class _Phases:
    """Passes progress on, and measures how long each phase takes."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        """From the first to the last that was told of a phase."""
        self._begun: dict[str, float] = {}
        self._progress = progress

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        self.seconds[phase] = now - self._begun.setdefault(phase, now)
        self._progress(phase, done, total)


def record_model(
    path: Path, name: str, settings: EngineSettings, plugins: Plugins, progress: Progress
) -> RecordedModel:
    """Read a GGUF file, or a model folder, as far as no backend is needed. Raises ModelError, ConfigError."""
    file = open_gguf(
        model_file(path, settings, plugins, progress), skim=True
    )  # vocabularies are the server's business
    with naming(file.path):
        card = read_card(file, name=name, source="worker", quant_types=plugins.quant_types)
        weights = Weights(file, plugins.quant_types)
        params, architecture = read_architecture(card.architecture, file, plugins)
        wanted = choose_context(settings, card.context_length, file.metadata, card.architecture, weights)
        graph = record_file(architecture, params, file.metadata, weights, op_table(plugins), wanted.scaling)
    check_positions(wanted, graph)
    return RecordedModel(file, card, weights, params, architecture, wanted, graph)


def limits_for(wanted: Context, settings: EngineSettings, backend: Backend) -> Limits:
    """What a plan of a backend must hold for a context, by the settings."""
    return Limits(
        max_ctx=wanted.positions,
        max_sequences=settings.max_sequences,
        step_tokens=max(settings.step_tokens or backend.step_tokens, settings.max_sequences),
        threads=settings.threads or usable_cores(),
        precision=settings.precision,
        gpu=settings.gpu,
        gpu_memory=settings.gpu_memory,
        # One more is there while it is not yet known whether it may replace another.
        max_adapters=settings.max_adapters + 1,
        max_lora_rank=settings.max_lora_rank,
        instructions=settings.instructions,
        kv_type=settings.kv_type,
        packed_cache=(settings.packed_cache_size or PACKED_CACHE_SIZE) if settings.packed_cache else 0,
    )


def automatic_kv_memory(plan: Plan) -> int:
    """Bytes that the KV cache may grow into unless a setting says otherwise.

    Where blocks lie in two memories, as many as both have room for.
    """
    mapped = plan.mapped_bytes + (plan.host.mapped_bytes if plan.host else 0)
    machine = int(max(available_memory() - mapped, 0) * KV_SHARE)
    there = plan.host.block_bytes if plan.host else 0
    own = machine if plan.device_memory is None else int(plan.device_memory * DEVICE_KV_SHARE)
    if not there:
        return own
    rooms = [(machine, there), (own, plan.block_bytes - there)]
    return min(room // size for room, size in rooms if size) * plan.block_bytes


def fit_adapter(
    path: Path, base: Base, settings: EngineSettings, plugins: Plugins
) -> tuple[Adapter, dict[str, Term]]:
    """Read an adapter: what its files say, and what it adds to which node of the base.

    Raises:
        AdapterError: it is broken, or for another base, or larger than the settings allow.
    """
    adapter = read_adapter(path, plugins.quant_types)
    return adapter, bind(adapter, base, settings.max_lora_rank, settings.lora_memory)


def kept_blocks(settings: EngineSettings, kv_memory: int, block_bytes: int) -> int:
    """How many KV blocks may stay filled for prompts that begin alike."""
    if not settings.prefix_cache:
        return 0
    memory = settings.prefix_cache_memory or int(kv_memory * PREFIX_SHARE)
    return max(min(memory, kv_memory) // block_bytes, 1)


def model_file(path: Path, settings: EngineSettings, plugins: Plugins, progress: Progress) -> Path:
    """The GGUF file of a model: the file itself, or that which a folder is converted to.

    Raises:
        ModelError: the folder cannot be converted.
    """
    if not path.is_dir():
        return path
    from shimmy.huggingface.converted import Converter, converted_folders

    converter = Converter(plugins, op_table(plugins), settings.quantize, converted_folders())
    return converter.file_of(path, progress)


def _engine_facts(engine: Engine, context: Context) -> dict[str, Any]:
    """The fields of :class:`Ready` that the engine and its plan know."""
    plan = engine.plan
    return {
        "precision": plan.precision,
        "description": plan.description,
        "context": engine.context,
        "native_context": context.native,
        "rope_kind": context.scaling.kind,
        "rope_factor": context.scaling.factor,
        "vocabulary": engine.vocabulary,
        "weight_bytes": plan.weight_bytes + (plan.host.weight_bytes if plan.host else 0),
        "host_weight_bytes": plan.host.weight_bytes if plan.host else 0,
        "device_bytes": plan.device_bytes,
        "kv_type": plan.kv_type,
        "kv_bytes_per_token": plan.block_bytes // plan.block_tokens,
        "fallbacks": list(plan.fallbacks),
    }


def read_architecture(name: str, file: GGUFFile, plugins: Plugins) -> tuple[Any, Architecture]:
    """The parameters in the metadata and the architecture that reads them."""
    architecture = plugins.architectures.get(name).load()
    return read_params(architecture.params, file.metadata, name), architecture


def op_table(plugins: Plugins) -> dict[str, Op]:
    """The core's ops and the plugins'."""
    return {**CORE_OPS, **{spec.name: spec.load() for spec in plugins.ops}}
