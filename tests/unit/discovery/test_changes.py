"""Folders that others write to: what has changed, and been left alone since."""

import os
import shutil
from pathlib import Path

import pytest

from shimmy.discovery.changes import Settling, look_at, newest
from tests.unit.discovery.homes import touch

A, B = Path("a"), Path("b")
OLD, NEW, NEWER = (("x", 1, 1),), (("x", 2, 2),), (("x", 3, 3),)


def test_a_place_settles_when_it_has_been_left_alone():
    settling = Settling(2.0, {A: OLD})
    assert settling.update({A: OLD}, 0.0) == set()
    assert settling.update({A: NEW}, 1.0) == set()
    assert settling.update({A: NEW}, 2.9) == set()
    assert settling.unsettled == {A}
    assert settling.update({A: NEWER}, 3.0) == set()
    assert settling.update({A: NEWER}, 4.9) == set()
    assert settling.update({A: NEWER}, 5.0) == {A}
    assert settling.unsettled == set()
    assert settling.update({A: NEWER}, 99.0) == set()


def test_what_is_as_it_was_again_has_not_changed():
    settling = Settling(1.0, {A: OLD})
    settling.update({A: NEW}, 0.0)
    assert settling.update({A: OLD}, 0.5) == set()
    assert settling.unsettled == set()
    assert settling.update({A: OLD}, 9.0) == set()


def test_places_come_and_go_each_for_itself():
    settling = Settling(1.0, {A: OLD})
    assert settling.update({A: OLD, B: NEW}, 0.0) == set()
    assert settling.update({B: NEW}, 1.0) == {B}
    assert settling.unsettled == {A}
    assert settling.update({B: NEW}, 2.0) == {A}
    assert settling.update({A: OLD, B: NEW}, 3.0) == set()
    assert settling.update({A: OLD, B: NEW}, 4.0) == {A}


def test_only_files_that_decide_count(tmp_path):
    lora = tmp_path / "run" / "lora"
    for name in ("adapter_config.json", "adapter_model.safetensors", "trainer_log.jsonl", "optimizer.pt"):
        touch(lora / name, b"12")
    gguf = touch(tmp_path / "model.gguf", b"123")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "big.gguf.part")
    touch(tmp_path / "run" / "tmp-checkpoint-5" / "adapter_config.json")
    look = look_at([tmp_path])
    assert {place: [row[:2] for row in state] for place, state in look.items()} == {
        lora: [("adapter_config.json", 2), ("adapter_model.safetensors", 2)],
        gguf: [("model.gguf", 3)],
    }
    os.utime(lora / "trainer_log.jsonl", (1, 1))
    assert look_at([tmp_path]) == look
    os.utime(lora / "adapter_config.json", (5, 5))
    assert look_at([tmp_path]) != look
    os.utime(lora / "adapter_model.safetensors", (7, 7))
    assert newest(look_at([lora])[lora]) == 7 * 10**9


def test_a_file_may_be_looked_at_alone(tmp_path):
    gguf = touch(tmp_path / "one.gguf")
    touch(tmp_path / "two.gguf")
    assert list(look_at([gguf])) == [gguf]


def test_a_folder_that_is_away_is_an_error(tmp_path):
    touch(tmp_path / "here" / "one.gguf")
    with pytest.raises(OSError, match="away"):
        look_at([tmp_path / "here", tmp_path / "away"])


def test_links_in_a_circle_end(tmp_path):
    gguf = touch(tmp_path / "in" / "one.gguf")
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    assert gguf in look_at([tmp_path])
    shutil.rmtree(tmp_path / "in")
    assert look_at([tmp_path]) == {}
