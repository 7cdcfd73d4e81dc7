"""What of the machine this process may use: cores, and memory that is free.

Affinity and control groups (Linux, both versions) narrow it down, as in containers and services.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

#: Where /proc and /sys are.
ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Physical cores this process may use: by affinity, and by its quota of time, rounded."""
    cores = _physical_cores(root)
    if (quota := _cpu_quota(root)) is not None:
        cores = min(cores, int(quota + 0.5))
    return max(cores, 1)


def available_memory(root: Path = ROOT) -> int:
    """Bytes that can be taken without swapping, and without the system ending the process."""
    return max(min([psutil.virtual_memory().available, *_free_in_groups(root)]), 0)


def _physical_cores(root: Path) -> int:
    """Cores behind the processors this process may run on; two threads of a core are one."""
    if not hasattr(os, "sched_getaffinity"):
        return psutil.cpu_count(logical=False) or 1
    allowed = os.sched_getaffinity(0)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {_text(root / topology.format(processor)) for processor in allowed}
    if None in siblings:
        return min(psutil.cpu_count(logical=False) or 1, len(allowed))
    return len(siblings)


def _cpu_quota(root: Path) -> float | None:
    """Processors' worth of time the process gets, None without a limit."""
    quotas = []
    for group in _groups(root, "cpu"):
        # Version 2 has both in one file, "max" being none; version 1 in two, none being -1.
        limit = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0] not in ("max", "-1"):
            quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default=None)


def _free_in_groups(root: Path) -> Iterator[int]:
    """Bytes left below the memory limit of each control group around this process."""
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for group in _groups(root, "memory"):
        for limit, usage, inactive in names:
            most, used = _words(group / limit), _words(group / usage)
            if most and used and most[0] != "max":
                # Pages of files nobody needs count as used, but make way.
                yield int(most[0]) - int(used[0]) + _statistic(group, inactive)


def _statistic(group: Path, name: str) -> int:
    words = _words(group / "memory.stat")
    return int(words[words.index(name) + 1]) if name in words else 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups around this process, the innermost first; limits of all hold."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controllers and controller not in controllers.split(","):
            continue
        if controllers:
            mount /= controller
        # In a container the path may be the host's: its folder is missing here, the mount is the group.
        group = mount / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _words(file: Path) -> list[str]:
    return (_text(file) or "").split()


def _text(file: Path) -> str | None:
    """The content of a file; None if there is none, or it is not for us."""
    with suppress(OSError):
        return file.read_text(encoding="utf-8")
    return None
