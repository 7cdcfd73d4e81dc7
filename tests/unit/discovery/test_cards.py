"""Cards are read once per file, also between runs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shimmy.discovery import cards
from shimmy.discovery.cards import CardReader
from shimmy.gguf.writer import write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from tests import zoo
from tests.unit.discovery.homes import touch
from tests.unit.gguf.splitting import split_gguf

MODEL = zoo.model_path("llama_spm.q4_0")


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "cache/models.json"


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """The files that were opened."""
    paths = []
    open_gguf = cards.open_gguf

    def note(path, **options):
        paths.append(path)
        return open_gguf(path, **options)

    monkeypatch.setattr(cards, "open_gguf", note)
    return paths


def test_the_next_run_need_not_open_files(plugins, memory, opened):
    first = CardReader(plugins.quant_types, memory)
    facts = first.read(MODEL)
    first.save()
    second = CardReader(plugins.quant_types, memory)
    assert second.read(MODEL) == facts
    assert facts.card.path == MODEL
    assert opened == [MODEL]
    before = memory.stat().st_mtime_ns
    second.save()
    assert memory.stat().st_mtime_ns == before


def test_a_change_is_noticed_in_each_part(plugins, memory, tmp_path, opened):
    first, second = split_gguf(MODEL, tmp_path, "tiny", 2)
    reader = CardReader(plugins.quant_types, memory)
    assert reader.read(first).card is not None
    os.utime(second, (1, 1))
    reader.read(first)
    second.unlink()
    assert "00002-of-00002.gguf: no such file" in reader.read(first).problem
    assert len(opened) == 3


def test_broken_files_are_looked_at_again(plugins, memory, tmp_path, opened):
    broken = touch(tmp_path / "broken.gguf", b"GGUF")
    for _ in range(2):
        reader = CardReader(plugins.quant_types, memory)
        assert reader.read(broken).card is None
        reader.save()
    assert len(opened) == 2


def test_other_plugins_see_files_anew(plugins, memory, opened):
    reader = CardReader(plugins.quant_types, memory)
    reader.read(MODEL)
    reader.save()
    none: Registry[QuantTypeSpec] = Registry("quant type")
    CardReader(none, memory).read(MODEL)
    assert len(opened) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"stamp": 1}', "\xff"])
def test_a_damaged_memory_is_forgotten(plugins, memory, content, opened):
    touch(memory, content.encode("latin-1"))
    reader = CardReader(plugins.quant_types, memory)
    assert reader.read(MODEL).card is not None
    reader.save()
    assert str(MODEL) in json.loads(memory.read_text())["cards"]


def test_memory_with_the_wrong_things_in_it(plugins, memory):
    reader = CardReader(plugins.quant_types, memory)
    reader.read(MODEL)
    reader.save()
    content = json.loads(memory.read_text())
    for entry in (None, [], [[], {}, None], [[], {"path": 5}, None]):
        memory.write_text(json.dumps(content | {"cards": {str(MODEL): entry}}))
        assert CardReader(plugins.quant_types, memory).read(MODEL).card is not None


def test_where_nothing_can_be_written_nothing_is(plugins, tmp_path):
    for memory in (None, touch(tmp_path / "file") / "models.json"):
        reader = CardReader(plugins.quant_types, memory)
        assert reader.read(MODEL).card is not None
        reader.save()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_so_many_are_remembered(plugins, memory, monkeypatch):
    monkeypatch.setattr(cards, "MOST_CARDS", 1)
    reader = CardReader(plugins.quant_types, memory)
    for name in ("llama_spm.q4_0", "llama_spm.q8_0"):
        reader.read(zoo.model_path(name))
    reader.save()
    assert list(json.loads(memory.read_text())["cards"]) == [str(zoo.model_path("llama_spm.q8_0"))]


def test_a_glance_says_what_the_metadata_say(plugins, memory, opened):
    reader = CardReader(plugins.quant_types, memory)
    glance = reader.glance(MODEL)
    assert (glance.whole, opened) == (False, [])
    reader.save()
    again = CardReader(plugins.quant_types, memory)
    assert again.glance(MODEL) == glance
    whole = again.read(MODEL)
    assert (whole.whole, opened) == (True, [MODEL])
    assert again.glance(MODEL) == whole
    assert glance.card == replace(whole.card, parameters=None, quantization=None)
    assert glance.card.has_chat_template
    assert glance.problem == whole.problem


def test_a_glance_at_a_split_model_reads_it_whole(plugins, tmp_path, opened):
    first, second = split_gguf(MODEL, tmp_path, "tiny", 2)
    facts = CardReader(plugins.quant_types).glance(first)
    assert facts.card.size_bytes == first.stat().st_size + second.stat().st_size
    assert (facts.whole, opened) == (True, [first])
    second.unlink()
    assert CardReader(plugins.quant_types).glance(first).card is None


def test_a_glance_tells_what_is_no_language_model(plugins, tmp_path):
    path = tmp_path / "clip.gguf"
    metadata = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    write_gguf(path, metadata, {"a": np.ones((1, 32), np.float32)})
    reader = CardReader(plugins.quant_types)
    glance = reader.glance(path)
    assert "turns images into input" in glance.problem
    assert reader.read(path).problem == glance.problem
    broken = touch(tmp_path / "broken.gguf", b"GGUF")
    assert reader.glance(broken) == reader.read(broken)
