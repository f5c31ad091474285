"""The cgroup files of one sandbox: opened once, and read by pread(2), which costs 0.4 to 6 us each (measured).

The directory is the sandbox's, "s<number>" below each base directory, so that everything in it is counted: programs,
PID 1 and the process that waits for the next program. Nothing in these files is written by a program.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from nsbox._cgroups import CgroupTree

_LONGEST = 8192  # bytes; memory.stat has some 2,000

_FILES = {1: ("memory.usage_in_bytes", b"total_inactive_file"), 2: ("memory.current", b"inactive_file")}


def find_number(text: bytes, key: bytes) -> int | None:
    """The number on the line "key N"; None: there is none."""
    start = 0
    while (at := text.find(key, start)) >= 0:
        start = at + len(key)
        if (at == 0 or text[at - 1] == 10) and text[start : start + 1] == b" ":
            digits = text[start + 1 :].partition(b"\n")[0]
            return int(digits) if digits.isdigit() else None
    return None


def sum_io(text: bytes) -> tuple[int, int]:
    """Bytes read and written of all devices: io.stat ("8:0 rbytes=1 wbytes=2 …", cgroup-v2.rst), or
    blkio.throttle.io_service_bytes ("8:0 Read 1", blkio-controller.rst).
    """
    read = written = 0
    for line in text.splitlines():
        words = line.replace(b"=", b" ").split()
        for key, value in itertools.pairwise(words):
            if value.isdigit():
                read += int(value) if key in (b"rbytes", b"Read") else 0
                written += int(value) if key in (b"wbytes", b"Write") else 0
    return read, written


class Counters:
    """The open files of one sandbox; at most four.

    Args:
        tree: The supervisor's cgroups.
        number: The sandbox's in them.

    Raises:
        OSError: It is gone, or this process may have no more files open. Nothing is left open.
    """

    def __init__(self, tree: CgroupTree, number: int) -> None:
        self._cpu = self._memory = self._memory_stat = self._pids = -1
        self._directories = tuple(hierarchy.path / f"s{number}" for hierarchy in tree.hierarchies)
        self._cpu_limits = tree.index_of("cpu")
        self._io = tree.index_of("io")
        memory, pids = tree.index_of("memory"), tree.index_of("pids")
        self._inactive = b""
        try:
            if self._directories:
                self._cpu = self._open(0, "cpu.stat")  # of v2, which has it with or without the controller
            if memory is not None:
                name, self._inactive = _FILES[tree.hierarchies[memory].version]
                self._memory = self._open(memory, name)
                self._memory_stat = self._open(memory, "memory.stat")
            if pids is not None:
                self._pids = self._open(pids, "pids.current")
        except BaseException:
            self.close()
            raise

    def _open(self, hierarchy: int, name: str) -> int:
        return os.open(self._directories[hierarchy] / name, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close them; idempotent."""
        for fd in (self._cpu, self._memory, self._memory_stat, self._pids):
            if fd >= 0:
                os.close(fd)
        self._cpu = self._memory = self._memory_stat = self._pids = -1

    @property
    def directory(self) -> Path | None:
        """The sandbox's in cgroup v2, or None."""
        return self._directories[0] if self._directories else None

    def cpu_usec(self) -> int | None:
        """CPU time of every process so far, in microseconds; None: nothing counts it."""
        return None if self._cpu < 0 else find_number(os.pread(self._cpu, _LONGEST, 0), b"usage_usec")

    def memory_bytes(self) -> tuple[int, int] | None:
        """What is charged to the sandbox, and how much of that is not the cache of files that nobody has used lately.

        The kernel frees such cache (inactive_file in memory.stat) before it kills, so the second number is what a limit
        has to be held against; other programs call it the working set. None: nothing counts it.
        """
        if self._memory < 0:
            return None
        charged = int(os.pread(self._memory, 32, 0))
        inactive = find_number(os.pread(self._memory_stat, _LONGEST, 0), self._inactive) or 0
        return charged, max(0, charged - inactive)

    def tasks(self) -> int | None:
        """Processes and threads, nsbox's own among them; None: nothing counts them."""
        return None if self._pids < 0 else int(os.pread(self._pids, 32, 0))

    def throttled(self) -> int:
        """How often the sandbox stood still for its CPU bandwidth; 0 where it has none."""
        return (
            0
            if self._cpu_limits is None
            else find_number(self._read(self._cpu_limits, "cpu.stat"), b"nr_throttled") or 0
        )

    def io_bytes(self) -> tuple[int, int] | None:
        """Read from and written to storage; None: nothing counts it, as without a disk rate limit."""
        for name in ("io.stat", "blkio.throttle.io_service_bytes") if self._io is not None else ():
            with contextlib.suppress(FileNotFoundError):
                return sum_io(self._read(self._io or 0, name))
        return None

    def _read(self, hierarchy: int, name: str) -> bytes:
        fd = self._open(hierarchy, name)
        try:
            return os.pread(fd, _LONGEST, 0)
        finally:
            os.close(fd)
