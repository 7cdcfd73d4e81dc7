"""The writer, read back by the `gguf` package (our own reader has its tests beside this file)."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType

from shimmy.gguf.writer import RawTensor, write_gguf


def test_read_back_by_the_gguf_package(tmp_path):
    path = tmp_path / "m.gguf"
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    halves = np.ones((4, 2, 8), np.float16)
    write_gguf(
        path,
        {
            "general.architecture": "llama",
            "n": 3,
            "neg": -3,
            "on": True,
            "x": 0.5,
            "ids": [1, 2],
            "t": ["a", "ü"],
        },
        {"m": matrix, "h": halves, "q": RawTensor(bytes(36), 2, (2, 32))},
    )
    reader = GGUFReader(path)
    types = {key: field.types for key, field in reader.fields.items()}
    assert types["n"] == [GGUFValueType.UINT32]
    assert types["neg"] == [GGUFValueType.INT32]
    assert types["on"] == [GGUFValueType.BOOL]
    assert types["x"] == [GGUFValueType.FLOAT32]
    assert types["ids"][:2] == [GGUFValueType.ARRAY, GGUFValueType.INT32]
    assert reader.fields["t"].contents() == ["a", "ü"]
    m, h, q = reader.tensors
    np.testing.assert_array_equal(m.data, matrix)
    np.testing.assert_array_equal(h.data, halves)
    assert (q.tensor_type, list(q.shape), q.n_bytes) == (2, [32, 2], 36)


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, "a"], [None], b"bytes", 2**64, [2**63, -1], [True, 1]])
def test_values_gguf_cannot_hold(tmp_path, value):
    with pytest.raises(TypeError, match="metadata 'k'"):
        write_gguf(tmp_path / "m.gguf", {"k": value}, {})


def test_arrays_gguf_types_do_not_cover(tmp_path):
    with pytest.raises(TypeError, match="tensor 't' is an array of float64"):
        write_gguf(tmp_path / "m.gguf", {}, {"t": np.ones((1, 2))})
