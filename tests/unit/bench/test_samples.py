"""Statistics, and which samples count."""

import subprocess
import sys
from itertools import count

import psutil
import pytest

from shimmy_plugins.commands.bench.noise import MOMENT, Meter, Patience, Reading, Timed, _used, foreign_share
from shimmy_plugins.commands.bench.samples import TRIES, Rules, collect
from shimmy_plugins.commands.bench.summary import Summary, summarize


@pytest.mark.parametrize(
    ("values", "summary"),
    [
        ([7.0], Summary(7, 7, 7, 1)),
        ([4.0, 1.0, 3.0, 2.0, 5.0], Summary(3, 2, 4, 5)),
        ([1.0, 2.0], Summary(1.5, 1.25, 1.75, 2)),
    ],
)
def test_median_and_quartiles(values, summary):
    assert summarize(values) == summary


def test_nothing_has_no_median():
    assert summarize([]) is None


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [
        (2.0, 2.0, 0.0),
        (2.0, 1.0, 0.49),
        (1.0, 2.0, 0.0),  # clocks that do not agree are no foreign work
        (1.02, 1.0, 0.0),  # nor is a tick per processor
    ],
)
def test_foreign_share(busy, own, share):
    assert foreign_share(Reading(10, 50, 5), Reading(11, 50 + busy, 5 + own), cpus=2) == pytest.approx(share)


def test_no_time_has_no_foreign_share():
    assert foreign_share(Reading(1, 1, 1), Reading(1, 2, 1), cpus=1) == 0


def test_a_meter_times_a_window():
    readings = iter([Reading(1.0, 0.0, 0.0), Reading(3.0, 3.02, 1.0)])
    meter = Meter(read=lambda: next(readings), cpus=2)
    with meter.window() as window:
        pass
    assert window.result().foreign == pytest.approx(0.5)


def test_work_of_what_was_started_is_no_foreign_work():
    burn = "import time; e = time.process_time() + 0.4\nwhile time.process_time() < e: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    process = psutil.Process()
    before = _used(process)
    subprocess.run([sys.executable, "-c", nested], check=True)
    assert _used(process) - before > 0.3


def test_a_meter_reads_this_machine():
    with Meter().window() as window:
        sum(range(1000))
    assert window.result().seconds > 0
    assert window.result().foreign >= 0


def test_disturbed_samples_are_dropped_and_replaced():
    shares = iter([0.9, 0.0, 0.04, 0.06, 0.01])
    samples = collect([lambda: Timed(1.0, next(shares))], Rules(repetitions=3, warmup=0))
    assert [taken[0].foreign for taken in samples.kept] == [0.0, 0.04, 0.01]
    assert [taken[0].foreign for taken in samples.dropped] == [0.9, 0.06]
    assert samples.foreign == 0.04


def test_a_machine_that_stays_busy_is_given_up():
    samples = collect([lambda: Timed(1.0, 0.5)], Rules(repetitions=4, warmup=0))
    assert (len(samples.kept), len(samples.dropped)) == (0, 4 * TRIES)
    assert samples.summary(lambda taken: taken[0].seconds) is None


def test_warm_up_does_not_count():
    seconds = count(1.0)
    samples = collect([lambda: Timed(next(seconds), 0)], Rules(repetitions=2, warmup=3))
    assert [taken[0].seconds for taken in samples.kept] == [4.0, 5.0]


def test_each_engine_is_warm_before_samples_count(monkeypatch):
    clock, order = count(0.0, 0.2), []
    monkeypatch.setattr("shimmy_plugins.commands.bench.samples.time.perf_counter", lambda: next(clock))
    measures = [lambda name=name: order.append(name) or Timed(1.0, 0) for name in ("ours", "theirs")]
    collect(measures, Rules(repetitions=1, warmup=1, warm=0.5))
    assert order == ["ours"] * 3 + ["theirs"] * 3 + ["ours", "theirs"]


def test_pairs_take_turns_and_stay_pairs():
    order = []

    def measure(name: str, seconds: float):
        return lambda: order.append(name) or Timed(seconds, 0)

    samples = collect([measure("ours", 1), measure("theirs", 3)], Rules(repetitions=2, warmup=0))
    assert order == ["ours", "theirs", "theirs", "ours"]
    assert samples.summary(lambda taken: taken[1].seconds / taken[0].seconds) == Summary(3, 3, 3, 2)


def test_after_a_dropped_sample_others_may_finish():
    shares, waits = iter([0.9, 0.0, 0.0]), []
    collect([lambda: Timed(1.0, next(shares))], Rules(2, warmup=0), settle=lambda: waits.append(1))
    assert len(waits) == 1


def test_patience_ends_with_quiet_or_with_time(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    busy = [Reading(0.0, 0.0, 0.0), Reading(1.0, 1.0, 0.0)]
    quiet = [Reading(0.0, 0.0, 0.0), Reading(1.0, 0.0, 0.0)]
    readings = iter(busy + quiet + busy * 9)
    patience = Patience(Meter(read=lambda: next(readings), cpus=1), 0.05, seconds=3 * MOMENT)
    patience.wait()
    assert slept == [MOMENT] * 2
    patience.wait()
    patience.wait()
    assert slept == [MOMENT] * 3


def test_one_disturbed_sample_drops_its_pair():
    ours, theirs = iter([0.0, 0.0, 0.0]), iter([0.5, 0.0, 0.0])
    measures = [lambda: Timed(1, next(ours)), lambda: Timed(1, next(theirs))]
    samples = collect(measures, Rules(repetitions=2, warmup=0))
    assert (len(samples.kept), len(samples.dropped)) == (2, 1)
