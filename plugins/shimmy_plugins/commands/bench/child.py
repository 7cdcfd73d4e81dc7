"""Child processes: started with what they log in a file, and ended in any case."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from shimmy.errors import EngineError

#: Lines of a child's output that an error shows.
_TAIL = 5
_PATIENCE = 10.0


class Child:
    """A running process; what it logs is kept for errors.

    ``stdin`` and ``stdout`` are pipes, for lines; one that is ``silent`` has all its output in the log.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        silent: bool = False,
    ) -> None:
        self.name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=self._log if silent else subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def write_line(self, line: str) -> None:
        """Send a line. Raises EngineError if the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self.failure("has ended") from None

    def read_line(self) -> str:
        """Wait for a line. Raises EngineError if the process ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self.failure("has ended")
        return line.rstrip("\n")

    def failure(self, what: str) -> EngineError:
        """An error that says what happened to the process, with the last lines it logged."""
        self._log.seek(0)
        tail = self._log.read().decode("utf-8", "replace").splitlines()[-_TAIL:]
        return EngineError("\n".join([f"{self.name} {what}; the last it said:", *(tail or ["nothing"])]))

    def close(self) -> None:
        """End the process, by force if it does not go."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()


def python_child(name: str, module: str, *arguments: str) -> Child:
    """A child that runs a Python module of shimmy's own."""
    return Child(name, [sys.executable, "-m", module, *arguments])
