"""Rates beside those of another day: slower ones fail, and what cannot be compared is told beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shimmy.cli import main
from shimmy.errors import ConfigError
from shimmy_plugins.commands.bench.baseline import changes, read_baseline
from shimmy_plugins.commands.bench.noise import Timed
from shimmy_plugins.commands.bench.results import Result
from shimmy_plugins.commands.bench.samples import Samples
from shimmy_plugins.commands.bench.workload import Case
from tests.zoo import model_path

PREFILL, DECODE = Case("prefill", 512, 1), Case("decode", 128, 8, 64)


def report(path: Path, **rates: float | None) -> Path:
    """What ``shimmy bench --json`` writes, as far as it matters."""
    rows = [
        {
            "test": case.test,
            "tokens": case.tokens,
            "batch": case.batch,
            "depth": case.depth,
            "tokens_per_second": None if (rate := rates[case.test]) is None else {"median": rate},
        }
        for case in (PREFILL, DECODE)
        if case.test in rates
    ]
    path.write_text(json.dumps({"results": rows}))
    return path


def result(case: Case, *seconds: float) -> Result:
    return Result(case, Samples(kept=[(Timed(each, 0.0),) for each in seconds]))


def test_rows_that_are_slower_fail(tmp_path: Path):
    baseline = read_baseline(report(tmp_path / "b.json", prefill=512.0, decode=1024.0), [PREFILL, DECODE])
    # 512 and 8 * 128 tokens: as fast, and by a ninth slower.
    results = [result(PREFILL, 1.0, 0.5, 2.0), result(DECODE, 1.125)]
    assert [row.passed for row in changes(results, baseline, 0.1)] == [True, False]
    assert [row.passed for row in changes(results, baseline, 0.12)] == [True, True]
    assert [str(row) for row in changes(results, baseline, 0.1)] == [
        "prefill 512, batch 1, depth 0: 512.0 tok/s, 512.0 on record, +0.0%: ok",
        "decode 128, batch 8, depth 64: 910.2 tok/s, 1024.0 on record, -11.1%: "
        "FAILED, at most -10% is allowed",
    ]


def test_a_row_without_samples_fails(tmp_path: Path):
    baseline = read_baseline(report(tmp_path / "b.json", prefill=512.0), [PREFILL])
    [row] = changes([result(PREFILL)], baseline, 0.1)
    assert not row.passed
    assert str(row).endswith("FAILED, no sample counts")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a baseline"),
        ("not JSON", "cannot be read as a baseline"),
        ('{"results": [{"test": "decode"}]}', "cannot be read as a baseline"),
        ('{"results": []}', "has no row for decode 128, batch 8, depth 64"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "b.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_baseline(path, [DECODE])


def test_a_row_that_had_no_samples_is_none_on_record(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no rate for prefill 512, .*: every sample was dropped"):
        read_baseline(report(tmp_path / "b.json", prefill=None), [PREFILL])


def test_the_command_ends_with_1_if_a_row_is_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rates = {"test": "decode", "tokens": 2, "batch": 1, "depth": 0}
    command = ("bench", str(model_path("llama_spm.q4_0")), "--prompt-tokens", "0", "--generate", "2")
    small = ("--repetitions", "1", "--max-foreign", "100", "--threads", "1")
    for rate, code in ((1e-3, 0), (1e9, 1)):
        path = tmp_path / "b.json"
        path.write_text(json.dumps({"results": [{**rates, "tokens_per_second": {"median": rate}}]}))
        assert main([*command, *small, "--baseline", str(path)]) == code
        assert ("FAILED, at most -10% is allowed" in capsys.readouterr().err) == bool(code)
