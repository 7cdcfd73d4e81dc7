"""Which parts of a message tell where files lie."""

from __future__ import annotations

import pytest

from shimmy.server.discretion import without_folders

NO_FOLDERS = (
    "trained on 'unsloth/Llama-3.2-1B', alpha / rank / 2",
    "see https://example.org/a/b and ./models/x",
    "GET /health tells.",
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/loras/my lora: has no weights.", "my lora: has no weights."),
        ("/home/me/my files/x/adapter_config.json: r is 'a/b'.", "adapter_config.json: r is 'a/b'."),
        ("it was trained on '/home/me/base', and no", "it was trained on 'base', and no"),
        ("C:\\Users\\me\\My Loras\\x.gguf: ends early.", "x.gguf: ends early."),
        ("'C:\\\\Users\\\\me\\\\x.gguf' is", "'x.gguf' is"),
        ("\\\\server\\share\\x.gguf: ends early.", "x.gguf: ends early."),
        *((text, text) for text in NO_FOLDERS),
    ],
)
def test_folders_are_left_out(text: str, shown: str) -> None:
    assert without_folders(text) == shown
