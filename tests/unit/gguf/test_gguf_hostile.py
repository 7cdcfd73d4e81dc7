"""Broken and hostile files: a GGUFError that says what and where, and nothing else, ever."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.errors import GGUFError
from shimmy.gguf.cursor import ARRAY, LONG_ARRAY, MAX_ELEMENTS, MAX_HEAD_BYTES, STRING
from shimmy.gguf.header import read_header
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.specs import QuantTypeSpec

HUGE = 2**60
U32, F32 = 4, 6
SPECS = {
    0: QuantTypeSpec("F32", 0, 1, 4, load=lambda: None),
    2: QuantTypeSpec("Q4_0", 2, 32, 18, load=lambda: None),
}


def text(data: bytes | str, length: int | None = None) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(data) if length is None else length) + data


def pair(key: bytes | str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + data


def tensor(
    name: str | bytes = "t", shape: tuple[int, ...] = (32,), ggml_id: int = 0, offset: int = 0
) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", ggml_id, offset)


def head(*parts: bytes, pairs: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, pairs) + b"".join(parts) + bytes(4096)


def with_pair(kind: int, value: bytes, key: str = "k") -> bytes:
    return head(pair(key, kind, value), pairs=1)


def with_tensors(*rows: bytes) -> bytes:
    return head(*rows, tensors=len(rows))


U32_7 = struct.pack("<I", 7)
HOSTILE = {
    "magic": (b"GGML" + bytes(100), "magic at byte 0: found b'GGML'"),
    "version 1": (head(version=1), "version at byte 4: found 1, expected 2 or 3"),
    "version 0": (head(version=0), "version at byte 4: found 0"),
    "big endian": (head(version=3 << 24), "the file is big-endian"),
    "pairs huge": (head(pairs=HUGE), f"metadata count at byte 16: found {HUGE}, expected at most 65536"),
    "tensors huge": (head(tensors=HUGE), f"tensor count at byte 8: found {HUGE}, expected at most 65536"),
    "counts at their limit": (
        head(pairs=2**64 - 1, tensors=2**64 - 1),
        "found 18446744073709551615, expected at most",
    ),
    "more pairs than bytes": (head(pairs=4000), "metadata at byte 24: expected 4000 items"),
    "more tensors than bytes": (head(tensors=4000), "tensor table at byte 24: expected 4000 items"),
    "key of a book's length": (
        head(pair("k" * 1025, U32, U32_7), pairs=1),
        "metadata key 0 at byte 24: a name of 1025 bytes, expected at most 1024",
    ),
    "key too long": (head(text("k", HUGE), pairs=1), "metadata key 0 at byte 32: expected a string of"),
    "key not utf8": (head(pair(b"a\xff", U32, U32_7), pairs=1), "metadata key 0 at byte 33: not valid UTF-8"),
    "key twice": (head(pair("k", U32, U32_7) * 2, pairs=2), "metadata key 1 at byte 41: 'k' occurs twice"),
    "value type": (with_pair(13, b""), "metadata 'k' at byte 33: value type 13 is unknown"),
    "value type huge": (with_pair(2**32 - 1, b""), "value type 4294967295 is unknown"),
    "string too long": (with_pair(STRING, text("", HUGE)), "metadata 'k' at byte 45: expected a string of"),
    "string not utf8": (with_pair(STRING, text(b"ab\xfe")), "metadata 'k' at byte 47: not valid UTF-8"),
    "array too long": (with_pair(ARRAY, array(F32, HUGE)), "metadata 'k' at byte 49: expected"),
    "array of bytes too long": (with_pair(ARRAY, array(0, 5000)), "expected 5000 items of at least 1 bytes"),
    "strings too many": (with_pair(ARRAY, array(STRING, HUGE)), "items of at least 8 bytes"),
    "string in array too long": (
        with_pair(ARRAY, array(STRING, 2, text("a") + text("", HUGE))),
        "string 1 of",
    ),
    "arrays too many": (with_pair(ARRAY, array(ARRAY, HUGE)), "items of at least 12 bytes"),
    "element type": (with_pair(ARRAY, array(77, 1)), "value type 77 is unknown"),
    "nested too deep": (with_pair(ARRAY, array(ARRAY, 1) * 200), "nested deeper than 4"),
    "alignment zero": (
        with_pair(U32, bytes(4), "general.alignment"),
        "general.alignment' at byte 49: found 0, expected a power",
    ),
    "alignment 7": (with_pair(U32, U32_7, "general.alignment"), "found 7, expected a power of two"),
    "alignment 4": (with_pair(U32, struct.pack("<I", 4), "general.alignment"), "of at least 8"),
    "alignment 24": (with_pair(U32, struct.pack("<I", 24), "general.alignment"), "found 24"),
    "alignment text": (with_pair(STRING, text("32"), "general.alignment"), "found '32'"),
    "alignment true": (with_pair(7, b"\1", "general.alignment"), "found True"),
    "tensor name": (with_tensors(tensor(b"\xff")), "name of tensor 0 at byte 32: not valid UTF-8"),
    "tensor name too long": (with_tensors(tensor("t" * 2000)), "name of tensor 0 at byte 24: a name of 2000"),
    "tensor twice": (
        with_tensors(tensor(), tensor(offset=128)),
        "name of tensor 1 at byte 57: 't' occurs twice",
    ),
    "no dimensions": (with_tensors(tensor(shape=())), "dimensions of tensor 't' at byte 33: found 0"),
    "five dimensions": (with_tensors(tensor(shape=(1,) * 5)), "found 5 of them, expected 1 to 4"),
    "dimensions huge": (with_tensors(text("t") + b"\xff" * 4), "found 4294967295 of them"),
    "size zero": (with_tensors(tensor(shape=(32, 0))), r"shape \(0, 32\) is empty or too large"),
    "size overflows": (with_tensors(tensor(shape=(2**40, 2**40))), "is empty or too large"),
    "offset unaligned": (with_tensors(tensor(offset=33)), "33 is not a multiple of the alignment 32"),
    "offset past the end": (
        with_tensors(tensor(offset=HUGE)),
        "offset of tensor 't' at byte 49: data would begin",
    ),
    "offset at its limit": (with_tensors(tensor(offset=2**64 - 32)), "data would begin"),
    "overlap": (
        with_tensors(tensor("a"), tensor("b")),
        "offset of tensor 'b' at byte 82: overlaps tensor 'a'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_head(case):
    data, message = HOSTILE[case]
    with pytest.raises(GGUFError, match=message) as caught:
        read_header(data, "model.gguf")
    assert caught.value.message.startswith("model.gguf: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    "case", ["array too long", "strings too many", "arrays too many", "pairs huge", "key too long"]
)
def test_hostile_counts_allocate_nothing(case):
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError):
            read_header(HOSTILE[case][0], "model.gguf")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_head_has_a_greatest_size(monkeypatch):
    monkeypatch.setattr("shimmy.gguf.cursor.MAX_HEAD_BYTES", 1000)
    assert MAX_HEAD_BYTES >= 2**26
    with pytest.raises(GGUFError, match="of the 1000 a head may take"):
        read_header(with_pair(ARRAY, array(0, 2000)), "model.gguf")
    with pytest.raises(GGUFError, match="of the 1000 a head may take"):
        read_header(with_pair(ARRAY, array(STRING, 2, text(bytes(950)))), "model.gguf")


@pytest.mark.parametrize("skim", [False, True])
def test_arrays_have_a_greatest_number_of_elements(skim):
    flags = with_pair(ARRAY, array(ARRAY, 2, 2 * array(0, MAX_ELEMENTS // 2, bytes(MAX_ELEMENTS // 2))))
    strings = with_pair(ARRAY, array(STRING, MAX_ELEMENTS + 1, bytes(8 * MAX_ELEMENTS + 8)))
    tracemalloc.start()
    try:
        for data in (flags, strings):
            with pytest.raises(
                GGUFError, match="metadata 'k' at byte .* more than 4194304 elements together"
            ):
                read_header(data, "model.gguf", skim=skim)
        assert tracemalloc.get_traced_memory()[1] < 20 * MAX_ELEMENTS
    finally:
        tracemalloc.stop()


def test_skimming_finds_the_same_faults():
    strings = text("a") * (LONG_ARRAY - 1) + text("", HUGE)
    data = with_pair(ARRAY, array(STRING, LONG_ARRAY, strings))
    with pytest.raises(GGUFError, match=f"metadata 'k' at byte 49: expected {LONG_ARRAY} strings"):
        read_header(data, "model.gguf", skim=True)
    with pytest.raises(GGUFError, match=f"expected {LONG_ARRAY} strings"):
        read_header(data[: 49 + len(strings) - 4], "model.gguf", skim=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small file with something of everything, and its bytes."""
    path = tmp_path_factory.mktemp("hostile") / "small.gguf"
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.tokens": ["<s>", "▁a", "b"],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.0],
        "flags": [True, False],
        "nested": [[1], [2, 3]],
    }
    tensors = {"norm": np.ones((32,), np.float32), "q": RawTensor(bytes(54), 2, (3, 32))}
    write_gguf(path, metadata, tensors)
    return path, path.read_bytes()


