"""Merges are found once; a memory that is damaged or in the way changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy_plugins.tokenizers import remembered_merges
from shimmy_plugins.tokenizers.remembered_merges import remembered
from shimmy_plugins.tokenizers.spm import merges_of

PIECES = {"a": -1.0, "b": -2.0, "\u2581": -3.0, "\u2581a": -0.5, "ab": -0.25, "\u2581ab": -4.0}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pieces each search had; also few of them are remembered."""
    monkeypatch.setattr(remembered_merges, "LEAST_PIECES", len(PIECES))
    return []


def recalled(found: list[int], pieces: dict[str, float], memory: Path) -> list[tuple[str, str]]:
    def find(pieces):
        found.append(len(pieces))
        return merges_of(pieces)

    merges = remembered(find, pieces, memory)
    assert merges == merges_of(pieces)
    return merges


def test_they_are_found_once(tmp_path: Path, found: list[int]) -> None:
    merges = [recalled(found, PIECES, tmp_path / "merges") for _ in range(3)]
    assert len(merges[2]) == 4
    assert found == [6]


def test_other_scores_or_pieces_are_another_entry(tmp_path: Path, found: list[int]) -> None:
    for pieces in (PIECES, PIECES | {"ab": -9.0}, {**PIECES, "ba": -1.0}, PIECES):
        recalled(found, pieces, tmp_path)
    assert found == [6, 6, 7]


def test_few_are_found_each_time(tmp_path: Path, found: list[int]) -> None:
    few = dict(list(PIECES.items())[:-1])
    for _ in range(2):
        recalled(found, few, tmp_path)
    assert found == [5, 5]
    assert not list(tmp_path.iterdir())


def test_a_damaged_entry_is_made_anew(tmp_path: Path, found: list[int]) -> None:
    recalled(found, PIECES, tmp_path)
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        entry.write_bytes(damaged)
        recalled(found, PIECES, tmp_path)
        assert entry.read_bytes() == whole
    assert found == [6] * 4


def test_a_memory_that_cannot_be_written(tmp_path: Path, found: list[int]) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        recalled(found, PIECES, tmp_path / "file" / "merges")
    assert found == [6, 6]


def test_pieces_that_are_no_utf8(tmp_path: Path, found: list[int]) -> None:
    for _ in range(2):
        recalled(found, PIECES | {"\udc80": -5.0, "\udc80a": -6.0}, tmp_path)
    assert found == [8]
