"""The reader: what it says of good files (the `gguf` package is the judge), and its manners."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from shimmy.errors import GGUFError
from shimmy.gguf.cursor import LONG_ARRAY, Skimmed
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.specs import QuantTypeSpec
from tests import zoo

NO_LOAD = {"load": lambda: pytest.fail("the reader needs no quant type itself")}
F32 = QuantTypeSpec("F32", 0, 1, 4, **NO_LOAD)
F16 = QuantTypeSpec("F16", 1, 1, 2, **NO_LOAD)
Q4_0 = QuantTypeSpec("Q4_0", 2, 32, 18, **NO_LOAD)


@pytest.fixture
def tiny(tmp_path):
    """Two tensors, F32 of 2 rows and a Q4_0 of 3."""
    path = tmp_path / "tiny.gguf"
    tensors = {
        "a": np.arange(64, dtype=np.float32).reshape(2, 32),
        "b": RawTensor(bytes(range(54)), 2, (3, 32)),
    }
    write_gguf(path, {"general.architecture": "llama"}, tensors)
    return path


@pytest.mark.parametrize("name", ["llama_spm.q4_k_m", "llama3_bpe.q4_k_m", "llama_spm.q8_0"])
def test_agrees_with_the_gguf_package(name):
    path = zoo.model_path(name)
    theirs = GGUFReader(path)
    with open_gguf(path) as ours:
        fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert ours.version == 3
        assert list(ours.metadata) == list(fields)
        assert {key: field.contents() for key, field in fields.items()} == dict(ours.metadata)
        assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            info = ours.tensors[tensor.name]
            spec = QuantTypeSpec("any", info.ggml_id, info.columns, tensor.n_bytes // info.rows, **NO_LOAD)
            assert info.ggml_id == tensor.tensor_type
            assert info.shape == tuple(tensor.shape[::-1])
            assert info.offset == tensor.data_offset
            np.testing.assert_array_equal(
                ours.raw(tensor.name, spec), tensor.data.view(np.uint8).reshape(-1), strict=True
            )


def test_every_value_type(tmp_path):
    values = {
        "bool": True,
        "u32": 2**32 - 1,
        "i32": -5,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "float": 0.25,
        "text": "größer ▁",
        "empty": "",
        "bools": [True, False],
        "ints": [-1, 2, 3],
        "wide": [2**40, -1],
        "floats": [0.5, -2.0],
        "texts": ["", "a", "日本"],
        "nothing": [],
        "nested": [[1, 2], [], [3]],
        "deeper": [[["a"], []], []],
    }
    write_gguf(tmp_path / "m.gguf", values, {})
    with open_gguf(tmp_path / "m.gguf") as file:
        assert dict(file.metadata) == values
        for key, value in values.items():
            assert type(file.metadata[key]) is type(value)


def test_strings_in_arrays_keep_bytes_that_are_not_utf8(tmp_path):
    token = b"\xff\xe6\x97 a".decode("utf-8", "surrogateescape")
    write_gguf(tmp_path / "m.gguf", {"tokens": ["ok", token]}, {})
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.metadata["tokens"][1].encode("utf-8", "surrogateescape") == b"\xff\xe6\x97 a"


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_alignment(tmp_path, alignment):
    tensors = {name: np.full((1, 3), index, np.float16) for index, name in enumerate("xyz")}
    write_gguf(tmp_path / "m.gguf", {"k": 1}, tensors, alignment=alignment)
    with open_gguf(tmp_path / "m.gguf") as file:
        for name, values in tensors.items():
            assert file.tensors[name].offset % alignment == 0
            np.testing.assert_array_equal(file.raw(name, F16).view(np.float16), values[0])


def test_version_2_is_read_alike(tiny):
    data = bytearray(tiny.read_bytes())
    data[4] = 2
    tiny.write_bytes(data)
    with open_gguf(tiny) as file:
        assert file.version == 2
        assert list(file.tensors) == ["a", "b"]


def test_raw_is_a_read_only_view_of_the_file(tiny):
    with open_gguf(tiny) as file:
        assert file.tensors["a"].room == file.n_bytes("a", F32) == 256
        assert file.n_bytes("b", Q4_0) == 54
        raw = file.raw("b", Q4_0)
        assert raw.tobytes() == bytes(range(54))
        assert not raw.flags.writeable
        assert not raw.flags.owndata


def test_views_outlive_close(tiny):
    file = open_gguf(tiny)
    raw = file.raw("b", Q4_0)
    file.close()
    file.close()
    assert raw[53] == 53
    assert file.metadata["general.architecture"] == "llama"
    with pytest.raises(GGUFError, match="is closed"):
        file.raw("b", Q4_0)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("c", F32, "has no tensor 'c'"),
        ("a", Q4_0, "'a' is of ggml type 0, not Q4_0"),
        ("a", QuantTypeSpec("Q8_X", 0, 48, 9, **NO_LOAD), "rows of 32 weights, expected a multiple of 48"),
        ("a", QuantTypeSpec("F64", 0, 1, 8, **NO_LOAD), "takes 512 bytes .* the next tensor begins at byte"),
        ("b", QuantTypeSpec("F16", 2, 1, 2, **NO_LOAD), "takes 192 bytes .* the file ends at byte"),
    ],
)
def test_geometry_that_does_not_fit(tiny, name, spec, message):
    with open_gguf(tiny) as file, pytest.raises(GGUFError, match=message):
        file.raw(name, spec)


def test_metadata_is_read_without_numpy():
    path = zoo.model_path("llama_spm.q4_0")
    code = (
        "import sys; from shimmy.gguf.reader import open_gguf; from shimmy.gguf.params import read_params\n"
        f"with open_gguf({str(path)!r}) as file: assert file.metadata and file.tensors\n"
        "assert not {'numpy', 'gguf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.write_bytes(b""), "cannot be opened"),
        (lambda path: path.write_bytes(b"GG"), "magic"),
        (lambda path: path.write_bytes(b"\x80\x02safetensors"), "expected b'GGUF'"),
    ],
)
def test_what_is_no_gguf_file(tmp_path, make, message):
    path = tmp_path / "model.gguf"
    make(path)
    with pytest.raises(GGUFError, match=message) as caught:
        open_gguf(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_no_permission(tmp_path, monkeypatch):
    # Tests may run as root, who may read everything.
    def refuse(*_, **__):
        raise PermissionError

    path = tmp_path / "model.gguf"
    path.touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(GGUFError, match="may not be read"):
        open_gguf(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match="not a regular file"):
        open_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["llama_spm.q4_k_m", "llama3_bpe.q4_k_m"])
def test_skimming_leaves_out_long_arrays_only(name):
    with open_gguf(zoo.model_path(name)) as whole, open_gguf(zoo.model_path(name), skim=True) as skimmed:
        assert skimmed.tensors == whole.tensors
        assert skimmed.metadata == {
            key: Skimmed(len(value)) if isinstance(value, list) and len(value) >= LONG_ARRAY else value
            for key, value in whole.metadata.items()
        }
