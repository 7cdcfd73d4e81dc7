"""Models of each kind on the GPU: all is computed there, in few dispatches, as other engines compute it."""

from __future__ import annotations

import pytest

from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Dispatch, Size
from shimmy_plugins.backends.wgpu.plan import WgpuPlan
from tests.backend.harness import PLUGINS, compile_with, generate_greedy
from tests.backend.test_zoo import answers
from tests.zoo import model_path, reference

#: Dispatches of a layer for one generated row; one more where q, k and v are of two quant types.
DISPATCHES = {
    "gpt2": 5,
    "phi2": 5 + 1,
    "phi3": 5,
    "starcoder2": 5,
    "qwen2": 5,
    "gemma2": 5,
    "qwen3moe": 7 + 1,
}
#: Layer norms, GELU and positions; norms behind products, caps and windows; experts and norms of heads.
COMPARED = ["gpt2", "gemma2", "qwen3moe"]
TOKENS = 6


def in_layer(plan: WgpuPlan, layer: int) -> int:
    """Dispatches of a generated row there; values of layers are named after them."""
    size = Size(1, 1, 64)
    kernels = [
        (item.node, item.kernels[item.pick(size)])
        for item in plan.lowered["generated"]
        if isinstance(item, Dispatch)
    ]
    return sum(f"blk.{layer}." in node and all(kernel.grid(size)) for node, kernel in kernels)


def cases() -> list[object]:
    """Other models have the same kernels as those compared: the long suites count their dispatches."""
    return [pytest.param(name, marks=[] if name in COMPARED else [pytest.mark.full]) for name in DISPATCHES]


@pytest.mark.parametrize("name", cases())
def test_all_is_computed_there(gpu: Gpu, name: str) -> None:
    plan = compile_with(WgpuBackend(PLUGINS, gpu), model_path(f"{name}.q4_k_m"))
    assert not plan.fallbacks
    assert in_layer(plan, 1) == DISPATCHES[name]
    if name in COMPARED:
        prompt, answer = reference(name)["prompts"][0], answers(f"{name}.q4_k_m")
        found, _ = generate_greedy(plan, prompt["ids"], TOKENS)
        assert found == answer[prompt["id"]]["greedy_ids"][:TOKENS]
    plan.close()