def use(path):
    """Open a file and touch all tensors whose type is known; only a GGUFError may stop this."""
    try:
        with open_gguf(path) as file:
            for name, info in file.tensors.items():
                if spec := SPECS.get(info.ggml_id):
                    assert file.raw(name, spec).size == file.n_bytes(name, spec)
    except GGUFError:
        return False
    return True


def test_truncated_at_every_byte(small):
    path, data = small
    end_of_data = len(data) - -54 % 32  # the padding after the last tensor is not missed
    with open_gguf(path) as file:
        data_start = file.tensors["norm"].offset
    assert use(path)
    cut = path.with_name("cut.gguf")
    for length in [*range(data_start), *range(data_start, len(data), 7)]:
        cut.write_bytes(data[:length])
        assert use(cut) == (length >= end_of_data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_random_damage(small, data):
    path, good = small
    flips = st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    broken = bytearray(good)
    for position, value in data.draw(flips):
        broken[position] = value
    length = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(broken[:length])
    use(damaged)


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=400), pairs=st.integers(0, 5), tensors=st.integers(0, 5))
def test_random_bytes_after_a_good_start(junk, pairs, tensors):
    try:
        header = read_header(head(junk, pairs=pairs, tensors=tensors), "junk")
    except GGUFError:
        return
    assert len(header.metadata) == pairs
    places = sorted((info.offset, info.room) for info in header.tensors.values())
    assert all(start + room <= after for (start, room), (after, _) in pairwise(places))
