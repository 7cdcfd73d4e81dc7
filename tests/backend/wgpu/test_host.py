"""Segments take part in what happens to a plan: wholly, or not at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shimmy.errors import ConfigError, OutOfMemoryError
from shimmy.graph.lora import Term
from shimmy.graph.offload import split
from shimmy_plugins.backends.wgpu.host import HostPart
from tests import mixture

PARTS = split(mixture.graph(mixture.weights()), keep_layers=2)


class FakeSegments:
    """Remembers what it was told."""

    description = "a heater"
    block_tokens = 32
    block_bytes = 10

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.adapters: dict[int, Any] = {}
        self.closed = False

    def reserve(self, blocks: int) -> None:
        self.blocks.append(blocks)

    def put_adapter(self, place: int, terms: Any) -> None:
        self.adapters[place] = terms

    def close(self) -> None:
        self.closed = True


def full(*_: Any) -> None:
    raise OutOfMemoryError("no room.")


def host_of(segments: Any) -> HostPart:
    assert PARTS is not None
    return HostPart(segments, PARTS)


def test_blocks_are_there_on_both_sides_or_on_none() -> None:
    segments, own = FakeSegments(), SimpleNamespace(blocks=[])
    host = host_of(segments)
    host.reserve(3, own.blocks.append)
    with pytest.raises(OutOfMemoryError):
        host.reserve(9, full)
    assert (segments.blocks, own.blocks) == ([3, 9, 3], [3])


def test_each_side_gets_the_terms_of_its_nodes() -> None:
    segments, own = FakeSegments(), {}
    host = host_of(segments)
    terms = {label: Term() for label in ("token_embd", "blk.0.attn_q", "blk.1.attn_q", "output")}
    host.put_adapter(1, terms, own.__setitem__)
    assert segments.adapters[1].keys() == {"token_embd", "blk.0.attn_q"}
    assert own[1].keys() == {"blk.1.attn_q", "output"}
    host.put_adapter(1, None, own.__setitem__)
    assert segments.adapters[1] is own[1] is None
    with pytest.raises(OutOfMemoryError):
        host.put_adapter(2, terms, full)
    assert segments.adapters[2] is None


def test_blocks_of_another_size_do_not_fit() -> None:
    segments = FakeSegments()
    segments.block_tokens = 16
    with pytest.raises(ConfigError, match="layer 0 has KV blocks of 16 positions, wgpu of 32"):
        host_of(segments)
    assert segments.closed
    segments.block_bytes = 0
    assert host_of(segments).description == "layer 0: a heater"
