"""The conformance kit finds out what is wrong, and says it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shimmy import hookimpl
from shimmy.engine.plan import FinishedStep
from shimmy.engine.reference import ReferenceBackend
from shimmy.gguf.blocks import BlockType
from shimmy.gguf.quant import BlockParts, BlockScales
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.specs import QuantTypeSpec
from shimmy.testing import ArchitectureConformance, BackendConformance, QuantConformance
from shimmy.testing.cases import CASES
from shimmy.testing.compare import assert_close, assert_same_bits
from shimmy.testing.engines import installed_plugins
from shimmy.testing.plans import read_model
from shimmy_plugins.quants.q4_0 import load
from tests import architectures

RIGHT = load()


def quant(**changes: Callable | int) -> QuantConformance:
    """The tests of a type that is Q4_0 but for some of its members, or of its block's sizes."""
    members = {
        name: getattr(RIGHT, name) for name in ("dequantize_blocks", "to_run", "unpack", "quantize_blocks")
    }
    sizes = {"ggml_id": 1000, "block_elements": 32, "block_bytes": 18}
    sizes |= {name: value for name, value in changes.items() if name in sizes}
    members |= {name: value for name, value in changes.items() if name not in sizes}
    spec = QuantTypeSpec("Q4_X", load=lambda: SimpleNamespace(**members), **sizes)

    class Plugin:
        @hookimpl
        def register_quant_types(self, register):
            register(spec)

    plugins = load_plugins(PluginChoice(enabled=()), extra=[Plugin()])

    class Tests(QuantConformance):
        name = "Q4_X"

        def plugins(self):
            return plugins

        def oracle(self, blocks):
            return RIGHT.dequantize_blocks(blocks)

    return Tests()


def off(blocks):
    values = RIGHT.dequantize_blocks(blocks)
    values[7, 3] = -values[7, 3]
    return values


def shared(blocks):
    """Blocks after the first read its scale."""
    blocks = blocks.copy()
    blocks[:, :2] = blocks[0, :2]
    return RIGHT.dequantize_blocks(blocks)


def lossy(blocks, rows):
    run = RIGHT.to_run(blocks, rows)
    codes = run.codes.copy()
    codes[1, 2] ^= 1
    return replace(run, codes=codes)


def wide(blocks, rows):
    return replace(RIGHT.to_run(blocks, rows), bits=3)


def backwards(weights):
    return RIGHT.quantize_blocks(-weights)


WRONG_TYPES = {
    "its_geometry_is_ggmls": (
        {"ggml_id": 2},
        "is ('Q4_0', 32, 18) in ggml, the plugin says ('Q4_X', 32, 18)",
    ),
    "any_bytes_have_the_oracles_values": (
        {"dequantize_blocks": off},
        "in 1 of 38400 numbers, first at (7, 3)",
    ),
    "blocks_do_not_depend_on_each_other": ({"dequantize_blocks": shared}, "Q4_X: block 1 alone differs in"),
    "the_run_layout_has_the_same_numbers": ({"to_run": lossy}, "differs from dequantize_blocks in 1 of"),
    "unpack_is_what_numpy_computes": ({"to_run": lossy}, "unpack, beside to_run, differs in 1 of"),
    "written_blocks_are_near_the_weights": ({"quantize_blocks": backwards}, "written weights are off by 2"),
}


@pytest.mark.parametrize("test", WRONG_TYPES)
def test_wrong_types_are_found(test: str):
    changes, message = WRONG_TYPES[test]
    getattr(quant(), f"test_{test}")()
    with pytest.raises(AssertionError) as caught:
        getattr(quant(**changes), f"test_{test}")()
    assert message in str(caught.value)


def test_codes_wider_than_told_are_found():
    with pytest.raises(AssertionError, match="a code is 15, of 3 bits"):
        quant(to_run=wide).test_the_run_layout_has_the_same_numbers()


def one_of_each(block):
    """64 weights with a scale and an offset."""
    codes = block.join(block.bytes(4, 32).field(0, 4), block.bytes(4, 32).field(4, 4))
    return BlockParts(codes, 4, BlockScales(block.half(0)), BlockScales(block.half(2)))


def one_offset(block):
    """128 weights with a scale of 16 each, and an offset of all."""
    codes = block.bytes(12, 32).spread(2)
    return BlockParts(codes, 2, BlockScales(block.half(0), block.bytes(2, 8)), BlockScales(block.half(10)))


