"""Start ``shimmy serve`` as a new user does, run the curl it prints, and judge the answer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

DEADLINE_SECONDS = 120


def main() -> int:
    shimmy = Path(sys.executable).with_name("shimmy")
    server = subprocess.Popen([shimmy, "serve"], stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(DEADLINE_SECONDS, server.kill)
    timer.start()
    try:
        command = printed_curl(server)
        print(command)
        answer = json.loads(subprocess.run(command, shell=True, check=True, capture_output=True).stdout)
        text = answer["choices"][0]["message"]["content"]
        print(text)
        if len(text.split()) < 3 or answer["usage"]["completion_tokens"] < 3:
            print("the demo model gave no sensible answer", file=sys.stderr)
            return 1
        return 0
    finally:
        timer.cancel()
        server.terminate()
        server.wait(20)


def printed_curl(server: subprocess.Popen[str]) -> str:
    """The curl command of the banner, with its continuation lines."""
    assert server.stdout
    lines: list[str] = []
    for line in server.stdout:
        print(line, end="")
        text = line.strip()
        if text.startswith("curl ") or lines:
            lines.append(text.removesuffix("\\"))
            if not text.endswith("\\"):
                return " ".join(lines)
    raise SystemExit("shimmy serve ended without printing a curl command")


if __name__ == "__main__":
    sys.exit(main())
