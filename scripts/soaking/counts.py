"""What there is of everything that could be left behind."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import leaks
import needs
import psutil


def namespaces() -> Counter[str]:
    """Network namespaces of this process and all below it, by the processes in them."""
    found = set()
    for pid in (os.getpid(), *leaks.descendants()):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue  # it ended while we looked
    return Counter({"network namespaces": len(found)})


def mounts() -> Counter[str]:
    """Mounts of this process' namespace."""
    return Counter({"mounts": len(Path("/proc/self/mountinfo").read_text().splitlines())})


def dying_cgroups() -> Counter[str]:
    """Cgroups that are removed and still hold memory, cgroup-v2.rst, cgroup.stat."""
    total = 0
    for point, kind, _ in needs.mounts():
        if kind == "cgroup2":
            lines = Path(point, "cgroup.stat").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("nr_dying_descendants"))
    return Counter({"dying cgroups": total})


def snapshot() -> Counter[str]:
    """All that must be as it was."""
    return leaks.snapshot() + namespaces() + mounts()


def resident_bytes() -> int:
    """Of this process."""
    return int(psutil.Process().memory_info().rss)
