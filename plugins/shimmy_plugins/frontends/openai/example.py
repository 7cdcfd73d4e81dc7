"""A first request to paste into a terminal."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

from shimmy.server.served import ServedModel


def example(url: str, model: ServedModel) -> str:
    """A curl command that gets an answer, quoted for this system's shell."""
    fields: dict[str, Any] = {"model": model.card.name}
    if model.text.chat.template is None:
        path = "/v1/completions"
        fields["prompt"] = "The sky is blue because"
    else:
        path = "/v1/chat/completions"
        fields["messages"] = [{"role": "user", "content": "Why is the sky blue?"}]
    fields |= {"max_tokens": 100, "temperature": 0}
    command = ["curl", f"{url}{path}", "-d", json.dumps(fields)]
    return subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
