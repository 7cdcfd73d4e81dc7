"""Drives llama.cpp's own HTTP server, whoever started it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shimmy.errors import EngineError
from shimmy_plugins.commands.bench.noise import Meter, Timed
from shimmy_plugins.commands.bench.servers import OPENER, Launch, ServerProcess
from shimmy_plugins.commands.bench.workload import Prompts

_TIMEOUT = 600.0


class HttpRunner:
    """A llama.cpp server with one slot per sequence.

    One sequence is timed by the server's own clock, which leaves HTTP out. Several prompts at once
    are timed from outside, because the server's clock for each of them starts when its turn comes.
    """

    def __init__(self, server: ServerProcess, meter: Meter) -> None:
        self.description = server.launch.description
        self._child = server.child
        self._url = server.url
        self._meter = meter

    def prefill(self, prompts: Prompts) -> Timed:
        """The time until every prompt has its first token."""
        with self._meter.window() as window:
            answers = self._complete(prompts, tokens=1, cached=False)
        timed = window.result()
        if len(prompts) > 1:
            return timed
        return Timed(answers[0]["prompt_ms"] / 1000, timed.foreign)

    def decode(self, prompts: Prompts, steps: int) -> Timed:
        """The prompts are put into the slots first, so that the second request only generates."""
        self._complete(prompts, tokens=1, cached=True)
        with self._meter.window() as window:
            # The first token belongs to the prompt; the server's clock starts with it.
            answers = self._complete(prompts, tokens=steps + 1, cached=True)
        seconds = max(answer["predicted_ms"] for answer in answers) / 1000
        return Timed(seconds, window.result().foreign)

    def close(self) -> None:
        """End the server."""
        self._child.close()

    def _complete(self, prompts: Prompts, tokens: int, *, cached: bool) -> list[dict[str, float]]:
        """The server's timings of completions that run at the same time, each in its slot."""
        bodies = [
            {
                "prompt": prompt,
                "id_slot": slot,
                "n_predict": tokens,
                "cache_prompt": cached,
                "temperature": 0,
                "samplers": ["temperature"],
                "ignore_eos": True,
            }
            for slot, prompt in enumerate(prompts)
        ]
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self._timings, bodies))

    def _timings(self, body: dict[str, Any]) -> dict[str, float]:
        answer = post(f"{self._url}/completion", body, self._child.failure)
        timings: dict[str, float] = answer["timings"]
        if timings["predicted_n"] != body["n_predict"]:
            raise self._child.failure(
                f"generated {timings['predicted_n']} tokens, expected {body['n_predict']}"
            )
        return timings


def start_runner(launch: Launch, meter: Meter) -> HttpRunner:
    """Start the server and wait until the model is loaded."""
    server = ServerProcess(launch)
    try:
        server.wait_until_healthy()
    except BaseException:
        server.close()
        raise
    return HttpRunner(server, meter)


def post(url: str, body: dict[str, Any], failure: Callable[[str], EngineError]) -> dict[str, Any]:
    """The JSON answer to a JSON request; ``failure`` makes the error if there is none."""
    request = urllib.request.Request(  # noqa: S310 - our own child, on this machine
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with OPENER.open(request, timeout=_TIMEOUT) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise failure(f"refused a request ({error.code}): {error.read().decode()[:300]}") from None
    except OSError as error:
        raise failure(f"did not answer ({error})") from None
