"""``shimmy bench`` from outside, on a zoo model and in sizes that take no time."""

import json

import llvmlite.binding as llvm
import pytest

from shimmy.cli import main
from shimmy.errors import ConfigError
from shimmy_plugins.commands.bench.ceiling_loops import source, vectors_of
from shimmy_plugins.commands.bench.ceilings import CeilingProbe, Ceilings
from shimmy_plugins.commands.bench.machine import describe_machine, processor_name
from shimmy_plugins.commands.bench.noise import Timed
from shimmy_plugins.commands.bench.options import numbers
from shimmy_plugins.commands.bench.plot import draw
from shimmy_plugins.commands.bench.results import Result
from shimmy_plugins.commands.bench.samples import Samples
from shimmy_plugins.commands.bench.workload import Case, Prompter, cases
from tests.zoo import model_path

SMALL = (
    *("--prompt-tokens", "6", "--generate", "3", "--batch", "1,2", "--depth", "0,5"),
    *("--repetitions", "2", "--max-foreign", "100", "--threads", "1"),
)


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]):
    """``bench("MODEL", …)`` -> (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["bench", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


ZOO = str(model_path("llama_spm.q4_0"))


def test_json(bench):
    code, out, _ = bench(ZOO, *SMALL, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["engine"]["backend"] == "cpu"
    assert report["engine"]["threads"] == 1
    assert report["model"]["path"] == ZOO
    assert set(report["versions"]) == {"shimmy-llm", "numpy", "llvmlite", "python"}
    rows = [(row["test"], row["batch"], row["depth"]) for row in report["results"]]
    assert rows == [
        *[("prefill", 1, 0), ("decode", 1, 0), ("decode", 1, 5)],
        *[("prefill", 2, 0), ("decode", 2, 0), ("decode", 2, 5)],
    ]
    prefill, decode = report["results"][:2]
    assert prefill["tokens_per_second"]["count"] == len(prefill["kept"]) == 2
    assert prefill["first_token_seconds"]["median"] > 0
    assert prefill["achieved_bytes_per_second"] is None
    assert decode["first_token_seconds"] is None
    assert decode["achieved_bytes_per_second"] > 0
    assert "ratio" not in decode
    assert report["ceilings"]["bytes_per_second"] > 0
    assert report["ceilings"]["flops_per_second"] > 0


def test_table(bench):
    code, out, err = bench(ZOO, *SMALL)
    assert code == 0
    lines = out.splitlines()
    assert any(line.startswith("engine") and "cpu, " in line for line in lines)
    header = next(line for line in lines if line.startswith("TEST"))
    assert header.split()[:4] == ["TEST", "BATCH", "DEPTH", "TOK/S"]
    assert sum(line.startswith(("prefill 6", "decode 3")) for line in lines) == 6
    assert "decode 3, batch 2, depth 5" in err


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_busy_machine_leaves_no_figures_and_a_note(bench, monkeypatch, form):
    monkeypatch.setattr("shimmy_plugins.commands.bench.noise.foreign_share", lambda *_: 0.4)
    small = ("--prompt-tokens", "4", "--generate", "0", "--repetitions", "1", "--threads", "1", "--wait", "0")
    code, out, err = bench(ZOO, *small, *form)
    assert code == 0
    if form:
        assert json.loads(out)["results"][0]["tokens_per_second"] is None
    else:
        assert out.splitlines()[-1].split()[-2:] == ["0", "3"]
    assert "prefill 4, batch 1, depth 0: every sample was dropped; other programs used 40%" in err


@pytest.mark.parametrize(("name", "start"), [("rows.svg", b"<?xml"), ("rows.png", b"\x89PNG")])
def test_a_plot_shows_the_rows(bench, tmp_path, name, start):
    code, _, _ = bench(ZOO, *SMALL, "--plot", str(tmp_path / name))
    assert code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_pair_is_drawn_side_by_side(tmp_path):
    pair = (Timed(2.0, 0.0), Timed(4.0, 0.0))
    results = [Result(Case("decode", 8, 1), Samples([pair])), Result(Case("prefill", 8, 1), Samples())]
    draw(tmp_path / "pair.svg", "a machine", ["ours", "theirs"], results)
    figure = (tmp_path / "pair.svg").read_text()
    for shown in ("ours", "theirs", "a machine", "decode 8", "tokens per second"):
        assert f"<!-- {shown} -->" in figure
    assert "prefill" not in figure
    with pytest.raises(ConfigError, match="cannot be written"):
        draw(tmp_path / "none" / "pair.svg", "", ["ours"], results)


def test_a_plot_without_its_package_is_refused(bench, monkeypatch):
    monkeypatch.setattr("shimmy_plugins.commands.bench.plot.find_spec", lambda _name: None)
    code, _, err = bench(ZOO, "--plot", "rows.svg")
    assert code == 2
    assert "--plot needs the package matplotlib" in err
    assert "shimmy-llm[bench]" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a model or --shape, found neither"),
        ((ZOO, "--shape", "smollm2-135m"), "found both"),
        (("--shape", "tinylama-1.1b"), "Did you mean 'tinyllama-1.1b'"),
        ((ZOO, "--batch", "0"), "--batch is '0'"),
        ((ZOO, "--prompt-tokens", "0", "--generate", "0"), "nothing to measure"),
        ((ZOO, "--plot", "rows.txt"), "--plot is 'rows.txt'; expected a file name in .svg or .png"),
        ((ZOO, "--vs", "lama.cpp"), "Did you mean 'llama.cpp'"),
        ((ZOO, "--vs", "llama.cpp", "--peer-kv-type", "q8"), "--peer-kv-type is 'q8'"),
        ((ZOO, "--peer-kv-type", "f16"), "--peer-kv-type is 'f16', and there is no --vs"),
    ],
)
def test_what_is_wrong_is_said(bench, arguments, message):
    code, _, err = bench(*arguments)
    assert code == 2
    assert message in err


def test_numbers():
    assert numbers("--batch", "1, 8", least=1) == [1, 8]
    with pytest.raises(ConfigError, match="expected whole numbers from 1, like 1,8"):
        numbers("--batch", "1,x", least=1)


def test_cases_are_all_combinations():
    assert cases([512], [128], [1], [0, 4000]) == [
        Case("prefill", 512, 1),
        Case("decode", 128, 1, 0),
        Case("decode", 128, 1, 4000),
    ]
    assert cases([0], [16], [2], [0]) == [Case("decode", 16, 2)]


def test_prompts_differ_for_each_prefill_and_stay_for_a_decode():
    prompts = Prompter(1000).for_samples(Case("prefill", 8, 2))
    first, second = next(prompts), next(prompts)
    assert [len(prompt) for prompt in first] == [8, 8]
    assert first != second
    prompts = Prompter(1000).for_samples(Case("decode", 8, 1, depth=5))
    assert next(prompts) == next(prompts)
    assert len(next(Prompter(1000).for_samples(Case("decode", 8, 1)))[0]) == 1


def test_ceilings_only_rise():
    probe = CeilingProbe(threads=1)
    first, second = probe.measure(), probe.measure()
    assert 0 < first.bytes_per_second <= second.bytes_per_second
    assert 0 < first.flops_per_second <= second.flops_per_second


@pytest.mark.parametrize(
    ("features", "function"),
    [
        ("+avx,+avx2,+avx512f,+avx512vnni", "llvm.x86.avx512.vpdpbusd.512"),
        ("+avx,+avx2,+avxvnni,-avx512f", "llvm.x86.avx512.vpdpbusd.256"),
        ("+avx,+avx2", "llvm.x86.avx2.pmadd.ub.sw"),
        ("+neon,+dotprod", "llvm.aarch64.neon.sdot.v4i32.v16i8"),
    ],
)
def test_each_processor_has_its_instruction_for_bytes(features, function):
    vectors = vectors_of(features)
    llvm.parse_assembly(source(vectors)).verify()
    assert vectors.dot.function == function


def test_without_such_an_instruction_the_f32_peak_stands():
    assert vectors_of("+neon").dot is None
    llvm.parse_assembly(source(vectors_of("+neon"))).verify()
    assert Ceilings(1.0, 2.0, None).operations_per_second("int8") == 2.0
    assert Ceilings(1.0, 2.0, 8.0).operations_per_second("int8") == 8.0
    assert Ceilings(1.0, 2.0, 8.0).operations_per_second("f32") == 2.0


def test_the_machine_is_described(tmp_path):
    assert describe_machine()["logical_cores"] >= 1
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name : Abacus 9\n")
    assert processor_name(cpuinfo) == "Abacus 9"
    assert processor_name(tmp_path / "none")


def test_help_names_the_command(bench, capsys):
    assert main(["--help"]) == 0
    assert "  bench " in capsys.readouterr().out
