"""Vocabularies are read from their file once; a memory that is damaged or in the way changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import write_gguf
from shimmy.text import remembered
from shimmy.text.remembered import read_metadata

TOKENS = [f"w{number}" for number in range(2000)]
METADATA = {
    "general.architecture": "toy",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": [-float(number) for number in range(2000)],
    "toy.heads": [1, 2],
    "tokenizer.chat_template": "{{ messages }}",
}


@pytest.fixture(autouse=True)
def small_vocabularies_count(monkeypatch):
    monkeypatch.setattr(remembered, "LEAST_ELEMENTS", 4000)


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "cache/vocabularies"


@pytest.fixture
def whole_reads(monkeypatch) -> list[Path]:
    """The files whose vocabularies were read."""
    paths = []

    def note(path, *, skim=False):
        if not skim:
            paths.append(path)
        return open_gguf(path, skim=skim)

    monkeypatch.setattr(remembered, "open_gguf", note)
    return paths


def write(path: Path, **changes: object) -> Path:
    write_gguf(path, METADATA | changes, {"a": np.ones((1, 32), np.float32)})
    return path


def test_the_second_start_reads_no_vocabulary(tmp_path, memory, whole_reads):
    path = write(tmp_path / "m.gguf")
    for _ in range(2):
        metadata = read_metadata(path, memory)
        assert metadata == METADATA
        assert list(metadata) == list(METADATA)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert read_metadata(copy, memory) == METADATA
    assert whole_reads == [path]


def test_another_vocabulary_in_the_same_place_is_noticed(tmp_path, memory, whole_reads):
    path = write(tmp_path / "m.gguf")
    read_metadata(path, memory)
    status = path.stat()
    write(path, **{"tokenizer.ggml.tokens": ["v" + token[1:] for token in TOKENS]})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert read_metadata(path, memory)["tokenizer.ggml.tokens"][7] == "v7"
    assert len(whole_reads) == 2


@pytest.mark.parametrize("damage", ["", "short", "flipped"])
def test_a_damaged_entry_is_written_anew(tmp_path, memory, whole_reads, damage):
    path = write(tmp_path / "m.gguf")
    read_metadata(path, memory)
    [entry] = memory.iterdir()
    content = entry.read_bytes()
    flipped = bytes([*content[:-1], content[-1] ^ 1])
    entry.write_bytes({"": b"", "short": content[:-5], "flipped": flipped}[damage])
    assert read_metadata(path, memory) == METADATA
    assert entry.read_bytes() == content
    assert len(whole_reads) == 2


def test_an_entry_of_other_arrays_is_not_taken(tmp_path, memory, whole_reads):
    path, other = write(tmp_path / "m.gguf"), write(tmp_path / "o.gguf", **{"tokenizer.ggml.types": TOKENS})
    read_metadata(path, memory)
    [entry] = memory.iterdir()
    read_metadata(other, memory)
    [strange] = set(memory.iterdir()) - {entry}
    entry.write_bytes(strange.read_bytes())
    assert read_metadata(path, memory) == METADATA
    assert len(whole_reads) == 3


def test_where_nothing_can_be_written_nothing_is(tmp_path):
    path = write(tmp_path / "m.gguf")
    blocked = tmp_path / "file"
    blocked.touch()
    for _ in range(2):
        assert read_metadata(path, blocked / "vocabularies") == METADATA
    assert {each.name for each in tmp_path.iterdir()} == {"m.gguf", "file"}


def test_tokens_that_are_no_text_are_read_each_time(tmp_path, memory, whole_reads):
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes().replace(b"w777", b"w\xff77", 1)
    path.write_bytes(data)
    for _ in range(2):
        assert read_metadata(path, memory)["tokenizer.ggml.tokens"][777] == "w\udcff77"
    assert len(whole_reads) == 2
    assert not memory.exists()


def test_small_vocabularies_are_not_worth_it(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(remembered, "LEAST_ELEMENTS", 4001)
    assert read_metadata(write(tmp_path / "m.gguf"), memory) == METADATA
    assert not memory.exists()


def test_only_so_many_are_kept(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_ENTRIES", 2)
    for number in range(3):
        read_metadata(write(tmp_path / "m.gguf", **{"general.name": str(number)}), memory)
        for age, entry in enumerate(sorted(memory.iterdir(), key=lambda each: each.stat().st_mtime_ns)):
            os.utime(entry, ns=(number, 10**9 * (number * 10 + age)))
    assert len(list(memory.iterdir())) == 2
