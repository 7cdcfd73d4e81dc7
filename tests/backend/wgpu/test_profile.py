"""``shimmy bench --profile`` and ``shimmy shaders dump``: a plan's kernels, timed and written out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.cli import main
from shimmy_plugins.backends.wgpu.adapters import Adapter
from shimmy_plugins.backends.wgpu.costs import attention_cost, product_cost
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.dump import LISTING
from shimmy_plugins.backends.wgpu.kernel import Columns, Size, Work
from shimmy_plugins.backends.wgpu.layouts import FloatLayout
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape
from shimmy_plugins.backends.wgpu.weights import GpuMatrix
from tests.zoo import model_path

ZOO = str(model_path("llama_spm.q4_0"))
LAYERS = 3
Shimmy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shimmy(capfd: pytest.CaptureFixture[str]) -> Shimmy:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def dumped(shimmy: Shimmy, adapter: Adapter, tmp_path: Path) -> Path:
    folder = tmp_path / "wgsl"
    code, out, _ = shimmy("shaders", "dump", ZOO, "--gpu", adapter.facts.name, "--out", str(folder))
    assert code == 0
    assert f"kernels     {len(list(folder.glob('*.wgsl')))}\n" in out
    return folder


def test_shaders_are_dumped(dumped: Path, gpu: Gpu, shimmy: Shimmy, adapter: Adapter):
    files = list(dumped.glob("*.wgsl"))
    for file in files:
        gpu.pipeline(file.read_text("utf-8"), file.name)
    listing = (dumped / LISTING).read_text("utf-8")
    assert set(re.findall(r"\S+\.wgsl", listing)) == {file.name for file in files}
    generated, prompt = listing.split("# prompt rows")
    for phase in (generated, prompt):
        for layer in range(LAYERS):
            assert re.search(rf"^\d+ +blk\.{layer}\.attn_q\+attn_k\+attn_v ", phase, re.MULTILINE)
    [embed] = re.findall(r"^0 .*$", prompt, re.MULTILINE)
    assert embed.split()[-2:] == ["1x1x1", "8x1x1"]
    code, _, err = shimmy("shaders", "dump", ZOO, "--gpu", adapter.facts.name, "--out", str(dumped))
    assert code == 2
    assert f"{dumped} is not empty." in err


def test_shaders_are_of_a_gpu(shimmy: Shimmy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shimmy_plugins.backends.wgpu.probe", lambda: "no GPU: none of that kind")
    code, _, err = shimmy("shaders", "dump", ZOO)
    assert code == 2
    assert "shaders are made for a GPU: no GPU: none of that kind.\nhint: Name one that" in err


def test_shaders_of_what_stays_on_the_gpu_are_dumped(shimmy: Shimmy, adapter: Adapter, tmp_path: Path):
    folder = tmp_path / "some"
    options = ("--gpu", adapter.facts.name, "--gpu-layers", "1", "--out", str(folder))
    assert shimmy("shaders", "dump", ZOO, *options)[0] == 0
    listing = (folder / LISTING).read_text("utf-8")
    assert re.search(rf"^0 +layers\.{LAYERS - 1} +none: the processor computes it$", listing, re.MULTILINE)
    assert f"blk.{LAYERS - 1}.attn_q" in listing
    assert "blk.0." not in listing


def test_kernels_are_timed(shimmy: Shimmy, adapter: Adapter):
    sizes = ("--prompt-tokens", "9", "--generate", "2", "--batch", "1,2", "--depth", "40")
    code, out, err = shimmy("bench", ZOO, "--profile", "--gpu", adapter.facts.name, *sizes, "--json")
    assert code == 0
    assert "Each kernel is timed alone" in err
    steps = json.loads(out)["steps"]
    assert [(s["test"], s["rows"], s["depth"]) for s in steps] == [
        ("prefill", 9, 0),
        ("decode", 1, 40),
        ("decode", 2, 40),
    ]
    for step in steps:
        assert step["bytes_per_second"] > 0
        nodes = [kernel["node"] for kernel in step["kernels"]]
        assert [node for node in nodes if node.endswith("ffn_down")] == [
            f"blk.{layer}.ffn_down" for layer in range(LAYERS)
        ]
        assert all(kernel["seconds"] > 0 for kernel in step["kernels"])
        # Q4_0 has 18 bytes for 32 weights; a kernel reads those of its matrix, once.
        [down] = [kernel for kernel in step["kernels"] if kernel["node"] == "blk.0.ffn_down"]
        assert down["bytes"] == 256 * 512 * 18 // 32 + 4 * step["rows"] * (256 + 512)
        assert down["operations"] == 2 * step["rows"] * 256 * 512


def test_a_table_for_people(shimmy: Shimmy, adapter: Adapter):
    sizes = ("--prompt-tokens", "0", "--generate", "2")
    code, out, _ = shimmy("bench", ZOO, "--profile", "--gpu", adapter.facts.name, *sizes)
    assert code == 0
    assert re.search(r"^decode, 1 rows, depth 0; memory reads [\d.]+ GB/s$", out, re.MULTILINE)
    assert re.search(r"^linear_vec .*  3 +[\d.]+ +[\d.]+ +\d+% +[\d.]+ \(\d+%\) +[\d.]+$", out, re.MULTILINE)


def test_what_the_processor_computes_is_timed_too(shimmy: Shimmy, adapter: Adapter):
    arguments = ("--gpu", adapter.facts.name, "--gpu-layers", "1", "--generate", "2", "--prompt-tokens", "9")
    code, out, _ = shimmy("bench", ZOO, "--profile", *arguments, "--json")
    assert code == 0
    for step in json.loads(out)["steps"]:
        first, *others = step["kernels"]
        assert (first["node"], first["kernel"]) == ("layers.2", "the processor: segment")
        assert first["seconds"] > 0
        assert not any("processor" in kernel["kernel"] for kernel in others)


def test_an_engine_without_times_is_told(shimmy: Shimmy):
    code, _, err = shimmy("bench", ZOO, "--profile", "--engine-backend", "cpu")
    assert code == 2
    assert "error: the engine 'cpu' does not tell times of its kernels." in err
    code, _, err = shimmy("bench", ZOO, "--profile", "--vs", "llama.cpp")
    assert code == 2
    assert "error: --profile takes no --vs." in err


def test_work_of_products():
    cost = product_cost(GpuMatrix(FloatLayout("f16"), 10, 64, ()), late=True)
    assert cost(Size(rows=7, outputs=2, context=1)) == Work(10 * 64 * 2 + 4 * 2 * (10 + 64), 2 * 2 * 10 * 64)


def test_work_of_attention():
    columns = Columns(1, 1)
    shape = AttentionShape(6, 2, 16, 32, 1.0, None, None, None, columns, columns, columns, 64)
    size = Size(rows=3, outputs=0, context=10)
    assert attention_cost(shape, "f16", shared=False)(size) == Work(3 * 10 * 2 * 48 * 2, 2 * 6 * 48 * 30)
    # Three rows of one context see 8, 9 and 10 positions.
    assert attention_cost(shape, "f32", shared=True)(size) == Work(10 * 2 * 48 * 4, 2 * 6 * 48 * 27)


def test_a_gpus_rates_are_no_shares_of_what_the_processor_can(shimmy: Shimmy, adapter: Adapter):
    small = ("--prompt-tokens", "4", "--generate", "2", "--repetitions", "1", "--max-foreign", "100")
    name = adapter.facts.name
    code, out, _ = shimmy("bench", ZOO, "--engine-backend", "wgpu", "--gpu", name, "--threads", "1", *small)
    assert code == 0
    assert "ceilings" not in out
    *_, prefill, decode = out.splitlines()
    assert prefill.startswith("prefill 4 ")
    assert decode.startswith("decode 2 ")
    assert "%" not in prefill + decode
