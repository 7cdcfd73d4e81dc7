"""Frozen records that the reporting hooks receive. None holds prompt or answer text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    model: str
    architecture: str
    backend: str
    precision: str
    context: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestStarted:
    id: str
    frontend: str
    model: str
    prompt_tokens: int
    stream: bool


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """``outcome`` is stop, length, cancelled or error; times are seconds from acceptance."""

    id: str
    frontend: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    outcome: str
    first_token_seconds: float | None
    total_seconds: float
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the KV cache."""
