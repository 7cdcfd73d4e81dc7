"""Cores and memory within affinity and control groups, from made-up files of the system."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from shimmy.engine.machine import available_memory, usable_cores

MIB = 2**20
FREE = 1000 * MIB


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight cores of two processors each, all of them allowed, and 1000 MiB free."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(16)), raising=False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": FREE})())
    for cpu in range(16):
        put(
            tmp_path,
            f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
            f"{cpu % 8},{cpu % 8 + 8}\n",
        )


def put(root: Path, name: str, content: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_a_machine_to_itself(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8
    assert available_memory(tmp_path) == FREE


@pytest.mark.parametrize(("allowed", "cores"), [({0}, 1), ({0, 8}, 1), ({0, 1, 8, 9}, 2), ({0, 1, 2}, 3)])
def test_affinity_counts_cores_not_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: allowed)
    assert usable_cores(tmp_path) == cores


def test_without_a_topology_the_smaller_number_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 16 if logical else 4)
    assert usable_cores(tmp_path / "elsewhere") == 4
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {5})
    assert usable_cores(tmp_path / "elsewhere") == 1


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("140000 100000", 1),
        ("150000 100000", 2),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("9900000 100000", 8),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, limit: str, cores: int) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", limit + "\n")
    assert usable_cores(tmp_path) == cores


def test_the_tightest_group_around_decides(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/cpu.max", "300000 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/memory.max", f"{300 * MIB}\n")
    put(tmp_path, "sys/fs/cgroup/a/memory.current", f"{100 * MIB}\n")
    put(tmp_path, "sys/fs/cgroup/a/b/memory.max", "max\n")
    put(tmp_path, "sys/fs/cgroup/a/b/memory.current", f"{90 * MIB}\n")
    assert usable_cores(tmp_path) == 3
    assert available_memory(tmp_path) == 200 * MIB


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("400000", 4)])
def test_a_quota_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    put(tmp_path, "proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", quota + "\n")
    put(tmp_path, "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path) == cores


def test_a_container_sees_its_group_at_the_mount(tmp_path: Path) -> None:
    """The path is the host's; files of caches make way."""
    put(tmp_path, "proc/self/cgroup", "4:memory:/docker/0123\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{500 * MIB}\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{450 * MIB}\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.stat", f"cache 9\ntotal_inactive_file {40 * MIB}\n")
    assert available_memory(tmp_path) == 90 * MIB


@pytest.mark.parametrize(
    ("limit", "used", "free"), [(1 << 62, 5, FREE), (100, 150, 0), (2 * FREE, FREE - 7, FREE)]
)
def test_a_limit_of_version_2(tmp_path: Path, limit: int, used: int, free: int) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", f"{limit}\n")
    put(tmp_path, "sys/fs/cgroup/memory.current", f"{used}\n")
    assert available_memory(tmp_path) == free


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= (psutil.cpu_count() or 1)
    assert 0 <= available_memory() <= FREE
