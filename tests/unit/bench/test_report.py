"""What a report of ``shimmy bench`` says beside its rows."""

from __future__ import annotations

from msgspec.structs import replace

from shimmy_plugins.commands.bench.report import memory_text
from tests.serve.fake_engine import facts

MIB = 2**20


def test_memory_is_told_by_where_it_lies() -> None:
    here = replace(facts(), weight_bytes=600 * MIB)
    assert memory_text(here) == "600.0 MiB of weights"
    card = replace(here, device_bytes=700 * MIB)
    assert memory_text(card).endswith("; 700.0 MiB of the GPU taken before the KV cache grows")
    both = replace(card, host_weight_bytes=300 * MIB)
    assert "weights, 300.0 MiB of them in the machine's memory; 700.0 MiB of the GPU" in memory_text(both)
