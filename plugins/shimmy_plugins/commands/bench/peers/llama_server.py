"""llama.cpp as its own program, ``llama-server``."""

from __future__ import annotations

from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.peers import Setup
from shimmy_plugins.commands.bench.peers.http import HttpRunner, start_runner
from shimmy_plugins.commands.bench.peers.programs import Locate, describe, make_runnable, on_path
from shimmy_plugins.commands.bench.servers import Launch

PROGRAM = "llama-server"
#: llama.cpp's own choice, which takes it wherever it can.
FLASH_ATTENTION = "auto"
#: More than any model has.
ALL_LAYERS = 999


class LlamaServer:
    """A llama.cpp built for this machine is the strongest form of it."""

    def __init__(
        self, name: str = PROGRAM, locate: Locate = on_path, *, family: str = "llama.cpp", gpu: bool = False
    ) -> None:
        """``gpu``: all layers are computed by the GPU that it finds, else by the processor."""
        self.name = name
        self.family = family
        self._locate = locate
        self._gpu = gpu

    def find(self) -> str | None:
        """None if the program is there."""
        return None if self._locate(PROGRAM) else f"there is no {PROGRAM}"

    def launch(self, setup: Setup) -> Launch:
        """How to start it for a model. It must be there."""
        program = self._locate(PROGRAM)
        assert program is not None
        make_runnable(program)
        options = arguments(setup, gpu=self._gpu)
        return Launch(
            name=self.name,
            description=f"{describe(program)}; flash attention {FLASH_ATTENTION}, KV cache {setup.kv_type}",
            command=lambda port: [str(program), *options, "--host", "127.0.0.1", "--port", str(port)],
        )

    def start(self, setup: Setup, meter: Meter) -> HttpRunner:
        """Start the server and wait until the model is loaded."""
        return start_runner(self.launch(setup), meter)


def arguments(setup: Setup, *, gpu: bool = False) -> list[str]:
    """One slot of the cache per sequence, steps of 512 tokens, all threads in both phases.

    Prompts are never alike here: keeping those of idle slots would only cost time.
    """
    values = {
        "--model": setup.model,
        "--threads": setup.threads,
        "--threads-batch": setup.threads,
        "--ctx-size": setup.context * setup.sequences,
        "--parallel": setup.sequences,
        "--ubatch-size": 512,
        "--n-gpu-layers": ALL_LAYERS if gpu else 0,
        "--flash-attn": FLASH_ATTENTION,
        "--cache-ram": 0,
        "--cache-type-k": setup.kv_type,
        "--cache-type-v": setup.kv_type,
    }
    return [part for flag, value in values.items() for part in (flag, str(value))]
