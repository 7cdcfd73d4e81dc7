"""The GPU that the tests of the WGSL engine share: the machine's best, else a software adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shimmy_plugins.backends.wgpu.adapters import Adapter, list_adapters
from shimmy_plugins.backends.wgpu.device import Gpu


@pytest.fixture(scope="session")
def adapter() -> Adapter:
    adapters = list_adapters()
    if not adapters:
        pytest.skip("no GPU adapter, not even a software one such as Mesa's lavapipe")
    return adapters[0]


@pytest.fixture(scope="session")
def gpu(adapter: Adapter) -> Iterator[Gpu]:
    gpu = Gpu(adapter)
    yield gpu
    gpu.close()
