"""Writes docs/models.md: how near engines come to the definitions, and these to other people's programs.

    python .ci/models.py [--gpu NAME [--gpu-models PATTERN]] [PART] > docs/models.md

Models are those of tests/fixtures and of the folder SHIMMY_ZOO, if it is set (`models` and `ref` below it);
with PART only those that have it in their names, to try.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

from shimmy.engine.plan import Backend, Limits, Plan
from shimmy.testing.answers import Answer, compare, read_answers
from shimmy.testing.engines import JUDGE, installed_plugins, load_engine
from shimmy.testing.plans import LIMITS, Model, no_progress, read_model
from shimmy.testing.text import PIECE, TextFigures, differences, perplexity, read_text
from shimmy.text.tokenizer import load_tokenizer
from shimmy_plugins.commands.bench.machine import describe_machine

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import architectures, zoo

Row: TypeAlias = tuple[str, ...]

#: Of the held-out text.
TOKENS = 512
#: Whose products are computed in F32 in any precision.
FLOATS = {"F32", "F16", "BF16"}
TEMPLATE = Path(__file__).parent / "models.template.md"


class Engine(NamedTuple):
    """An engine, and how it computes."""

    name: str
    backend: Backend
    limits: Limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpu", help="also measure the engine `wgpu`, on this GPU")
    parser.add_argument("--gpu-models", default="", help="only where this expression is found in their names")
    parser.add_argument("part", nargs="?", default="", help="of the names of models")
    arguments = parser.parse_args()
    gpu = arguments.gpu
    engines = [
        Engine(f"{name} {precision}", load_engine(installed_plugins(), name), limits)
        for name in ("cpu", *(["wgpu"] if gpu else []))
        for precision in ("f32", "int8")
        for limits in [replace(LIMITS, precision=precision, gpu=gpu if gpu and name == "wgpu" else "auto")]
    ]
    definitions, others = [], []
    with TemporaryDirectory() as folder:
        for path in (*files(), *made(Path(folder))):
            if arguments.part not in path.name:
                continue
            print(path.name, file=sys.stderr)
            model = read_model(path, installed_plugins())
            on_gpu = re.search(arguments.gpu_models, label(model))
            first, rest = measured(model, [each for each in engines if on_gpu or each.limits.gpu == "auto"])
            definitions.append(first)
            others += rest
    machine = describe_machine()
    page = TEMPLATE.read_text("utf-8").format(
        command=f"python .ci/models.py {shlex.join(sys.argv[1:])} > docs/models.md",
        date=datetime.now(UTC).date(),
        machine=f"{machine['processor']}, {machine['physical_cores']} cores{f', and {gpu}' if gpu else ''}",
        tokens=TOKENS,
        definitions=table(("Architecture", "Model", "Types", "Tokens", "Logits", "Perplexity"), definitions),
        engines=table(("Architecture", "Model", "Engine", "Logit", "KL", "Agreement", "Ratio"), others),
    )
    print(page, end="")


def files() -> list[Path]:
    """One of each name, in their order."""
    folders = [zoo.FOLDER, *([Path(zoo.COLLECTION)] if zoo.COLLECTION else [])]
    found = {path.stem: path for folder in folders for path in (folder / "models").glob("*.gguf")}
    found |= {name: zoo.model_path(name) for name in zoo.DERIVED}
    return [found[name] for name in sorted(found)]


def made(folder: Path) -> Iterator[Path]:
    """Tiny models of odd shapes, of every architecture that comes with shimmy."""
    specs = [spec.huggingface for spec in installed_plugins().architectures if spec.huggingface]
    known = {name for spec in specs for name in spec.classes}
    for name in architectures.NAMES:
        # One may be of a plugin that is not installed.
        if known.issuperset(architectures.recorded(name)["config"]["architectures"]):
            yield architectures.converted(name, folder / name, installed_plugins())


def measured(model: Model, engines: Iterable[Engine]) -> tuple[Row, list[Row]]:
    """The rows of a model: of the definitions, and of the engines."""
    ids, piece = text(model), min(PIECE, model.file.metadata[f"{model.architecture}.context_length"])
    with closing(compiled(model, JUDGE, LIMITS)) as plan:
        expected = read_text(plan, ids, piece)
        definition = definition_row(model, plan, perplexity(expected, ids, piece))
    rows = []
    for engine in engines:
        if engine.limits.precision == "int8" and FLOATS.issuperset(types(model)):
            continue  # floats are multiplied in F32 all the same
        with closing(compiled(model, engine.backend, engine.limits)) as plan:
            found = read_text(plan, ids, piece)
        rows.append(engine_row(model, engine.name, differences(found, expected, ids, piece)))
    return definition, rows


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
        return architectures.answers(name)
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


def definition_row(model: Model, plan: Plan, surprise: float) -> Row:
    """The definitions beside another program."""
    outcomes = [outcome for answer in answers(model) for outcome in compare(plan, answer)]
    tokens = [outcome for outcome in outcomes if outcome.kind == "tokens"]
    errors = [outcome.error for outcome in outcomes if outcome.kind == "logits"]
    agreed = f"{sum(o.agreed for o in tokens)} of {sum(o.count for o in tokens)}" if tokens else "-"
    kinds = ", ".join(kind for kind in types(model) if kind != "F32") or "F32"
    worst = f"{max(errors):.0e}" if errors else "-"
    # Of random weights it says nothing.
    return (
        model.architecture,
        label(model),
        kinds,
        agreed,
        worst,
        "-" if is_made(model) else f"{surprise:.3f}",
    )


def engine_row(model: Model, engine: str, found: TextFigures) -> Row:
    """An engine beside the definitions."""
    return (
        model.architecture,
        label(model),
        engine,
        f"{found.largest:.1e}",
        f"{found.divergence:.1e}",
        f"{found.agreement:.1%}",
        f"{found.ratio:.5f}",
    )


def table(headers: Row, rows: Iterable[Row]) -> str:
    lines = [headers, ("---",) * len(headers), *sorted(rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
