"""Frames: what goes in comes out, and what is not a frame is an EngineError."""

from __future__ import annotations

import io

import pytest

from shimmy.engine import protocol as p
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, EngineError, GGUFError

FRAMES_TO_WORKER = [
    p.Load(1, "/m.gguf", "m", EngineSettings(plugins_disabled=("a",), kv_memory=1 << 40)),
    p.Submit(1, [1, 2], 5, p.Sampling(logit_bias={3: -1.5}, seed=2**63), [0]),
    p.Cancel(1),
]
FRAMES_FROM_WORKER = [
    p.Progress("weights", 1, 2),
    p.Failed(p.ErrorInfo("invalid_gguf", "bad", "mend it")),
    p.StepFrame(
        [p.TokenEvent(1, 5, None, -0.5, [(5, -0.5)]), p.TokenEvent(2, finish="stop")], p.Stats(1, 2, 3, 4)
    ),
]


@pytest.mark.parametrize("frame", FRAMES_TO_WORKER)
def test_frames_to_the_worker_round_trip(frame: p.ToWorker) -> None:
    body = p.read_frame(io.BytesIO(p.pack(frame)))
    assert body is not None
    assert p.unpack_to_worker(body) == frame


@pytest.mark.parametrize("frame", FRAMES_FROM_WORKER)
def test_frames_from_the_worker_round_trip(frame: p.FromWorker) -> None:
    body = p.read_frame(io.BytesIO(p.pack(frame)))
    assert body is not None
    assert p.unpack_from_worker(body) == frame


@pytest.mark.parametrize("cut", [0, 3, 4, 9])
def test_a_stream_that_ends_inside_a_frame_is_at_its_end(cut: int) -> None:
    assert p.read_frame(io.BytesIO(p.pack(p.Cancel(1))[:cut])) is None


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa4boom"])
def test_what_is_not_a_frame_is_an_engine_error(body: bytes) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        p.unpack_from_worker(body)


def test_a_hostile_length_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(EngineError, match="announces 4294967295 bytes"):
        p.frame_length(b"\xff\xff\xff\xff")


def test_errors_keep_class_message_and_hint_across_the_pipe() -> None:
    error = p.ErrorInfo.of(GGUFError("bad magic.", hint="Get another file.")).to_error()
    assert type(error) is GGUFError
    assert (error.message, error.hint) == ("bad magic.", "Get another file.")
    assert type(p.ErrorInfo.of(ConfigError("x")).to_error()) is ConfigError
    assert type(p.ErrorInfo.of(ValueError("y")).to_error()) is EngineError
