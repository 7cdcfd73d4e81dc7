"""Shaders are composed of templates by name, and what is wrong with one is told by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy.errors import PluginError
from shimmy_plugins.backends.wgpu.composer import Composer


@pytest.fixture
def composer(tmp_path: Path) -> Composer:
    for name, text in {
        "op.wgsl": "\n".join(
            [
                '# include "acme/part.wgsl"',
                "## a comment",
                "# for i in range(2)",
                "let x${i} = ${size}u;",
                "# endfor",
                "",
            ]
        ),
        "part.wgsl": "const SIZE = ${size}u;\n",
        "broken.wgsl": "# for i in\n",
        "lost.wgsl": '# include "acme/nowhere.wgsl"\n',
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path.parent / "outside.wgsl").write_text("outside")
    return Composer({"acme": tmp_path})


def test_values_loops_and_includes(composer: Composer) -> None:
    expected = "const SIZE = 8u;\n\nlet x0 = 8u;\nlet x1 = 8u;\n"
    assert composer.compose("acme/op.wgsl", size=8) == expected


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("acme/op.wgsl", "'size' is undefined"),
        ("acme/broken.wgsl", "/broken.wgsl, line 1"),
        ("acme/lost.wgsl", "'acme/nowhere.wgsl'"),
        ("acme/../outside.wgsl", "outside.wgsl"),
        ("nobody/op.wgsl", "'nobody/op.wgsl'"),
    ],
)
def test_what_is_wrong_is_told(composer: Composer, file: str, message: str) -> None:
    with pytest.raises(PluginError, match=message.replace(".", r"\.")):
        composer.compose(file)
