"""A converter with a cache of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.engine.load import op_table
from shimmy.huggingface.converted import Converter
from tests.folders import all_plugins

MakeConverter = Callable[..., Converter]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def converter(cache: Path) -> MakeConverter:
    """``converter(quantize="f16")``."""

    def make(quantize: str = "f16") -> Converter:
        plugins = all_plugins()
        return Converter(plugins, op_table(plugins), quantize, cache)

    return make
