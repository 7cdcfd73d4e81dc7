"""What tells a model from every other: all bytes, read once."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from shimmy.errors import GGUFError
from shimmy.gguf import content
from shimmy.gguf.content import IDENTIFYING, content_of
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import write_gguf

PIECE = 1 << 16


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of some pieces."""
    monkeypatch.setattr(content, "_PIECE", PIECE)
    path = tmp_path / "model.gguf"
    write_gguf(path, {}, {"a": np.arange(100_000, dtype=np.float32).reshape(100, 1000)})
    return path


def look(path: Path, *, threads: int = 2) -> tuple[str | None, bool]:
    """The content, and whether the file was read for it."""
    told: list[str] = []
    with open_gguf(path) as file:
        found = content_of(file, path.parent / "notes", threads, lambda phase, *_: told.append(phase))
    assert set(told) <= {IDENTIFYING}
    return found, bool(told)


def change(path: Path, at: int) -> None:
    """One bit; the time of change stays."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_read_once(model: Path) -> None:
    first, read = look(model)
    assert read
    assert look(model) == (first, False)


def test_threads_change_nothing(model: Path) -> None:
    first, _ = look(model, threads=1)
    shutil.rmtree(model.parent / "notes")
    assert look(model, threads=3) == (first, True)


def test_copies_have_the_same_content(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "copy.gguf")
    assert look(tmp_path / "copy.gguf") == (look(model)[0], True)


@pytest.mark.parametrize("at", [-1, -PIECE - 1, 3 * PIECE])
def test_one_bit_is_another_content(model: Path, at: int) -> None:
    first, _ = look(model)
    change(model, at)
    second, read = look(model)
    assert read
    assert second != first


def test_pieces_have_an_order(model: Path) -> None:
    first, _ = look(model)
    whole = model.read_bytes()
    pieces = [whole[i : i + PIECE] for i in range(0, len(whole), PIECE)]
    model.write_bytes(b"".join([pieces[0], pieces[2], pieces[1], *pieces[3:]]))
    assert look(model)[0] != first


def test_a_file_that_is_replaced_while_it_is_open(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "other.gguf")
    change(tmp_path / "other.gguf", -1)
    with open_gguf(model) as file:
        (tmp_path / "other.gguf").replace(model)
        old = content_of(file, tmp_path / "notes", 1, lambda *_: None)
    new, read = look(model)
    assert read
    assert new != old


@pytest.mark.parametrize("note", [b"", b"[]", b'{"states": 1, "content": 2}', b"\xff"])
def test_a_damaged_note_is_written_anew(model: Path, note: bytes) -> None:
    first, _ = look(model)
    [path] = (model.parent / "notes").iterdir()
    path.write_bytes(note)
    assert look(model) == (first, True)
    assert look(model) == (first, False)


def test_nobody_waits_for_what_cannot_be_remembered(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    (model.parent / "notes").touch()
    with caplog.at_level(logging.WARNING):
        assert look(model) == (None, False)
    assert f"the content of {model} cannot be remembered" in caplog.text


def test_a_closed_file_has_no_content(model: Path, tmp_path: Path) -> None:
    with open_gguf(model) as file:
        pass
    with pytest.raises(GGUFError, match=r"model.gguf: is closed"):
        content_of(file, tmp_path / "notes", 1, lambda *_: None)
