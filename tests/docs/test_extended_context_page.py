"""docs/extended_context.md: its sums are right, its bounds are those of the settings."""

from __future__ import annotations

import re

import pytest

from shimmy.settings import settings_table
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


@pytest.mark.parametrize("key", ["max_ctx", "rope_scale"])
def test_bounds(key: str) -> None:
    low, high = re.search(rf"`{key}` (?:is )?(\d+) to (\d+)", page(PAGE)).groups()
    assert f"from {low} to {high}" in settings_table()[key].expected
