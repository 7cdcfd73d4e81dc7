"""Clients of a server: completions over the OpenAI API, streamed, each with the times its text arrived."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

_TIMEOUT = 600.0
_DATA, _DONE = b"data: ", b"[DONE]"


@dataclass(frozen=True, slots=True)
class Question:
    """A request: the ids of its prompt, and how long its answer may be."""

    prompt: list[int]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; times in seconds."""

    text: str
    tokens: int
    """Generated, by the server's own count."""
    first: float
    """From sending the request to the first piece of text."""
    gaps: tuple[float, ...]
    """Between one piece of text and the next."""
    error: str | None = None
    """Why there is no complete answer."""


def ask(url: str, question: Question) -> Answer:
    """Send a request at temperature 0 and read its stream."""
    body = {
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT)
    try:
        started = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        return _read(connection.getresponse(), started)
    except (OSError, http.client.HTTPException) as error:
        return _failed(f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def ask_all(url: str, questions: Sequence[Question], clients: int) -> list[Answer]:
    """The answers in order; each client sends its next request when it has the answer to the last."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda question: ask(url, question), questions))


def _read(response: http.client.HTTPResponse, started: float) -> Answer:
    if response.status != http.HTTPStatus.OK:
        return _failed(f"{response.status}: {response.read().decode('utf-8', 'replace')[:300]}")
    text: list[str] = []
    arrivals: list[float] = []
    tokens = 0
    for line in response:
        if not line.startswith(_DATA):
            continue
        arrived, data = time.perf_counter(), line[len(_DATA) :].strip()
        if data == _DONE:
            # An answer without text began and ended here.
            arrivals = arrivals or [arrived]
            gaps = tuple(after - before for before, after in pairwise(arrivals))
            return Answer("".join(text), tokens, arrivals[0] - started, gaps)
        event = json.loads(data)
        if "error" in event:
            return _failed(str(event["error"]))
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        if piece := "".join(choice["text"] for choice in event["choices"]):
            text.append(piece)
            arrivals.append(arrived)
    return _failed("the stream ended before its end mark")


def _failed(why: str) -> Answer:
    return Answer("", 0, 0.0, (), why)
