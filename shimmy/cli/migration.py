"""What command lines and environments of the earlier servers of this name still say, and what now counts.

Flags whose meaning has stayed work under their old name, without being advertised. The others are
refused with advice. docs/migration.md explains each; nothing outside this table knows them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from shimmy.errors import ConfigError

#: Settings by key, and the flag by which they were known.
OLD_FLAGS = {"model_paths": "--model-dirs", "max_ctx": "--ctx", "base_gguf": "--model-path"}

_NO_EFFECT = "It had no effect on answers; leave it out."

#: Flags that are gone, with the next step.
GONE_FLAGS = {
    "--gpu-backend": "Use --engine-backend; without it the best engine that runs here is taken.",
    "--legacy": "There is one kind of engine now; --engine-backend chooses among those of `shimmy plugins`.",
    "--kv-quant": "Use --kv-type: f32, f16 or q8_0; there is no type of 4 bits.",
    "--prefill-chunk": "Use --step-tokens: the most tokens one step of the engine computes.",
    "--grammar-mode": _NO_EFFECT,
    "--fse-reject": _NO_EFFECT,
    "--math-bypass": _NO_EFFECT,
    "--trace-path": _NO_EFFECT,
    "--session-id": _NO_EFFECT,
}

#: Commands that are gone, unless a plugin brings them back.
GONE_COMMANDS = {
    "init": "`pip install shimmy-llm`, then `shimmy serve`: one line is all a container or a host needs.",
}

#: Environment variables that are gone, with the next step.
GONE_VARIABLES = {
    "SHIMMY_KV_QUANT": "Use SHIMMY_KV_TYPE: f32, f16 or q8_0; there is no type of 4 bits.",
    "SHIMMY_PREFILL_CHUNK": "Use SHIMMY_STEP_TOKENS: the most tokens one step of the engine computes.",
    "SHIMMY_EXPERIMENTAL_BACKEND": "Use SHIMMY_ENGINE_BACKEND, or leave it at auto.",
    "SHIMMY_VRAM_LIMIT_MB": "Use SHIMMY_GPU_MEMORY, with a unit: 8GiB.",
    "SHIMMY_VERBOSE": "Use SHIMMY_LOG_LEVEL=debug.",
}


def check_environment() -> None:
    """Raise ConfigError for a variable that an earlier server took and this one does not."""
    for variable, advice in GONE_VARIABLES.items():
        if os.environ.get(variable):
            raise ConfigError(
                f"the environment has {variable}, which shimmy does not take.", hint=advice, param=variable
            )


def advice_on(arguments: Sequence[str]) -> str | None:
    """The next step for a command line that was refused; None if it holds nothing of old."""
    for argument in arguments:
        if advice := GONE_FLAGS.get(argument.partition("=")[0]):
            return advice
    for command, following in pairwise((*arguments, "")):
        if not command.startswith("-"):
            # What has a command of its own below it is a plugin's.
            return None if following[:1] not in ("", "-") else GONE_COMMANDS.get(command)
    return None
