"""Which GPUs there are, which one computes, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from shimmy.errors import ConfigError, did_you_mean
from shimmy_plugins.backends.wgpu import native

#: Kinds of adapters, best first: "other" are virtual and unknown ones, "software" computes on the CPU.
KINDS = ("discrete", "integrated", "other", "software")
#: Interfaces to GPUs, best first.
APIS = ("Vulkan", "Metal", "D3D12", "OpenGL")
#: Vendors by the ids that PCI gives, and Vulkan to those without hardware.
_NVIDIA, _AMD, _MESA = 0x10DE, 0x1002, 0x10005
_KINDS = {
    native.lib.WGPUAdapterType_DiscreteGPU: "discrete",
    native.lib.WGPUAdapterType_IntegratedGPU: "integrated",
    native.lib.WGPUAdapterType_CPU: "software",
}
_APIS = {
    native.lib.WGPUBackendType_Vulkan: "Vulkan",
    native.lib.WGPUBackendType_Metal: "Metal",
    native.lib.WGPUBackendType_D3D12: "D3D12",
}


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter says of itself."""

    name: str
    kind: str
    """One of :data:`KINDS`."""
    api: str
    """The interface to it, one of :data:`APIS`."""
    driver: str
    vendor_id: int = 0
    device_id: int = 0
    """0: unknown."""
    ordinal: int = 0
    """How many cards of the same model come before it."""
    also: tuple[str, ...] = ()
    """Further interfaces that the same card has."""

    @property
    def software(self) -> bool:
        return self.kind == KINDS[-1]

    @property
    def even_subgroups(self) -> bool:
        """Whether all kernels have subgroups of one size, that which one of them finds.

        Elsewhere a driver may choose it for each kernel: Intel's and Qualcomm's everywhere, AMD's in D3D12.
        """
        vendors = {"Vulkan": (_NVIDIA, _AMD, _MESA), "D3D12": (_NVIDIA,)}.get(self.api, ())
        return self.vendor_id in vendors or (self.api == "Metal" and self.name.startswith("Apple"))

    def same_model(self, other: AdapterFacts) -> bool:
        """Whether both may be the same card, seen through two interfaces."""
        if self.device_id and other.device_id:
            return (self.vendor_id, self.device_id) == (other.vendor_id, other.device_id)
        # OpenGL knows no device ids, and decorates names: "NVIDIA H100 80GB HBM3/PCIe/SSE2".
        return self.name in other.name or other.name in self.name


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of this machine."""

    facts: AdapterFacts
    instance: native.Handle
    handle: native.Handle


@cache
def list_adapters() -> tuple[Adapter, ...]:
    """The machine's adapters, best first. OpenGL, which is slow to ask, counts where nothing else is."""
    if not os.environ.get("XDG_RUNTIME_DIR"):
        # Without a desktop, the layer of Mesa that asks it for its favourite GPU complains to standard error.
        os.environ.setdefault("NODEVICE_SELECT", "1")
    found = _ask(native.MODERN_APIS) or _ask(native.OPENGL)
    cards = merged([adapter.facts for adapter in found])
    return tuple(replace(found[place], facts=facts) for place, facts in cards)


def choose_adapter(wanted: str = "auto") -> tuple[Adapter, str]:
    """The adapter that computes, and why; see :func:`choose`."""
    adapters = list_adapters()
    index, reason = choose([adapter.facts for adapter in adapters], wanted)
    return adapters[index], reason


def merged(facts: Sequence[AdapterFacts]) -> list[tuple[int, AdapterFacts]]:
    """(place in ``facts``, facts) of each card, best first; the same card through two interfaces is one.

    Several cards of one model are told apart by counting: the second that Vulkan shows is the second
    that OpenGL shows.
    """

    def by_api(entry: tuple[int, AdapterFacts]) -> int:
        return APIS.index(entry[1].api)

    cards: list[tuple[int, AdapterFacts]] = []
    for place, found in sorted(enumerate(facts), key=by_api):
        twin = next((i for i, (_, card) in enumerate(cards) if _is_twin(card, found)), None)
        if twin is None:
            cards.append((place, found))
        else:
            first, card = cards[twin]
            cards[twin] = first, replace(card, also=(*card.also, found.api))
    return sorted(cards, key=lambda card: (KINDS.index(card[1].kind), by_api(card), card[0]))


def choose(cards: Sequence[AdapterFacts], wanted: str = "auto") -> tuple[int, str]:
    """(index, why) of the adapter that computes; ``cards`` are best first.

    Args:
        cards: as :func:`merged` tells them.
        wanted: the ``gpu`` setting: an index, a part of a name, or "auto".

    Raises:
        ConfigError: none fits, or a name fits several.
    """
    if wanted != "auto":
        return _named(cards, wanted), f"gpu is {wanted!r}"
    if problem := unusable(cards):
        raise ConfigError(problem)
    others = len([card for card in cards if not card.software]) - 1
    return 0, f"the best of {others + 1}" if others else "the only GPU"


def unusable(cards: Iterable[AdapterFacts]) -> str | None:
    """Why no adapter is chosen by itself, or None if one is."""
    names = []
    for card in cards:
        if not card.software:
            return None
        names.append(card.name)
    if not names:
        return "no GPU: no adapter of Vulkan, Metal, D3D12 or OpenGL"
    name = names[0].partition(" (")[0]
    flag = f"--gpu {name!r}" if " " in name else f"--gpu {name}"
    return f"no GPU: only the software adapter {name}, which is used only when named ({flag})"


def _ask(apis: int) -> list[Adapter]:
    instance = native.make_instance(apis)
    adapters: list[Adapter] = []
    for handle in native.enumerate_adapters(instance):
        facts = _facts(handle)
        before = sum(replace(other.facts, ordinal=0) == facts for other in adapters)
        adapters.append(Adapter(replace(facts, ordinal=before), instance, handle))
    return adapters


def _facts(adapter: native.Handle) -> AdapterFacts:
    info = native.ffi.new("WGPUAdapterInfo *")
    native.lib.wgpuAdapterGetInfo(adapter, info)
    facts = AdapterFacts(
        name=native.text(info.device),
        kind=_KINDS.get(info.adapterType, "other"),
        api=_APIS.get(info.backendType, "OpenGL"),
        driver=native.text(info.description),
        vendor_id=info.vendorID,
        device_id=info.deviceID,
    )
    native.lib.wgpuAdapterInfoFreeMembers(info[0])
    return facts


def _named(cards: Sequence[AdapterFacts], wanted: str) -> int:
    listing = "; ".join(f"{index}: {card.name} ({card.api})" for index, card in enumerate(cards))
    if wanted.isdecimal():
        if int(wanted) < len(cards):
            return int(wanted)
        found: list[int] = []
    else:
        found = [i for i, card in enumerate(cards) if wanted.casefold() in card.name.casefold()]
    if len(found) == 1:
        return found[0]
    many = f"fits {len(found)} adapters" if found else "is no adapter here"
    raise ConfigError(
        f"gpu is {wanted!r}, which {many}. There are: {listing or 'none'}.",
        hint="Give the index." if found else did_you_mean(wanted, [card.name for card in cards]),
        param="gpu",
    )


def _is_twin(card: AdapterFacts, found: AdapterFacts) -> bool:
    return found.api not in (card.api, *card.also) and card.same_model(found)
