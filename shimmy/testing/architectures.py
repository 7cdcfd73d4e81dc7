"""What every model architecture must do, as a class of tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.engine.load import op_table
from shimmy.engine.plan import Plan
from shimmy.errors import GGUFError, GraphError
from shimmy.graph.builder import Graph, record
from shimmy.graph.lora import Term, target_labels
from shimmy.graph.scaling import read_scaling
from shimmy.huggingface.converted import Converter
from shimmy.huggingface.names import FromHuggingFace
from shimmy.lora.adapter import Adapter, Module
from shimmy.lora.adapter import Part as AdapterPart
from shimmy.lora.bind import Base, bind
from shimmy.plugins import Plugins
from shimmy.testing.answers import Answer, compare, read_answers
from shimmy.testing.compare import assert_close
from shimmy.testing.engines import JUDGE, installed_plugins, usable_engines
from shimmy.testing.plans import LIMITS, Model, no_progress, read_model
from shimmy.testing.steps import Part, batch_of, rows_of

F32 = NDArray[np.float32]

_BLOCK = re.compile(r"^blk\.(\d+)\.")
#: Tokens of the sequences that are tried.
LENGTH = 40


class ArchitectureConformance:
    """Tests of an architecture on one model file; a subclass says which.

    class TestOurs(ArchitectureConformance):
        references = Path(__file__).parent / "ours.json", "transformers_f32"

        def file(self, folder):
            return Path(__file__).parent / "ours.gguf"
    """

    #: A file of answers of another program (:mod:`shimmy.testing.answers`), and the place in it.
    references: tuple[Path, str | None] | None = None
    #: Patterns of tensors in the file that the architecture leaves out knowingly.
    unused: Sequence[str] = ()
    #: The model once more, as transformers saves it: a folder with a tokenizer, its weights not rounded.
    huggingface: Path | None = None

    def file(self, folder: Path) -> Path:
        """The model: a file that is there, or one that is written to ``folder``."""
        raise NotImplementedError(f"{type(self).__name__}.file must name or write a model file.")

    def logits(self, weights: Mapping[str, F32], ids: Sequence[int]) -> F32 | None:
        """(tokens, vocabulary): logits after each token by another implementation; None: there is none."""
        del weights, ids
        return None

    def answers(self, model: Model) -> list[Answer]:
        """What other programs answer to the model: ``references``."""
        del model
        return read_answers(*self.references) if self.references else []

    def plugins(self) -> Plugins:
        """Those that the architecture is looked for among."""
        return installed_plugins()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Model:
        """The file, read and recorded."""
        return read_model(cls().file(tmp_path_factory.mktemp("model")), cls().plugins())

    @pytest.fixture(scope="class")
    @classmethod
    def plans(cls, model: Model) -> Iterator[dict[str, Plan]]:
        """The model on the definitions, and on every engine that can run here."""
        engines = [("definitions", JUDGE), *usable_engines(cls().plugins())]
        compiled = {
            name: backend.compile(model.graph, model.weights, LIMITS, no_progress)
            for name, backend in engines
        }
        yield compiled
        for plan in compiled.values():
            plan.close()

    # -- the tests ---------------------------------------------------------------------------

    def test_the_graph_ends_in_logits(self, model: Model) -> None:
        shape = model.graph.nodes[model.graph.output].shape
        assert shape == (_vocabulary(model),), (
            f"logits have shape {shape}, the vocabulary {_vocabulary(model)}."
        )

    def test_every_tensor_is_used(self, model: Model) -> None:
        used = {name for node in model.graph.nodes for name in node.weights.values()}
        left = [name for name in model.weights.names() if name not in used]
        unknown = [name for name in left if not any(fnmatch(name, pattern) for pattern in self.unused)]
        assert not unknown, (
            f"the architecture makes no use of {', '.join(unknown[:8])}{' …' * (len(unknown) > 8)}; "
            "build must use them, or `unused` name them."
        )

    def test_missing_and_misshapen_tensors_are_refused_by_name(self, model: Model) -> None:
        """Of the first layer and outside of layers; what may be left out is then not used."""
        for name in model.weights.names():
            layer = _BLOCK.match(name)
            if any(fnmatch(name, pattern) for pattern in self.unused) or (layer and layer[1] != "0"):
                continue
            *rest, last = model.weights.shape(name)
            self._check_refused(model, name, _Table(model.weights, changed={name: (*rest, last + 1)}))
            self._check_named(model, name, _Table(model.weights, without=name))

    def test_generated_tokens_continue_a_prompt(self, model: Model, plans: dict[str, Plan]) -> None:
        """Prefill and decode are the same function, on every engine."""
        ids = _tokens(model)
        for name, plan in plans.items():
            expected = _rows(plan, [Part(ids, 0, [2, 0])], every_row=True)
            _rows(plan, [Part(ids[: LENGTH // 2], 0, [1, 3])])
            parts = [Part([ids[i]], i, [1, 3]) for i in range(LENGTH // 2, LENGTH)]
            found = np.concatenate([_rows(plan, [part]) for part in parts])
            assert_close(found, expected[LENGTH // 2 :], 1e-4, f"{name}: generated rows")

    def test_sequences_do_not_see_each_other(self, model: Model, plans: dict[str, Plan]) -> None:
        """A sequence alone, and in a step with others."""
        ids = _tokens(model)
        mine, others = Part(ids, 0, [2, 0]), (Part(ids[3:9], 0, [4]), Part(ids[:1], 0, [5]))
        for name, plan in plans.items():
            alone = _rows(plan, [mine])
            beside = _rows(plan, [others[0], mine, others[1]])[1:2]
            assert_close(beside, alone, 1e-4, f"{name}: a row beside others")

    def test_engines_agree_with_the_definitions(self, model: Model, plans: dict[str, Plan]) -> None:
        parts = [Part(_tokens(model), 0, [2, 0])]
        (_, expected), *found = [(name, _rows(plan, parts, every_row=True)) for name, plan in plans.items()]
        for name, rows in found:
            assert_close(rows, expected, 1e-4, f"{name}: logits")

    def test_logits_are_those_of_another_implementation(self, model: Model, plans: dict[str, Plan]) -> None:
        if not self._compared(model, plans["definitions"], "logits"):
            assert self.answers(model), f"{type(self).__name__} needs a judge: logits(), or references."
            pytest.skip("answers of another program are on record")

    def test_answers_are_those_of_another_program(self, model: Model, plans: dict[str, Plan]) -> None:
        answers = self.answers(model)
        if not answers:
            pytest.skip("no answers of another program are on record")
        for name, plan in plans.items():
            _answered(plan, answers, name)

    def test_a_model_folder_is_the_same_model(self, model: Model, tmp_path: Path) -> None:
        """Made into a file, it is held against what the file itself is held against."""
        if self.huggingface is None:
            pytest.skip("`huggingface` names no folder of the model")
        plugins = self.plugins()
        converter = Converter(plugins, op_table(plugins), "f32", tmp_path)
        made = read_model(converter.file_of(self.huggingface, no_progress), plugins)
        assert made.architecture == model.architecture, f"the folder is taken for {made.architecture!r}."
        plan = JUDGE.compile(made.graph, made.weights, LIMITS, no_progress)
        self._compared(made, plan, "logits of the folder")
        _answered(plan, self.answers(model), "the folder")
        plan.close()

    def test_adapters_of_every_matrix_fit(self, model: Model) -> None:
        """An adapter as PEFT names and arranges it, of rank 2 on all matrices."""
        if not isinstance(model.definition, FromHuggingFace):
            pytest.skip("the architecture has no hf_transforms, so only adapters in GGUF fit it")
        names = _trained_names(model)
        targets = target_labels(model.graph)
        # One that is tied has no name of its own in some families.
        tied = {label for label, node in targets.items() if node.weights["weight"] != f"{label}.weight"}
        targets = {label: node for label, node in targets.items() if label in names or label not in tied}
        missing = [label for label in targets if label not in names]
        assert not missing, f"no module of Hugging Face's is known by the names {', '.join(missing[:8])}."
        adapter = Adapter(model.path, "PEFT", {names[label]: _module(model, label) for label in targets})
        base = Base(model.architecture, model.definition, model.params, model.graph, model.weights)
        terms = bind(adapter, base)
        assert terms.keys() == targets.keys()
        assert all(_fits(term, model, label) for label, term in terms.items())

    def test_hugging_face_transforms_lose_nothing(self, model: Model) -> None:
        """Each only moves numbers, perhaps after adding the same to all."""
        if not isinstance(model.definition, FromHuggingFace):
            pytest.skip("the architecture has no hf_transforms")
        for name, arrange in model.definition.hf_transforms(model.params).items():
            tensors = [t for t in model.weights.names() if _BLOCK.sub("", t).rpartition(".")[0] == name]
            if not tensors:
                continue  # other models of the family have it
            shape = model.weights.shape(tensors[0])
            numbers = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
            moved = arrange(numbers) - arrange(np.zeros(shape))
            assert moved.shape == shape, f"the transform of {name} makes {moved.shape} of {shape}."
            assert np.array_equal(np.sort(moved, axis=None), numbers.ravel()), (
                f"the transform of {name} does not keep every number once."
            )

    # -- what they are made of ---------------------------------------------------------------

    def _compared(self, model: Model, plan: Plan, what: str) -> bool:
        """Whether there is another implementation; then its logits are those of the plan."""
        shapes = {name: model.weights.shape(name) for name in model.weights.names()}
        weights = {name: model.weights.dequantize(name).reshape(shape) for name, shape in shapes.items()}
        expected = self.logits(weights, _tokens(model))
        if expected is not None:
            found = _rows(plan, [Part(_tokens(model), 0, [2, 0])], every_row=True)
            assert_close(found, np.asarray(expected, np.float32), 1e-4, what)
        return expected is not None

    def _record(self, model: Model, table: _Table) -> Graph:
        scaling = read_scaling(model.file.metadata, model.architecture, table, LIMITS.max_ctx)
        return record(model.definition, model.params, table, op_table(self.plugins()), scaling)

    def _check_named(self, model: Model, name: str, table: _Table) -> None:
        """The error names a tensor that is missing: this one, or another that could replace it."""
        try:
            self._record(model, table)
        except (GraphError, GGUFError) as error:
            named = re.findall(r"'([\w.]+\.(?:weight|bias))'", error.message)
            if not any(other not in table for other in named):
                raise AssertionError(f"without {name!r} the error names none: {error.message}") from error

    def _check_refused(self, model: Model, name: str, table: _Table) -> None:
        try:
            self._record(model, table)
        except (GraphError, GGUFError):
            return
        shapes = f"{table.shape(name)} instead of {model.weights.shape(name)}"
        raise AssertionError(f"a tensor {name!r} of shape {shapes} is taken without a word.")


@dataclass(frozen=True, slots=True)
class _Table:
    """The tensors of a file, but for some."""

    tensors: Any
    without: str | None = None
    changed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name != self.without and name in self.tensors

    def names(self) -> list[str]:
        return [name for name in self.tensors.names() if name in self]

    def shape(self, name: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.changed.get(name) or self.tensors.shape(name)
        return shape


def _answered(plan: Plan, answers: Sequence[Answer], what: str) -> None:
    for outcome in (outcome for answer in answers for outcome in compare(plan, answer)):
        assert outcome.passed, f"{what}: {outcome}"


def _vocabulary(model: Model) -> int:
    rows = [model.weights.shape(n.weights["weight"])[0] for n in model.graph.nodes if n.op == "embed"]
    assert rows, "the graph reads no tokens: it has no embed."
    return min(rows)


def _tokens(model: Model) -> list[int]:
    """The first of the vocabulary, the last, and any others."""
    some = np.random.default_rng(2).integers(_vocabulary(model), size=LENGTH - 2)
    return [0, _vocabulary(model) - 1, *map(int, some)]


def _rows(plan: Plan, parts: Sequence[Part], *, every_row: bool = False) -> F32:
    """The output rows of a step of parts, in 6 blocks."""
    plan.reserve(6)
    return rows_of(plan, batch_of(parts, every_row=every_row))


def _trained_names(model: Model) -> dict[str, str]:
    """Labels of nodes -> a name that Hugging Face's models have for the module."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    assert model.architecture in known, (
        f"gguf's table of names does not know the architecture {model.architecture!r}, so adapters of PEFT "
        "cannot be fitted: leave hf_transforms out."
    )
    layers = 1 + max((int(m[1]) for m in map(_BLOCK.match, model.weights.names()) if m), default=-1)
    names = get_tensor_name_map(known[model.architecture], layers)
    return {label: module for module, (_, label) in names.mapping.items() if module != label}


def _module(model: Model, label: str) -> Module:
    node = target_labels(model.graph)[label]
    *experts, rows, columns = model.weights.shape(node.weights["weight"])
    inner, outer = (rows, columns) if node.op == "embed" else (columns, rows)
    a, b = (_part(label, (*experts, *shape)) for shape in ((2, inner), (outer, 2)))
    return Module(a=a, b=b)


def _part(label: str, shape: tuple[int, ...]) -> AdapterPart:
    return AdapterPart(label, shape, lambda: np.ones(shape, np.float32))


def _fits(term: Term, model: Model, label: str) -> bool:
    outer = target_labels(model.graph)[label].shape[-1]
    return term.b is not None and term.b.shape[-2:] == (outer, 2)
