"""shimmy's own engine, in this process, without a server."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shimmy import __version__
from shimmy.engine.load import Loaded, load_engine
from shimmy.engine.pace import LEAST_TOKENS
from shimmy.engine.protocol import Sampling, Submit
from shimmy.engine.settings import EngineSettings
from shimmy.errors import EngineError
from shimmy.plugins import Plugins
from shimmy_plugins.commands.bench.noise import Meter, Timed
from shimmy_plugins.commands.bench.workload import Case, Prompts

#: More than anything generates here: sequences are cancelled when the clock has stopped.
_ENDLESS = 1 << 30
_GREEDY = Sampling(temperature=0.0)


class ShimmyRunner:
    """Drives an engine step by step, as a worker does."""

    def __init__(self, loaded: Loaded, meter: Meter) -> None:
        self.ready = loaded.ready
        self.description = f"shimmy {__version__}"
        self._engine = loaded.engine
        self._meter = meter

    def prefill(self, prompts: Prompts) -> Timed:
        """From submitting all prompts until each has its first token."""
        with self._meter.window() as window:
            self._submit(prompts, max_tokens=1)
            while not self._engine.idle:
                self._step()
        return window.result()

    def decode(self, prompts: Prompts, steps: int) -> Timed:
        """Only once all sequences generate does the clock run."""
        self._submit(prompts, max_tokens=_ENDLESS)
        waiting = set(range(len(prompts)))
        while waiting:
            waiting -= self._step()
        with self._meter.window() as window:
            for _ in range(steps):
                if len(self._step()) < len(prompts):
                    raise EngineError(
                        f"not all of {len(prompts)} sequences got a token in one step of the engine.",
                        hint="Raise --kv-memory, or measure smaller batches or depths.",
                    )
        for number in range(len(prompts)):
            self._engine.cancel(number)
        return window.result()

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def _submit(self, prompts: Prompts, max_tokens: int) -> None:
        for number, prompt in enumerate(prompts):
            self._engine.submit(Submit(number, prompt, max_tokens, _GREEDY))

    def _step(self) -> set[int]:
        """Compute a step; which sequences got a token."""
        events = self._engine.step()
        for event in events:
            if event.error:
                raise event.error.to_error()
        return {event.id for event in events}


def load_runner(
    path: Path, settings: EngineSettings, plugins: Plugins, wanted: Sequence[Case], meter: Meter
) -> tuple[ShimmyRunner, float]:
    """The engine with room for all cases, and how many seconds it took to load."""
    started = time.perf_counter()
    loaded = load_for(path, settings, plugins, wanted)
    return ShimmyRunner(loaded, meter), time.perf_counter() - started


def load_for(path: Path, settings: EngineSettings, plugins: Plugins, wanted: Sequence[Case]) -> Loaded:
    """The engine with room for all cases. Raises ShimmyError."""
    settings = msgspec.structs.replace(
        settings,
        # What one sample has computed must not be missing from the next one.
        prefix_cache=False,
        max_ctx=max(_context(case, settings) for case in wanted),
        max_sequences=max(settings.max_sequences, *(case.batch for case in wanted)),
    )
    return load_engine(path, path.stem, settings, plugins, lambda _phase, _done, _total: None)


def _context(case: Case, settings: EngineSettings) -> int:
    """Positions a case needs: who is ready first generates while the others' prompts are read."""
    # The least that a step computes of prompts while others generate.
    most = settings.step_tokens or LEAST_TOKENS + case.batch
    chunk = max(1, min(LEAST_TOKENS, most - case.batch))
    return case.context + case.batch + math.ceil(case.batch * case.depth / chunk)
