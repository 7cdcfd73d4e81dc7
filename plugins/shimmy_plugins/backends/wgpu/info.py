"""``shimmy gpu-info``: the GPUs of this machine, which one computes and why, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shimmy.cli.common import AsJson, bootstrap, settings_options
from shimmy.cli.output import print_facts, print_json, readable_size
from shimmy.errors import ConfigError, ShimmyError

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.adapters import Adapter, AdapterFacts
    from shimmy_plugins.backends.wgpu.measure import Measured

Report = dict[str, Any]


@settings_options("gpu")
def gpu_info(
    ctx: typer.Context,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the one that computes, for a second or two.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List the GPUs, and say which one computes and why."""
    settings, _ = bootstrap(ctx)
    report = gather(settings.gpu, measuring=measure)
    if json:
        print_json(report)
        return
    print_facts(_facts(report))


def gather(gpu: str = "auto", *, measuring: bool = False) -> Report:
    """What there is to tell, as JSON takes it.

    Raises:
        ConfigError: ``gpu`` names no adapter; or there is none to be measured.
        EngineError: it cannot be measured.
    """
    from shimmy_plugins.backends.wgpu.adapters import choose, list_adapters, unusable

    adapters = list_adapters()
    facts = [adapter.facts for adapter in adapters]
    problem = unusable(facts) if gpu == "auto" else None
    chosen, reason = (None, problem) if problem else choose(facts, gpu)
    if measuring and chosen is None:
        raise ConfigError(f"there is nothing to measure: {problem}.")
    return {
        "adapters": [_adapter(index, adapter) for index, adapter in enumerate(adapters)],
        "chosen": chosen,
        "reason": reason,
        "measured": _measure(adapters[chosen]) if measuring and chosen is not None else None,
    }


def _adapter(index: int, adapter: Adapter) -> Report:
    from dataclasses import asdict

    from shimmy_plugins.backends.wgpu.budget import free_memory
    from shimmy_plugins.backends.wgpu.device import Gpu

    facts: AdapterFacts = adapter.facts
    report: Report = {
        "index": index,
        "name": facts.name,
        "type": facts.kind,
        "api": facts.api,
        "also": facts.also,
        "driver": facts.driver,
        "vendor_id": facts.vendor_id,
        "device_id": facts.device_id,
        "free_memory": free_memory(facts),
    }
    try:
        gpu = Gpu(adapter)
    except ShimmyError as error:
        return report | {"problem": str(error)}
    gpu.close()
    return report | {
        "limits": asdict(gpu.limits),
        "features": gpu.features,
        "subgroup": gpu.subgroup,
    }


def _measure(adapter: Adapter) -> Report:
    from dataclasses import asdict

    from shimmy_plugins.backends.wgpu.device import Gpu
    from shimmy_plugins.backends.wgpu.measure import measure

    gpu = Gpu(adapter)
    measured: Measured = measure(gpu)
    gpu.close()
    return asdict(measured)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """The report as lines for people."""
    for adapter in report["adapters"]:
        yield f"GPU {adapter['index']}", adapter["name"]
        for name, fact in _adapter_facts(adapter):
            yield f"  {name}", fact
    chosen = report["chosen"]
    yield "computes", report["reason"] if chosen is None else f"GPU {chosen}: {report['reason']}"
    if measured := report["measured"]:
        yield from _measured_facts(measured)


def _adapter_facts(adapter: Report) -> Iterator[tuple[str, str]]:
    yield "type", adapter["type"]
    also = f" (also {', '.join(adapter['also'])})" if adapter["also"] else ""
    yield "interface", adapter["api"] + also
    yield "driver", adapter["driver"] or "unnamed"
    free = adapter["free_memory"]
    yield "memory", "nobody tells" if free is None else f"{readable_size(free)} free"
    if "problem" in adapter:
        yield "problem", adapter["problem"]
        return
    limits = adapter["limits"]
    yield (
        "limits",
        f"{readable_size(limits['buffer'])} a buffer, {readable_size(limits['storage_binding'])} and "
        f"{limits['storage_buffers']} buffers a kernel",
    )
    yield (
        "workgroups",
        f"{limits['invocations']} invocations, {readable_size(limits['workgroup_memory'])} of memory, "
        f"{limits['workgroups']} in each direction",
    )
    yield "subgroups", f"{adapter['subgroup']} lanes" if adapter["subgroup"] else "none"
    yield "features", ", ".join(adapter["features"]) or "none of those used"


def _measured_facts(measured: Report) -> Iterator[tuple[str, str]]:
    size = readable_size(measured["bytes_read"])
    yield "bandwidth", f"{measured['bandwidth'] / 1e9:.4g} GB/s, reading {size}"
    yield "dispatch", f"{_micro(measured['dependent_dispatch'])} where it waits for the one before"
    yield "", f"{_micro(measured['independent_dispatch'])} where it does not"
    yield "", f"{_micro(measured['recorded_dispatch'])} of the CPU to record and submit it"
    yield "round trip", f"{_micro(measured['round_trip'])} from a submit to its result"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} \N{MICRO SIGN}s"
