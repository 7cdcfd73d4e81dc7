"""llama.cpp's own benchmark, ``llama-bench``: one sequence at a time, the model loaded for each sample."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from shimmy.errors import ConfigError, EngineError
from shimmy_plugins.commands.bench.noise import Meter, Timed
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.peers.programs import describe, on_path
from shimmy_plugins.commands.bench.workload import Prompts

PROGRAM = "llama-bench"


class LlamaBench:
    """For machines that have nothing else of llama.cpp: loading for each sample takes its time."""

    name = PROGRAM
    family = "llama.cpp"

    def find(self) -> str | None:
        """None if the program is there."""
        return None if on_path(PROGRAM) else f"there is no {PROGRAM}"

    def start(self, setup: Setup, meter: Meter) -> LlamaBenchRunner:
        """Nothing is started before the first sample. Raises ConfigError for several sequences."""
        if setup.sequences > 1:
            raise ConfigError(
                f"{PROGRAM} computes one sequence at a time, --batch asks for {setup.sequences}.",
                hint="Leave --batch at 1, or have llama-server on PATH.",
            )
        program = on_path(PROGRAM)
        assert program is not None
        return LlamaBenchRunner(program, setup, meter)


class LlamaBenchRunner:
    """Starts the program for each sample; it times itself, after a warm-up of its own."""

    def __init__(self, program: Path, setup: Setup, meter: Meter) -> None:
        self.description = f"{describe(program)}, {PROGRAM}; KV cache {setup.kv_type}"
        self._meter = meter
        self._command = [
            *(str(program), "--model", str(setup.model), "--threads", str(setup.threads)),
            *("--n-gpu-layers", "0", "--cache-type-k", setup.kv_type, "--cache-type-v", setup.kv_type),
            *("--repetitions", "1", "--output", "json"),
        ]

    def prefill(self, prompts: Prompts) -> Timed:
        """Of a prompt as long as this one; the program makes its own."""
        return self._timed("--n-prompt", str(len(prompts[0])), "--n-gen", "0")

    def decode(self, prompts: Prompts, steps: int) -> Timed:
        """After a prompt as long as this one."""
        depth = len(prompts[0])
        return self._timed("--n-prompt", "0", "--n-gen", str(steps), "--n-depth", str(depth))

    def close(self) -> None:
        """Nothing is left running."""

    def _timed(self, *options: str) -> Timed:
        with self._meter.window() as window:
            result = subprocess.run([*self._command, *options], capture_output=True, text=True, check=False)
        if result.returncode:
            raise EngineError(f"{PROGRAM} failed ({result.returncode}): {result.stderr[-300:]}")
        [row] = json.loads(result.stdout)
        return Timed(row["samples_ns"][0] / 1e9, window.result().foreign)
