"""The streams that a shell gives us: closed, full, or read by nobody; and Ctrl-C at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shimmy.cli import main

FULL = Path("/dev/full")


def test_closed_streams_lead_nowhere(tmp_path: Path) -> None:
    """Else the next socket would be number 0, and a worker would take it for its own."""
    seen = tmp_path / "seen.txt"
    program = f"""
import os, sys
os.closerange(0, 3)
sys.stdin = sys.stdout = sys.stderr = None
from shimmy.cli import open_standard_streams
open_standard_streams()
print("lost")
print("lost", file=sys.stderr)
with open({str(seen)!r}, "w") as file:
    print(file.fileno() > 2, sys.stdin.read() == "", *map(os.get_inheritable, range(3)), file=file)
"""
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b""
    assert seen.read_text().split() == ["True"] * 5


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", ["list", "serve", "--version"])
def test_output_that_cannot_be_written_is_one_line(command: str) -> None:
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "shimmy", command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device: the output.\n")


def test_a_reader_that_leaves_is_no_error_to_tell_of() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "shimmy", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("shimmy.cli.app.run", interrupted)
    assert main(["list"]) == 130
