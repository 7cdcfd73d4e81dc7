"""Which adapters count, which one is chosen, and what is said when none is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shimmy.errors import ConfigError
from shimmy_plugins.backends.wgpu.adapters import (
    Adapter,
    AdapterFacts,
    choose,
    choose_adapter,
    list_adapters,
    merged,
    unusable,
)
from shimmy_plugins.backends.wgpu.budget import AUTO_SHARE, free_memory, open_gpu

H100 = AdapterFacts("NVIDIA H100 80GB HBM3", "discrete", "Vulkan", "580.159", 0x10DE, 0x2330)
H100_GL = AdapterFacts("NVIDIA H100 80GB HBM3/PCIe/SSE2", "other", "OpenGL", "4.6", 0x10DE, 0)
ARC = AdapterFacts("Intel(R) Arc(TM) A770 Graphics", "discrete", "Vulkan", "Mesa", 0x8086, 0x56A0)
IRIS = AdapterFacts("Intel(R) Iris(R) Xe Graphics", "integrated", "Vulkan", "Mesa", 0x8086, 0x9A49)
AMD = AdapterFacts("AMD Radeon RX 7900 XTX", "discrete", "Vulkan", "radv", 0x1002, 0x744C)
M2 = AdapterFacts("Apple M2", "integrated", "Metal", "")
VIRTUAL = AdapterFacts("Virtio-GPU Venus", "other", "Vulkan", "Mesa", 0x1AF4, 0x1050)
LLVMPIPE = AdapterFacts("llvmpipe (LLVM 15.0.6, 256 bits)", "software", "Vulkan", "Mesa", 0x10005, 0)
WARP = AdapterFacts("Microsoft Basic Render Driver", "software", "D3D12", "", 0x1414, 0x8C)


def on(api: str, facts: AdapterFacts) -> AdapterFacts:
    return replace(facts, api=api)


def cards(*facts: AdapterFacts) -> list[AdapterFacts]:
    return [card for _, card in merged(facts)]


def test_the_best_kind_comes_first():
    assert cards(LLVMPIPE, VIRTUAL, IRIS, H100) == [H100, IRIS, VIRTUAL, LLVMPIPE]


def test_among_equals_the_order_of_the_system_holds():
    assert cards(ARC, H100) == [ARC, H100]


def test_a_card_seen_through_two_interfaces_is_one():
    assert cards(on("D3D12", ARC), IRIS, ARC, on("D3D12", IRIS)) == [
        replace(ARC, also=("D3D12",)),
        replace(IRIS, also=("D3D12",)),
    ]
    assert merged([on("OpenGL", M2), M2]) == [(1, replace(M2, also=("OpenGL",)))]


def test_opengl_tells_a_card_by_its_name():
    assert cards(H100_GL, H100, on("OpenGL", LLVMPIPE), LLVMPIPE) == [
        replace(H100, also=("OpenGL",)),
        replace(LLVMPIPE, also=("OpenGL",)),
    ]


def test_two_cards_of_one_model_are_two():
    second = replace(H100, ordinal=1)
    seen = cards(H100, second, on("D3D12", H100), on("D3D12", second), H100_GL)
    assert seen == [replace(H100, also=("D3D12", "OpenGL")), replace(second, also=("D3D12",))]


def test_two_models_of_one_vendor_are_two():
    assert len(cards(ARC, replace(on("D3D12", ARC), device_id=0x56A1, name="Intel(R) Arc(TM) A750"))) == 2


@pytest.mark.parametrize(
    ("found", "reason"),
    [((H100,), "the only GPU"), ((H100, LLVMPIPE), "the only GPU"), ((ARC, IRIS, LLVMPIPE), "the best of 2")],
)
def test_the_first_is_chosen(found: tuple[AdapterFacts, ...], reason: str):
    assert choose(found) == (0, reason)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ((), "no GPU: no adapter of Vulkan, Metal, D3D12 or OpenGL"),
        (
            (LLVMPIPE,),
            "no GPU: only the software adapter llvmpipe, which is used only when named (--gpu llvmpipe)",
        ),
        (
            (WARP,),
            "no GPU: only the software adapter Microsoft Basic Render Driver, which is used only when named "
            "(--gpu 'Microsoft Basic Render Driver')",
        ),
    ],
)
def test_a_software_adapter_is_not_chosen(found: tuple[AdapterFacts, ...], problem: str):
    assert unusable(found) == problem
    with pytest.raises(ConfigError) as caught:
        choose(found)
    assert caught.value.message == problem
    assert unusable([H100, *found]) is None


@pytest.mark.parametrize(
    ("wanted", "index"), [("0", 0), ("2", 2), ("iris", 1), ("Xe Graphics", 1), ("llvmpipe", 2), ("H100", 0)]
)
def test_one_may_be_named(wanted: str, index: int):
    assert choose([H100, IRIS, LLVMPIPE], wanted) == (index, f"gpu is {wanted!r}")


@pytest.mark.parametrize(
    ("wanted", "problem", "hint"),
    [
        ("3", "gpu is '3', which is no adapter here. There are: 0: Intel", "Known: "),
        ("iriss", "is no adapter here", "Known: "),
        ("llvmpipe (LLVM 16)", "is no adapter here", "Did you mean 'llvmpipe (LLVM 15.0.6, 256 bits)'?"),
        ("intel", "which fits 2 adapters", "Give the index."),
    ],
)
def test_a_name_that_fits_none_or_several_is_an_error(wanted: str, problem: str, hint: str):
    with pytest.raises(ConfigError) as caught:
        choose([ARC, IRIS, LLVMPIPE], wanted)
    assert problem in caught.value.message
    assert "1: Intel(R) Iris(R) Xe Graphics (Vulkan)" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)
    assert caught.value.param == "gpu"


def test_without_any_adapter_a_name_is_an_error_too():
    with pytest.raises(ConfigError, match="There are: none"):
        choose([], "0")


@pytest.mark.parametrize(
    ("facts", "even"),
    [
        *((H100, True), (on("D3D12", H100), True), (LLVMPIPE, True), (M2, True), (IRIS, False), (ARC, False)),
        *((AMD, True), (on("D3D12", AMD), False), (on("Metal", AMD), False)),
    ],
)
def test_subgroups_are_used_where_all_kernels_have_the_same(facts: AdapterFacts, even: bool):
    assert facts.even_subgroups == even


# -- on this machine ------------------------------------------------------------------------------


def test_adapters_of_this_machine_are_told_apart(adapter: Adapter):
    seen = [(each.facts.name, each.facts.ordinal) for each in list_adapters()]
    assert len(set(seen)) == len(seen)
    assert seen[0][0] == adapter.facts.name != ""


def test_the_setting_names_an_adapter(adapter: Adapter):
    chosen, why = choose_adapter(adapter.facts.name)
    assert (chosen.facts, why) == (adapter.facts, f"gpu is {adapter.facts.name!r}")


def test_memory_that_is_free_is_the_budget(adapter: Adapter):
    free = free_memory(adapter.facts)
    assert free is None or free > 2**26
    automatic, given = open_gpu(adapter.facts.name), open_gpu("0", 2**20)
    assert given.memory == 2**20
    if free is not None:
        assert automatic.memory == pytest.approx(free * AUTO_SHARE, rel=0.2)
    automatic.close()
    given.close()


def test_memory_of_a_card_that_vulkan_does_not_know_is_unknown():
    assert free_memory(H100 if not_here(H100) else ARC) is None
    assert free_memory(on("D3D12", ARC)) is None
    assert free_memory(M2)


def not_here(facts: AdapterFacts) -> bool:
    return all(not adapter.facts.same_model(facts) for adapter in list_adapters())
