"""Room for the answer, and generations side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shimmy.errors import ContextLengthError, EngineError, RequestError
from shimmy.server.generation import Piece, merge, room_for_answer
from tests.serve.fake_engine import facts


@pytest.mark.parametrize(
    ("prompt", "requested", "default", "room"),
    [
        (10, None, None, 90),
        (10, None, 16, 16),
        (90, None, 16, 10),
        (10, 5, 16, 5),
        (10, 90, None, 90),
        (99, None, None, 1),
    ],
)
def test_room_for_answer(prompt: int, requested: int | None, default: int | None, room: int) -> None:
    assert room_for_answer(facts(context=100), prompt, requested, default) == room


@pytest.mark.parametrize(
    ("prompt", "requested", "param"), [(10, 91, "max_tokens"), (100, None, "prompt"), (500, 5, "prompt")]
)
def test_no_room_for_answer(prompt: int, requested: int | None, param: str) -> None:
    with pytest.raises(ContextLengthError) as caught:
        room_for_answer(facts(context=100), prompt, requested)
    assert caught.value.param == param
    for count in (prompt, requested, 100):
        assert count is None or str(count) in caught.value.message


def test_an_empty_prompt() -> None:
    with pytest.raises(RequestError, match="empty"):
        room_for_answer(facts(), 0, None)


class Stream:
    """A generation that notes whether it was ended."""

    def __init__(self, *texts: str, error: Exception | None = None) -> None:
        self.texts, self.error = texts, error
        self.ended = False
        self.given = 0

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        try:
            for text in self.texts:
                await asyncio.sleep(0)
                self.given += 1
                yield Piece(text, [], 0)
            if self.error:
                raise self.error
            await asyncio.sleep(0)
        finally:
            self.ended = True


def test_merge() -> None:
    async def scenario() -> list[tuple[int, str]]:
        streams = [Stream("a", "b").pieces(), Stream("x").pieces(), Stream().pieces()]
        return [(index, piece.text) async for index, piece in merge(streams)]

    found = asyncio.run(scenario())
    assert [text for index, text in found if index == 0] == ["a", "b"]
    assert [text for index, text in found if index == 1] == ["x"]


def test_merge_ends_all_when_one_fails() -> None:
    async def scenario() -> None:
        endless, failing = Stream(*"abcdefgh" * 100), Stream("x", error=EngineError("no."))
        with pytest.raises(EngineError):
            _ = [piece async for piece in merge([endless.pieces(), failing.pieces()])]
        assert endless.ended
        assert failing.ended

    asyncio.run(scenario())


def test_merge_ends_all_when_its_reader_leaves() -> None:
    async def scenario() -> None:
        streams = [Stream(*"abc"), Stream(*"abc")]
        merged = merge([stream.pieces() for stream in streams])
        await anext(merged)
        await merged.aclose()
        assert all(stream.ended for stream in streams)

    asyncio.run(scenario())


def test_merge_of_many() -> None:
    async def scenario() -> list[int]:
        streams = [Stream(*"abc").pieces() for _ in range(500)]
        return [index async for index, _ in merge(streams)]

    assert sorted(asyncio.run(scenario())) == sorted([*range(500)] * 3)


def test_merge_waits_for_its_reader() -> None:
    async def scenario() -> None:
        stream = Stream(*"abcdefgh")
        merged = merge([stream.pieces()])
        await anext(merged)
        for _ in range(100):
            await asyncio.sleep(0)
        assert stream.given <= 4
        await merged.aclose()

    asyncio.run(scenario())