@pytest.mark.parametrize(
    ("unpack", "elements", "size"), [(one_of_each, 64, 36), (one_offset, 128, 44)], ids=["64", "128"]
)
def test_a_scale_may_be_for_more_than_engines_have_one_for(unpack, elements: int, size: int, tmp_path: Path):
    kind = BlockType(unpack)
    members = {name: getattr(kind, name) for name in ("dequantize_blocks", "to_run", "unpack")}
    tests = quant(**members, block_elements=elements, block_bytes=size)
    tests.test_the_run_layout_has_the_same_numbers()
    tests.test_unpack_is_what_numpy_computes()
    tests.test_rows_of_a_tensor(tmp_path)
    tests.test_engines_compute_with_it(tmp_path)


def test_an_oracle_is_needed():
    class Tests(QuantConformance):
        name = "Q4_0"

    with pytest.raises(NotImplementedError, match="Tests must say what blocks of Q4_0 mean: oracle"):
        Tests().test_any_bytes_have_the_oracles_values()


def test_a_folder_that_is_read_wrongly_is_found(tmp_path: Path):
    """One that says of itself what its file does not, as a specification with a wrong key would."""
    path = architectures.converted("qwen2", tmp_path, installed_plugins())
    right = tmp_path / "qwen2"
    wrong = shutil.copytree(right, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))

    class Tests(ArchitectureConformance):
        def answers(self, model):
            return architectures.answers("qwen2")

    tests, model = Tests(), read_model(path, installed_plugins())
    tests.huggingface = right
    tests.test_a_model_folder_is_the_same_model(model, tmp_path / "right-cache")
    tests.huggingface = wrong
    with pytest.raises(AssertionError, match="the folder: prompt .* logits are off by"):
        tests.test_a_model_folder_is_the_same_model(model, tmp_path / "wrong-cache")


class Changed(ReferenceBackend):
    """The definitions, but for what ``change`` makes of a step's logits."""

    def __init__(self, change: Callable) -> None:
        self.change = change

    def compile(self, graph, weights, limits, progress):
        plan = super().compile(graph, weights, limits, progress)
        right = plan.submit

        def submit(batch, sampling):
            step = right(batch, sampling)
            return FinishedStep(self.change(step.logits().copy(), batch), step.chosen())

        plan.submit = submit
        return plan


def engine(change: Callable) -> BackendConformance:
    class Tests(BackendConformance):
        name = "changed"

        def backend(self):
            return Changed(change)

    return Tests()


def scaled(rows, _batch):
    return rows * np.float32(1.0001)


def in_company(rows, batch):
    """Off by a bit wherever a step has more than one sequence."""
    return np.nextafter(rows, np.float32(np.inf)) if len(batch.block_tables) > 1 else rows


def generated(rows, batch):
    return rows * np.float32(1.01) if batch.generated else rows


def test_wrong_engines_are_found():
    case = next(case for case in CASES if case.op == "rms_norm")
    with pytest.raises(AssertionError, match=r"norm: step 0, of 1 tokens, differs in row 0 of 1 by 0\.0001"):
        engine(scaled).test_op(case)
    with pytest.raises(AssertionError, match="changed: generated tokens beside others differs in"):
        engine(in_company).test_rows_do_not_depend_on_their_batch()
    with pytest.raises(AssertionError, match="changed: generated rows differs in row"):
        engine(generated).test_generated_tokens_continue_a_prompt()


def test_right_engines_pass():
    tests = engine(lambda rows, _batch: rows)
    # NumPy's products round by the number of rows, so bits are not the definitions' promise.
    tests.test_generated_tokens_continue_a_prompt()
    tests.test_adapters_add_to_their_rows()
    tests.test_tokens_are_chosen_as_defined()
    tests.test_a_step_without_outputs()


def test_comparisons_tell_where():
    expected = np.array([[3, 4], [1, 0]], np.float32)
    assert_close(expected, expected)
    found = expected + np.array([[0, 0], [0, 0.5]], np.float32)
    with pytest.raises(
        AssertionError, match=r"it differs in row 1 of 2 by 0\.5 .* column 1: found 0\.5, expected 0"
    ):
        assert_close(found, expected, what="it")
    with pytest.raises(AssertionError, match="differs in row 0"):
        assert_close(np.full_like(expected, np.nan), expected)
    assert_same_bits(np.array([np.nan, -0.0]), np.array([np.nan, -0.0]))
    with pytest.raises(AssertionError, match=r"differs in 1 of 2 numbers, first at \(1,\)"):
        assert_same_bits(np.array([np.nan, -0.0]), np.array([np.nan, 0.0]))
