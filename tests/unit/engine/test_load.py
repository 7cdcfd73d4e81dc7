"""Loading an engine: what it tells meanwhile."""

from shimmy.engine.load import _Phases


def test_phases_are_timed_and_told(monkeypatch):
    times = iter([10.0, 11.0, 12.0, 12.5, 15.0])
    monkeypatch.setattr("shimmy.engine.load.time.monotonic", lambda: next(times))
    told = []
    phases = _Phases(lambda *step: told.append(step))
    steps = [("weights", 0, 2), ("weights", 1, 2), ("weights", 2, 2), ("shaders", 0, 1), ("shaders", 1, 1)]
    for step in steps:
        phases(*step)
    assert told == steps
    assert phases.seconds == {"weights": 2.0, "shaders": 2.5}
