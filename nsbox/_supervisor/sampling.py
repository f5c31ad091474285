"""Limits where there are no cgroups to hold them: psutil looks at the process tree of an execution, now and then.

A degradation, reported in `Sandbox.isolation` and refused by `require=`: between two looks a program can exceed its
memory limit, and CPU time of a process that nobody waited for is lost with it. Each single process is bounded by the
kernel all the same (RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NPROC).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil
import trio

from nsbox._supervisor.start import pid_of
from nsbox._verdict import KillReason

_INTERVAL = 0.05  # seconds; a walk over the children takes about a millisecond each


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Watches one execution.

    Attributes:
        memory_bytes: Its limit.
        cpu_seconds: Its limit, or None.
        kill: Ends it.
        peak_memory_bytes: The most that was seen.
        peak_processes: The most that was seen.
        cpu_seen: CPU time in seconds, the most that was seen.
    """

    memory_bytes: int
    cpu_seconds: float | None
    kill: Callable[[KillReason], Awaitable[None]]
    peak_memory_bytes: int = 0
    peak_processes: int = 0
    cpu_seen: float = 0.0

    async def run(self, pidfd: int) -> None:
        """Look until cancelled, or until it has ended.

        Args:
            pidfd: Of the execution's own init.
        """
        try:
            init = psutil.Process(pid_of(pidfd))
            while True:
                await self._look(init)
                await trio.sleep(_INTERVAL)
        except psutil.NoSuchProcess:
            return

    async def _look(self, init: psutil.Process) -> None:
        memory, cpu, count = 0, 0.0, 0
        for process in init.children(recursive=True):
            try:
                with process.oneshot():
                    memory += process.memory_info().rss
                    times = process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it has just ended
            cpu += times.user + times.system + times.children_user + times.children_system
            count += 1
        own = init.cpu_times()
        cpu += own.children_user + own.children_system  # of orphans that it has reaped
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        self.peak_processes = max(self.peak_processes, count)
        self.cpu_seen = max(self.cpu_seen, cpu)
        if memory > self.memory_bytes:
            await self.kill(KillReason.MEMORY)
        elif self.cpu_seconds is not None and cpu >= self.cpu_seconds:
            await self.kill(KillReason.CPU_TIME)
