"""What a sandbox uses at this moment, for whoever asks seldom: files are opened for each look, about 20 µs each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nsbox._cgroups.tree import CgroupTree


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupUsage:
    """Of a sandbox; None: these cgroups do not tell.

    Attributes:
        cpu_seconds: Of all its processes so far.
        memory_bytes: In use now.
        processes: Of programs, now; without their threads.
    """

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None


def read_usage(tree: CgroupTree, number: int, running: int) -> CgroupUsage:
    """Look at the counters of a sandbox. Blocks for some 100 µs.

    Args:
        tree: Where it is.
        number: Its directories are named after it.
        running: How many executions run in it.
    """
    if not tree.hierarchies:
        return CgroupUsage()
    usec = _read(tree, 0, number, "cpu.stat", "usage_usec")
    memory = tree.index_of("memory")
    used = None
    if memory is not None:
        name = "memory.current" if tree.hierarchies[memory].version == 2 else "memory.usage_in_bytes"
        used = _read(tree, memory, number, name)
    return CgroupUsage(
        cpu_seconds=None if usec is None else usec / 1e6,
        memory_bytes=used,
        processes=_count_programs(tree.hierarchies[0].path / f"s{number}", running),
    )


def _count_programs(directory: Path, running: int) -> int | None:
    """Those of its executions, whose directories the launcher numbers upwards; one more may be that of a process that
    waits for the next program.
    """
    try:
        numbers = sorted(int(name[1:]) for name in os.listdir(directory) if name[:1] == "e" and name[1:].isdigit())
    except OSError:
        return None
    count = 0
    for number in numbers[:running]:
        try:
            count += (directory / f"e{number}" / "cgroup.procs").read_bytes().count(b"\n")
        except OSError:
            continue  # it has just ended
    return count


def _read(tree: CgroupTree, index: int, number: int, file: str, key: str = "") -> int | None:
    """A number in a file of a sandbox's directory; behind `key`, where the file has one a line."""
    try:
        text = (tree.hierarchies[index].path / f"s{number}" / file).read_text(encoding="ascii")
    except OSError:
        return None  # the sandbox has just ended
    words = text.split()
    try:
        return int(words[words.index(key) + 1] if key else words[0])
    except (ValueError, IndexError):
        return None
