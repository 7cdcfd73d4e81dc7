"""docs/extended_context.md: its sums are right, its bounds are those of the settings."""

from __future__ import annotations

import re

import pytest

from shimmy.graph.kv import KV_TYPES
from shimmy.settings import settings_table
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, HeadLayout
from tests.docs.pages import page

PAGE = "extended_context.md"
LENGTHS = (2048, 8192, 32768, 131072)
SHAPES = re.findall(
    r"^\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) KiB \| (.+) \|$", page(PAGE), re.MULTILINE
)


@pytest.mark.parametrize(("model", "layers", "heads", "dims", "per_token", "sizes"), SHAPES)
def test_kv_memory(model: str, layers: str, heads: str, dims: str, per_token: str, sizes: str) -> None:
    kib = int(layers) * int(heads) * 2 * int(dims) * 4 // 1024
    assert int(per_token) == kib
    assert sizes.split(" | ") == [f"{kib * length // 1024} MiB" for length in LENGTHS]


def test_there_are_shapes() -> None:
    assert len(SHAPES) == 6


def test_kv_types() -> None:
    """Bytes per number, as the CPU engine stores them."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page(PAGE), re.MULTILINE))
    assert list(rows) == list(KV_TYPES)
    for kv_type, size in rows.items():
        numbers = 2 * 64 * BLOCK_TOKENS
        assert HeadLayout(kv_type, 64, 64).bytes == float(size) * numbers


@pytest.mark.parametrize("key", ["max_ctx", "rope_scale"])
def test_bounds(key: str) -> None:
    low, high = re.search(rf"`{key}` (?:is )?(\d+) to (\d+)", page(PAGE)).groups()
    assert f"from {low} to {high}" in settings_table()[key].expected
