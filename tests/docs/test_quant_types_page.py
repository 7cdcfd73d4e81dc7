"""docs/quant_types.md has all types, with the sizes they have."""

import re

import numpy as np
import pytest

from shimmy.plugins import Plugins
from shimmy_plugins.backends.cpu import layouts as cpu
from shimmy_plugins.backends.wgpu import layouts as wgpu
from tests.docs.pages import page

ROWS, COLUMNS = 64, 2048


def facts() -> dict[str, tuple[float, float]]:
    """By type, the bits per weight and the packed size as part of the file's."""
    found = {}
    rows = re.findall(r"^\| (`.*?`) \| ([\d., ]+) \| ([\d., ]+) \|", page("quant_types.md"), re.MULTILINE)
    for names, bits, sizes in rows:
        numbers = zip(bits.split(", "), sizes.split(", "), strict=True)
        for name, (each, size) in zip(re.findall(r"`(\w+)`", names), numbers, strict=True):
            found[name] = float(each), float(size)
    return found


def test_all_types_are_there(plugins: Plugins):
    assert set(facts()) == {spec.name for spec in plugins.quant_types}


def test_sizes_are_those_of_blocks_and_layouts(plugins: Plugins):
    for spec in plugins.quant_types:
        bits, size = facts()[spec.name]
        assert bits == 8 * spec.block_bytes / spec.block_elements
        blocks = np.zeros((ROWS * COLUMNS // spec.block_elements, spec.block_bytes), np.uint8)
        run = spec.load().to_run(blocks, ROWS)
        native = cpu.layout_of(run)
        packed = ROWS * COLUMNS * native.block.itemsize / native.columns / cpu.LANES
        assert packed == wgpu.layout_of(run).bytes(ROWS, COLUMNS)
        assert size == pytest.approx(packed / blocks.nbytes, abs=0.006), spec.name
