"""Frames between the server and an engine worker: typed msgpack, length-prefixed, versioned.

Server to worker: Load once, then Submit and Cancel, LoadAdapter and UnloadAdapter. Worker to server:
Progress while loading, then Ready or Failed, then one StepFrame per step for all sequences, and an
AdapterLoaded for each LoadAdapter. Never pickle; a frame that does not
decode to its type is an EngineError.
"""

from __future__ import annotations

import struct
from io import RawIOBase
from typing import Any, BinaryIO

import msgspec

from shimmy.engine.settings import EngineSettings
from shimmy.errors import EngineError, ShimmyError, error_by_code

PROTOCOL_VERSION = 2
MAX_FRAME = 1 << 28
#: Adapters that a request may have at the same time.
MOST_MIXED = 4
_LENGTH = struct.Struct("<I")


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen; the defaults change nothing. See :mod:`shimmy.engine.sampling`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int = 0
    logprobs: int | None = None
    """Number of alternatives reported with each token; None reports no log-probabilities."""


class ErrorInfo(msgspec.Struct, frozen=True):
    """A ShimmyError that crosses the process boundary."""

    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        if isinstance(error, ShimmyError):
            return cls(error.code, error.message, error.hint)
        return cls(EngineError.code, f"{type(error).__name__}: {error}")

    def to_error(self) -> ShimmyError:
        return error_by_code(self.code)(self.message, hint=self.hint)


# -- server to worker -----------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    version: int
    model_path: str
    model_name: str
    settings: EngineSettings


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Generate after ``tokens``, at most ``max_tokens``, until one of ``stop_ids``."""

    id: int
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    stop_ids: list[int] = []
    salt: str = ""
    """Only requests of the same salt share what the KV cache holds of equal prompts."""
    adapters: list[tuple[int, float]] = []
    """Ids of loaded adapters, each with a factor on top of its own."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: int


class LoadAdapter(msgspec.Struct, frozen=True, tag="load_adapter"):
    """Read an adapter's files; ``id`` is new for each version of it."""

    id: int
    path: str


class UnloadAdapter(msgspec.Struct, frozen=True, tag="unload_adapter"):
    """Give an adapter up once the sequences that have it end."""

    id: int


# -- worker to server -----------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    phase: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model as loaded; sizes in bytes."""

    version: int
    architecture: str
    backend: str
    backend_reason: str
    precision: str
    description: str
    context: int
    native_context: int
    vocabulary: int
    weight_bytes: int
    kv_type: str
    kv_bytes_per_token: int
    kv_memory: int
    plugins: list[str]
    fallbacks: list[str]
    seconds: float
    """That loading took."""
    phases: dict[str, float] = {}
    """Seconds of those phases of it that told their progress."""
    rope_kind: str = "none"
    """How rotary positions are scaled: "none", "linear", "yarn", "llama3+yarn", ..."""
    rope_factor: float = 1.0
    """The divisor of the slowest rotation, not counting divisors per pair (llama3, longrope)."""
    host_weight_bytes: int = 0
    """Part of ``weight_bytes`` that another engine computes with, in the machine's memory."""
    device_bytes: int | None = None
    """Memory taken of a GPU, before the KV cache grows; None: nothing is on one."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Loading failed; the worker exits."""

    error: ErrorInfo


class TokenEvent(msgspec.Struct, frozen=True, array_like=True):
    """What a step did for one request. A finish without a token has ``token`` None.

    ``finish`` is None while it goes on, else stop, length, cancelled or error. ``reused`` tokens of
    the prompt were found in the KV cache.
    """

    id: int
    token: int | None = None
    finish: str | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] = []
    error: ErrorInfo | None = None
    reused: int = 0


class Stats(msgspec.Struct, frozen=True, array_like=True):
    """The scheduler's state after a step."""

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_blocks_cached: int = 0
    """Not used, but kept for prompts that begin alike."""


class StepFrame(msgspec.Struct, frozen=True, tag="step"):
    events: list[TokenEvent]
    stats: Stats


class AdapterLoaded(msgspec.Struct, frozen=True, tag="adapter_loaded"):
    """An adapter can be used, or, with ``error``, cannot."""

    id: int
    rank: int = 0
    modules: int = 0
    bytes: int = 0
    error: ErrorInfo | None = None


ToWorker = Load | Submit | Cancel | LoadAdapter | UnloadAdapter
FromWorker = Progress | Ready | Failed | StepFrame | AdapterLoaded

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromWorker)


def pack(frame: ToWorker | FromWorker) -> bytes:
    """A frame with its length in front (4 bytes, little endian)."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME:
        raise EngineError(f"an engine frame announces {length} bytes, more than {MAX_FRAME}.")
    return int(length)


def unpack_to_worker(body: bytes) -> ToWorker:
    frame: ToWorker = _decode(_to_worker, body)
    return frame


def unpack_from_worker(body: bytes) -> FromWorker:
    frame: FromWorker = _decode(_from_worker, body)
    return frame


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineError(f"an engine frame of {len(body)} bytes cannot be read: {error}.") from error


HEADER_BYTES = _LENGTH.size


def read_frame(stream: RawIOBase | BinaryIO) -> bytes | None:
    """The next frame's body from a blocking stream; None at its end."""
    header = _read_exactly(stream, HEADER_BYTES)
    return None if header is None else _read_exactly(stream, frame_length(header))


def _read_exactly(stream: RawIOBase | BinaryIO, count: int) -> bytes | None:
    """``count`` bytes, also from an unbuffered stream, which may give fewer at a time."""
    data = bytearray()
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
