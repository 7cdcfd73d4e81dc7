"""The counts as Prometheus text. Imported at the first scrape: the library takes a moment."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from shimmy.server.models import ModelState
from shimmy.specs import MetricSpec
from shimmy_plugins.frontends.ops.recorder import Counts

_BY_REQUEST = ("frontend", "model")

_log = logging.getLogger(__name__)


def exposition(
    counts: Counts,
    states: Iterable[ModelState],
    extra: Iterable[MetricSpec],
) -> bytes:
    """All metrics as text: counted requests, the models' states, what plugins registered, memory."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Samples([*_requests(counts), *_models(list(states)), *_from_plugins(extra), _memory()])
    )
    return generate_latest(registry)


class _Samples(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _requests(counts: Counts) -> Iterator[Metric]:
    finished = CounterMetricFamily(
        "shimmy_requests",
        "Requests that have ended, by outcome: stop, length, cancelled or error.",
        labels=(*_BY_REQUEST, "outcome"),
    )
    active = GaugeMetricFamily("shimmy_requests_active", "Requests under way.", labels=_BY_REQUEST)
    prompt = CounterMetricFamily("shimmy_prompt_tokens", "Tokens in prompts.", labels=_BY_REQUEST)
    cached = CounterMetricFamily(
        "shimmy_prompt_tokens_cached", "Those of them found in the KV cache.", labels=_BY_REQUEST
    )
    completion = CounterMetricFamily("shimmy_completion_tokens", "Tokens generated.", labels=_BY_REQUEST)
    first = HistogramMetricFamily(
        "shimmy_time_to_first_token_seconds", "From acceptance to the first token.", labels=_BY_REQUEST
    )
    duration = HistogramMetricFamily(
        "shimmy_request_duration_seconds", "From acceptance to the end.", labels=_BY_REQUEST
    )
    for labels, of in counts.items():
        for outcome, count in of.outcomes.items():
            finished.add_metric((*labels, outcome), count)
        active.add_metric(labels, of.active)
        prompt.add_metric(labels, of.prompt_tokens)
        cached.add_metric(labels, of.cached_tokens)
        completion.add_metric(labels, of.completion_tokens)
        first.add_metric(labels, of.first_token.cumulative(), of.first_token.total)
        duration.add_metric(labels, of.duration.cumulative(), of.duration.total)
    yield from (finished, active, prompt, cached, completion, first, duration)


def _models(states: list[ModelState]) -> Iterator[Metric]:
    loaded = sum(state.state == "ready" for state in states)
    yield GaugeMetricFamily("shimmy_models_loaded", "Models ready to answer.", value=loaded)
    gauges = {
        "running": GaugeMetricFamily(
            "shimmy_sequences_running", "Sequences being computed.", labels=("model",)
        ),
        "waiting": GaugeMetricFamily(
            "shimmy_sequences_waiting", "Sequences waiting for their turn.", labels=("model",)
        ),
        "kv_blocks_used": GaugeMetricFamily(
            "shimmy_kv_blocks_used", "Blocks of the KV cache in use.", labels=("model",)
        ),
        "kv_blocks_cached": GaugeMetricFamily(
            "shimmy_kv_blocks_cached",
            "Blocks of the KV cache kept for prompts that begin alike.",
            labels=("model",),
        ),
        "kv_blocks_total": GaugeMetricFamily(
            "shimmy_kv_blocks_total", "Blocks the KV cache may have.", labels=("model",)
        ),
    }
    for state in states:
        for name, gauge in gauges.items():
            if state.stats:
                gauge.add_metric((state.name,), getattr(state.stats, name))
    yield from gauges.values()


def _from_plugins(specs: Iterable[MetricSpec]) -> Iterator[Metric]:
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
    for spec in specs:
        try:
            yield kinds[spec.kind](f"shimmy_{spec.name}", spec.help, value=spec.read())
        except Exception:
            # One plugin's broken number must not hide all others.
            _log.exception("metric %r cannot be read; going on without it.", spec.name)


def _memory() -> Metric:
    memory = GaugeMetricFamily("shimmy_memory_bytes", "Resident memory, by process.", labels=("process",))
    server = psutil.Process()
    memory.add_metric(("server",), server.memory_info().rss)
    memory.add_metric(("engines",), sum(map(_resident, server.children())))
    return memory


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has just ended
