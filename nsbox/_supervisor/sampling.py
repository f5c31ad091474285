"""Limits where there are no cgroups to hold them: psutil looks at the process tree of an execution, now and then.

A degradation, reported in `Sandbox.isolation` and refused by `require=`: between two looks a program can exceed its
memory limit, and CPU time of a process that nobody waited for is lost with it. Each single process is bounded by the
kernel all the same (RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NPROC).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio

from nsbox._errors import SetupError
from nsbox._supervisor.start import pid_of
from nsbox._verdict import KillReason

_INTERVAL = 0.05  # seconds; a look takes 0.1 ms and more for each process
_BLIND_SECONDS = 1.0
_FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What may be over soon."""
_KNOWS_CHILDREN = os.path.exists("/proc/thread-self/children")
"""Else all processes of the host are looked at for those below one: CONFIG_PROC_CHILDREN."""


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Watches one execution.

    Attributes:
        memory_bytes: Its limit, or None.
        cpu_seconds: Its limit, or None.
        group: The base directory of this supervisor's cgroups, where there are some: they tell who belongs to it.
        kill: Ends it.
        peak_memory_bytes: The most that was seen.
        peak_processes: The most that was seen.
        cpu_seen: CPU time in seconds, the most that was seen.
        memory_now: As it was at the last look.
        pids: The processes of the last look.
        first: The process that the launcher knows.
    """

    memory_bytes: int | None
    cpu_seconds: float | None
    group: Path | None
    kill: Callable[[KillReason], Awaitable[None]]
    peak_memory_bytes: int = 0
    peak_processes: int = 0
    cpu_seen: float = 0.0
    memory_now: int = 0
    pids: tuple[int, ...] = ()
    first: int = 0

    async def run(self, pidfd: int) -> None:
        """Look until cancelled, or until it has ended.

        Args:
            pidfd: Of the execution's first process.

        Raises:
            SetupError: For a second nothing could be seen, for want of descriptors, say: no limit would hold.
        """
        where: psutil.Process | Path | None = None
        blind_since: float | None = None
        while True:
            reason = None
            try:
                if where is None:
                    where = self._find(pidfd)
                reason = self._look(where)
                blind_since = None
            except (psutil.NoSuchProcess, FileNotFoundError):
                return
            except OSError as exc:
                if exc.errno not in _FOR_NOW:
                    raise
                blind_since = trio.current_time() if blind_since is None else blind_since
                if trio.current_time() - blind_since > _BLIND_SECONDS:
                    raise SetupError("sampling", exc.errno, exc.strerror or "", "of a program that has limits") from exc
            if reason is not None:
                await self.kill(reason)
            await trio.sleep(_INTERVAL)

    def _find(self, pidfd: int) -> psutil.Process | Path:
        self.first = pid_of(pidfd)
        if self.first <= 0:
            raise FileNotFoundError(self.first)  # it has ended
        return psutil.Process(self.first) if self.group is None else _procs_file(self.first, self.group)

    def find_programs(self) -> list[int]:
        """Of the processes of the last look, those that are the program's: not the init that was put above them."""
        found = []
        for pid in self.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).ppid() != self.first:
                    found.append(pid)
        return found

    def _look(self, where: psutil.Process | Path) -> KillReason | None:
        """Measure. What the execution has exceeded, if anything."""
        memory, cpu, count = 0, 0.0, 0
        if isinstance(where, Path):
            processes = _living(_members(where))
        else:
            processes = _living(_descendants(self.first)) if _KNOWS_CHILDREN else where.children(recursive=True)
            own = where.cpu_times()
            cpu = own.children_user + own.children_system  # of orphans that were reaped
        for process in processes:
            try:
                with process.oneshot():
                    memory += process.memory_info().rss
                    times = process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it has just ended
            cpu += times.user + times.system + times.children_user + times.children_system
            count += 1
        self.memory_now = memory
        self.pids = tuple(process.pid for process in processes)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        self.peak_processes = max(self.peak_processes, count)
        self.cpu_seen = max(self.cpu_seen, cpu)
        if self.memory_bytes is not None and memory > self.memory_bytes:
            return KillReason.MEMORY
        return KillReason.CPU_TIME if self.cpu_seconds is not None and cpu >= self.cpu_seconds else None


def _descendants(pid: int) -> list[int]:
    """All below a process; proc_tid_children(5): those of one that ends meanwhile may be missing."""
    found, left = [], [pid]
    while left:
        pid = left.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    left += (children := [int(one) for one in file.read().split()])
                    found += children
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def _procs_file(pid: int, base: Path) -> Path:
    """The list of the processes of the execution that `pid` belongs to."""
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        path = next((line[3:].strip() for line in file if line.startswith("0::")), "")
    _, found, below = path.partition(f"/{base.name}/")
    if not found:
        raise FileNotFoundError(path)
    return base / below / "cgroup.procs"


def _members(procs: Path) -> list[int]:
    try:
        return [int(line) for line in procs.read_text().split()]
    except OSError as exc:
        if exc.errno == errno.ENODEV:  # removed while it is read
            raise FileNotFoundError(procs) from exc
        raise


def _living(pids: list[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found
