"""What has outgrown its budget: files, functions, architectures, shaders. A reason to look, no failure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ROOT / "plugins/shimmy_plugins/architectures"
FILE, FUNCTION, ARCHITECTURE, SHADER = 300, 40, 80, 150


def over() -> Iterator[tuple[int, int, str]]:
    """(lines, budget, what), of the program and its tests."""
    architectures = set(ARCHITECTURES.glob("*.py")) - {ARCHITECTURES / "parts.py"}
    for path in sorted(ROOT.glob("shaders/**/*.wgsl")):
        yield _lines(path), SHADER, _name(path)
    for folder in ("shimmy", "plugins", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield _lines(path), ARCHITECTURE if path in architectures else FILE, _name(path)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                    # Parameters are documentation: options of a command with their help.
                    lines = node.end_lineno - node.body[0].lineno + 1
                    yield lines, FUNCTION, f"{_name(path)}:{node.lineno} {node.name}"


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    for lines, budget, what in sorted(over(), reverse=True):
        if lines > budget:
            print(f"{lines:5} lines, budget {budget}: {what}")
