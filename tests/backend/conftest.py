"""What of the engines' tests every run has for the GPU engine, which computes on a software GPU there."""

from __future__ import annotations

import pytest

#: A software GPU takes seconds to compile a model's shaders, so most models are left to the long suites.
ALWAYS = ("TestWgpu::test_op[", "test_ops.py::test_", "test_greedy_tokens_and_logits[llama_spm.q4_k_m-wgpu]")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the others as parts of the long suites."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        names = (*parameters.values(), getattr(item.getparent(pytest.Class), "name", ""))
        on_gpu = any(isinstance(name, str) and name in ("wgpu", "TestWgpu") for name in names)
        if on_gpu and not any(name in item.nodeid for name in ALWAYS):
            item.add_marker(pytest.mark.full)
