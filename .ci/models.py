"""Measures how near engines come to the definitions, and these to other people's programs: docs/models.md.

    python .ci/models.py measure cpu.json
    python .ci/models.py measure gpu.json --engine wgpu --gpu NAME --models 'tiny|q4_k_m' --jobs 8
    python .ci/models.py page cpu.json gpu.json > docs/models.md

Models are those of tests/fixtures and of the folder SHIMMY_ZOO, if it is set (`models` and `ref` below it),
and tiny ones of every architecture and type. Figures go to the file as soon as a model is measured. Of a row
that is in several files, the page has the last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeAlias

# What lies beside this file is measured, whatever is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
sys.path.insert(0, str(Path(__file__).parents[1] / "shaders"))

from shimmy.engine.plan import Backend, Limits, Plan
from shimmy.testing.answers import Answer, compare, read_answers
from shimmy.testing.engines import JUDGE, installed_plugins, load_engine
from shimmy.testing.plans import LIMITS, Model, no_progress, read_model
from shimmy.testing.text import PIECE, differences, perplexity, read_text
from shimmy.text.tokenizer import load_tokenizer
from shimmy_plugins.commands.bench.machine import processor_name
from shimmy_plugins.commands.bench.random_model import write_random_model
from shimmy_plugins.commands.bench.shapes import Shape
from tests import architectures, zoo

Row: TypeAlias = dict[str, Any]
#: Of the definitions, and of the engines.
Rows: TypeAlias = tuple[list[Row], list[Row]]

#: Of the held-out text.
TOKENS = 512
#: Whose products are computed in F32 in any precision.
FLOATS = {"F32", "F16", "BF16"}
#: Of a model for types of which others wrote no file that is small.
SHAPE = Shape("random", 2, 256, 512, 4, 2, 512, 512, 1e4, tied=False)
RANDOM = (
    *("IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ3_S", "IQ3_XXS"),
    *("MXFP4", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0"),
)
TEMPLATE = Path(__file__).parent / "models.template.md"


class Task(NamedTuple):
    """A model, and the engines that read it."""

    path: Path
    engines: Sequence[str]
    gpu: str
    commit: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="write figures to a file")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--engine", action="append", help="as often as wanted; by itself `cpu`")
    measuring.add_argument("--gpu", default="auto", help="as the setting")
    measuring.add_argument("--models", default="", help="only those in whose names this expression is found")
    measuring.add_argument("--jobs", type=int, default=1, help="models at a time")
    measuring.add_argument("--commit", help="of what is measured, where git does not tell")
    paging = commands.add_parser("page", help="print the page of files of figures")
    paging.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "page":
        print(page([json.loads(path.read_text("utf-8")) for path in arguments.files], sys.argv[1:]), end="")
        return 0
    return measure(arguments)


def measure(arguments: argparse.Namespace) -> int:
    """Write the figures of all models; 1 if one could not be measured."""
    commit = arguments.commit or commit_of(Path(__file__).parent)
    command = [arguments.file.name if Path(word) == arguments.file else word for word in sys.argv[1:]]
    found: Row = {"command": shlex.join(command), "date": str(datetime.now(UTC).date())}
    rows: Rows = ([], [])
    failed = False
    # As many threads as there are processors, all in all.
    os.environ["OPENBLAS_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // arguments.jobs))
    workers = ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"))
    with TemporaryDirectory() as folder, workers:
        paths = models(re.compile(arguments.models), Path(folder))
        tasks = [Task(path, arguments.engine or ["cpu"], arguments.gpu, commit) for path in paths]
        running = {workers.submit(measured, task): task.path.name for task in tasks}
        for number, done in enumerate(as_completed(running), 1):
            print(f"{number}/{len(tasks)} {running[done]}", file=sys.stderr)
            try:
                for all_rows, new in zip(rows, done.result(), strict=True):
                    all_rows += new
            except Exception as error:
                # Whatever it is, the others' figures are kept.
                print(f"FAILED {running[done]}: {error!r}", file=sys.stderr)
                failed = True
            text = json.dumps(found | {"definitions": rows[0], "engines": rows[1]}, indent=1)
            arguments.file.write_text(text + "\n", "utf-8")
    return int(failed or not tasks)


def commit_of(folder: Path) -> str:
    """Short, with a + if files were changed since."""
    git = partial(subprocess.check_output, cwd=folder, text=True)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).strip()
    return commit + ("+" if git(["git", "status", "--porcelain", "-uno"]) else "")


def models(wanted: re.Pattern[str], folder: Path) -> Iterator[Path]:
    """Files whose labels fit, one of each name, those at hand before those that must be made."""
    known: dict[str, Callable[[], Path]] = {name: partial(zoo.model_path, name) for name in zoo.DERIVED}
    places = [zoo.FOLDER, *([Path(zoo.COLLECTION)] if zoo.COLLECTION else [])]
    at_hand = {path.stem: path for place in places for path in (place / "models").glob("*.gguf")}
    known |= {name: path.absolute for name, path in at_hand.items()}
    # Tiny models of odd shapes; one may be of a plugin that is not installed.
    specs = [spec.huggingface for spec in installed_plugins().architectures if spec.huggingface]
    classes = {name for spec in specs for name in spec.classes}
    for name in architectures.NAMES:
        if classes.issuperset(architectures.recorded(name)["config"]["architectures"]):
            make = partial(architectures.converted, name, folder / name, installed_plugins())
            known[f"tiny {name}.f16"] = make
    known |= {
        f"tiny random.{kind.lower()}": partial(random_model, kind, folder / "random") for kind in RANDOM
    }
    yield from (known[name]() for name in sorted(known) if wanted.search(name))


def random_model(kind: str, folder: Path) -> Path:
    """A model of random weights, all of one type."""
    folder.mkdir(exist_ok=True)
    path = folder / f"random.{kind.lower()}.gguf"
    write_random_model(path, SHAPE, kind, installed_plugins().quant_types)
    return path


def measured(task: Task) -> Rows:
    """The rows of a model."""
    model = read_model(task.path, installed_plugins())
    ids, piece = text(model), min(PIECE, model.file.metadata[f"{model.architecture}.context_length"])
    with closing(compiled(model, JUDGE, LIMITS)) as plan:
        expected = read_text(plan, ids, piece)
        common = {"architecture": model.architecture, "model": label(model), "commit": task.commit}
        own = {"on": processor_name()} | definition_figures(model, plan)
        # Of random weights it says nothing.
        surprise = None if is_made(model) else perplexity(expected, ids, piece)
    rows = []
    for engine in task.engines:
        for precision in ("f32", "int8"):
            if precision == "int8" and FLOATS.issuperset(types(model)):
                continue  # floats are multiplied in F32 all the same
            limits = replace(LIMITS, precision=precision, gpu=task.gpu)
            with closing(compiled(model, load_engine(installed_plugins(), engine), limits)) as plan:
                found = read_text(plan, ids, piece)
                on = processor_name() if plan.device_bytes is None else plan.description.partition(" (")[0]
            figures = asdict(differences(found, expected, ids, piece))
            rows.append(common | {"engine": f"{engine} {precision}", "on": on} | figures)
    return [common | own | {"perplexity": surprise}], rows


def compiled(model: Model, backend: Backend, limits: Limits) -> Plan:
    return backend.compile(model.graph, model.weights, limits, no_progress)


def text(model: Model) -> list[int]:
    """The beginning of the held-out text."""
    tokenizer = load_tokenizer(model.file.metadata, installed_plugins().tokenizers)
    return list(tokenizer.encode((zoo.FOLDER / "heldout.txt").read_text("utf-8")))[:TOKENS]


def answers(model: Model) -> list[Answer]:
    """Those of another program in F32; none where none are on record."""
    name, _, kind = model.path.stem.partition(".")
    if is_made(model):
        return architectures.answers(name) if name in architectures.NAMES else []
    for folder in (zoo.FOLDER / "ref", model.path.parents[1] / "ref"):
        if (path := folder / f"{name}.json").exists():
            known = json.loads(path.read_text("utf-8"))
            if kind in ("f16", "f32"):
                return read_answers(path, "transformers_f32")
            place = f"{kind}__dequantised_to_f32"
            return read_answers(path, f"llamacpp.{place}") if place in known["llamacpp"] else []
    return []


def is_made(model: Model) -> bool:
    return model.path.stem.startswith(f"{model.path.parent.name}.")


def label(model: Model) -> str:
    return f"tiny {model.path.stem}" if is_made(model) else model.path.stem


def types(model: Model) -> list[str]:
    """Those of its tensors, of the most ones first."""
    found = Counter(model.weights.info(name).type for name in model.weights.names())
    return [name for name, _ in found.most_common()]


def definition_figures(model: Model, plan: Plan) -> Row:
    """The definitions beside another program."""
    outcomes = [outcome for answer in answers(model) for outcome in compare(plan, answer)]
    tokens = [outcome for outcome in outcomes if outcome.kind == "tokens"]
    return {
        "types": [kind for kind in types(model) if kind != "F32"] or ["F32"],
        "tokens": sum(outcome.count for outcome in tokens),
        "agreed": sum(outcome.agreed for outcome in tokens),
        "logits": max((outcome.error for outcome in outcomes if outcome.kind == "logits"), default=None),
    }


def page(runs: Sequence[Row], arguments: Sequence[str]) -> str:
    """The page of the figures in some files."""
    names = [Path(word).name for word in arguments]
    calls = [
        f"python .ci/models.py {line}" for line in (*(run["command"] for run in runs), shlex.join(names))
    ]
    return TEMPLATE.read_text("utf-8").format(
        commands="\n".join(calls) + " > docs/models.md",
        dates=" and ".join(sorted({run["date"] for run in runs})),
        tokens=TOKENS,
        definitions=table(
            ("Architecture", "Model", "Types", "Tokens", "Logits", "Perplexity", "On", "Commit"),
            map(definition_cells, last_of("definitions", runs)),
        ),
        engines=table(
            ("Architecture", "Model", "Engine", "Logit", "KL", "Agreement", "Ratio", "On", "Commit"),
            map(engine_cells, last_of("engines", runs)),
        ),
    )


def last_of(kind: str, runs: Iterable[Row]) -> list[Row]:
    """Rows of all runs; of those about the same the last one. The definitions are the same everywhere."""
    rows = [row for run in runs for row in run[kind]]
    keys = ("model", "engine", "on") if kind == "engines" else ("model",)
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def definition_cells(row: Row) -> tuple[str, ...]:
    return (
        row["architecture"],
        row["model"],
        ", ".join(row["types"]),
        f"{row['agreed']} of {row['tokens']}" if row["tokens"] else "-",
        "-" if row["logits"] is None else f"{row['logits']:.0e}",
        "-" if row["perplexity"] is None else f"{row['perplexity']:.3f}",
        row["on"],
        row["commit"],
    )


def engine_cells(row: Row) -> tuple[str, ...]:
    return (
        row["architecture"],
        row["model"],
        row["engine"],
        f"{row['largest']:.1e}",
        f"{row['divergence']:.1e}",
        f"{row['agreement']:.1%}",
        f"{row['ratio']:.5f}",
        row["on"],
        row["commit"],
    )


def table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headers, ("---",) * len(headers), *sorted(rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
