"""The six release gates of a model: dequantise, op, graph, decode, references, speed.

    python .ci/gates.py MODEL [--references FILE#KEY] [--baseline FILE] [--tolerance PERCENT] [settings]
    python .ci/gates.py                  # the models of tests/fixtures, with the answers there

Settings are flags of `shimmy verify` (--engine-backend, --precision, …). The exit code is the worst.
Other flags of `shimmy bench`: --bench='--prompt-tokens 128 --max-foreign 30'.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
#: Gates, and the kinds of comparisons of `shimmy verify` that make each.
GATES = {
    "dequantise": ("blocks", "weights"),
    "op": ("ops", "far"),
    "graph": ("layers", "logits"),
    "decode": ("decode",),
    "references": ("references",),
}


#: What `shimmy bench` ends with if something is slower than the baseline.
SLOWER = 1


class Task(NamedTuple):
    """A model, and what it is held against; None: nothing is on record."""

    model: str
    references: str | None
    baseline: str | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--references", help="answers of another program: FILE#KEY")
    parser.add_argument("--baseline", help="JSON of `shimmy bench` on this machine")
    parser.add_argument("--tolerance", default="10", help="by how much it may be slower, in %%")
    parser.add_argument("--bench", default="", help="further options of `shimmy bench`")
    # The model comes first, or there is none: a positional argument would take the values of settings.
    given = sys.argv[1:]
    models = [] if not given or given[0].startswith("-") else given[:1]
    arguments, settings = parser.parse_known_args(given[len(models) :])
    tasks = [Task(model, arguments.references, arguments.baseline) for model in models] or list(fixtures())
    worst = 0
    for task in tasks:
        print(f"== {Path(task.model).name}", flush=True)
        measuring = ["--tolerance", arguments.tolerance, *shlex.split(arguments.bench), *settings]
        worst = max(worst, numbers(task, settings), speed(task, measuring))
    return worst


def numbers(task: Task, settings: list[str]) -> int:
    """The gates that compare numbers."""
    options = ["--references", task.references] if task.references else []
    result = shimmy("verify", task.model, "--json", *options, *settings)
    if not result.stdout:
        print(f"   {'FAILED':<6} shimmy verify came to no result")
        return result.returncode
    report = json.loads(result.stdout)
    for gate, kinds in GATES.items():
        checks = [check for check in report["checks"] if check["kind"] in kinds]
        failed = [check for check in checks if not check["passed"]]
        worst = max(checks, key=strain, default=None)
        if worst is None:
            print(f"   {'-':<6} {gate:<10} nothing on record")
        else:
            error = "no number" if worst["error"] is None else f"{worst['error']:.2g}"
            found = f"{len(checks)} comparisons, worst {error} of {worst['limit']:.2g} at {worst['label']}"
            print(f"   {'FAILED' if failed else 'ok':<6} {gate:<10} {found}", flush=True)
    return result.returncode


def strain(check: dict[str, Any]) -> tuple[bool, float]:
    """The larger, the nearer to failing or the further beyond."""
    return not check["passed"], (check["error"] or 0) / (check["limit"] or 1)


def speed(task: Task, options: list[str]) -> int:
    """The gate that measures; what is too slow once more, since machines have slow minutes."""
    if task.baseline is None:
        print(f"   {'-':<6} {'speed':<10} no baseline given")
        return 0
    for _ in range(2):
        command = ("bench", task.model, "--baseline", task.baseline, "--json", *options)
        result = shimmy(*command, stderr=subprocess.PIPE)
        if result.returncode != SLOWER:
            break
    rows = [line for line in result.stderr.splitlines() if line.endswith("ok") or "FAILED" in line]
    found = "; ".join(rows) or result.stderr.strip()
    print(f"   {'FAILED' if result.returncode else 'ok':<6} {'speed':<10} {found}")
    return result.returncode


def fixtures() -> Iterator[Task]:
    """Every model file with answers, of transformers or of llama.cpp on the same weights expanded to F32."""
    sys.path.insert(0, str(ROOT))
    from tests import zoo

    for name in zoo.FILES:
        model, kind = name.split(".")
        place = "transformers_f32" if kind in ("f16", "f32") else f"llamacpp.{kind}__dequantised_to_f32"
        known = zoo.reference(model)
        on_record = place.removeprefix("llamacpp.") in known | known["llamacpp"]
        answers = f"{zoo.FOLDER / 'ref' / model}.json#{place}"
        yield Task(str(zoo.model_path(name)), answers if on_record else None)


def shimmy(*arguments: str, stderr: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shimmy", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
