"""One look at everything that a sandbox uses, and the rates between two looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nsbox._cgroups import CgroupTree
from nsbox._config import ResourceAllocation
from nsbox._metrics.counters import Counters
from nsbox._metrics.programs import NO_PROGRAMS, Programs, ask, list_programs
from nsbox._records import ResourceMetrics, ResourceUsage, Usage
from nsbox._supervisor.cell import Cell

if TYPE_CHECKING:
    from nsbox._network.router import Traffic

_MIB = 1 << 20
_SHORTEST = 0.05
"""Seconds that a rate is taken over at least: the kernel accounts a running process at its ticks, up to 10 ms apart."""
_MEGABITS_PER_BYTE = 8e-6


class Sample(NamedTuple):
    """One look, as it was.

    Attributes:
        at: trio's clock.
        cpu_seconds: Of everything so far.
        charged_bytes: Memory that the kernel has charged to the sandbox.
        memory_bytes: That without the cache of files that nobody has used lately.
        disk_bytes: Written and kept.
        disk_total_bytes: As much as fits.
        disk_inodes: Files and directories.
        disk_total_inodes: As many as fit.
        sent_bytes: By the sandbox, to its port of the router; None: it has none.
        received_bytes: The other way.
        refused_connections: Those above `connections_limit`.
    """

    at: float
    cpu_seconds: float
    charged_bytes: int
    memory_bytes: int
    disk_bytes: int
    disk_total_bytes: int
    disk_inodes: int
    disk_total_inodes: int
    sent_bytes: int | None = None
    received_bytes: int | None = None
    refused_connections: int = 0

    @property
    def disk_percent(self) -> float:
        """Of the quota in bytes or of that in inodes, whichever is nearer to its end."""
        return 100 * max(
            self.disk_bytes / max(1, self.disk_total_bytes), self.disk_inodes / max(1, self.disk_total_inodes)
        )

    def is_disk_full(self, slack_bytes: int) -> bool:
        """Whether no more fits, with so much or less left counting as nothing."""
        return self.disk_total_bytes - self.disk_bytes <= slack_bytes or self.disk_inodes >= self.disk_total_inodes


class Rate(NamedTuple):
    """What is used in a time.

    Attributes:
        cpu_percent: Of one CPU.
        network_mbps: Megabits a second, of the direction that has more, for the limit is one of each direction.
    """

    cpu_percent: float
    network_mbps: float


class _Mark(NamedTuple):
    at: float
    cpu_seconds: float
    sent_bytes: int
    received_bytes: int


class Rates:
    """What is used between looks.

    Args:
        at: When nothing had been used yet; trio's clock.
    """

    __slots__ = ("_before", "_last")

    def __init__(self, at: float) -> None:
        self._before = self._last = _Mark(at, 0.0, 0, 0)

    def look(self, sample: Sample) -> Rate:
        """Since the last look; since the one before that where it was less than 50 ms ago, or over 50 ms."""
        if sample.at - self._last.at >= _SHORTEST:
            self._before, self._last = self._last, _mark(sample)
        before, now = self._before, _mark(sample)
        seconds = max(sample.at - before.at, _SHORTEST)
        passed = max(now.sent_bytes - before.sent_bytes, now.received_bytes - before.received_bytes, 0)
        return Rate(
            100 * max(0.0, sample.cpu_seconds - before.cpu_seconds) / seconds, passed * _MEGABITS_PER_BYTE / seconds
        )

    def restart(self, sample: Sample) -> None:
        """Count from here on."""
        self._before = self._last = _mark(sample)


def _mark(sample: Sample) -> _Mark:
    return _Mark(sample.at, sample.cpu_seconds, sample.sent_bytes or 0, sample.received_bytes or 0)


class Reader:
    """Looks at one sandbox; its files are opened at the first look.

    Args:
        tree: The supervisor's cgroups.
        cell: The sandbox.
        count: What has passed through its port of the router; None: it has none.
    """

    def __init__(self, tree: CgroupTree, cell: Cell, count: Callable[[], Traffic | None]) -> None:
        self._tree = tree
        self._cell = cell
        self._count = count
        self._counters: Counters | None = None
        self.looks = 0

    def close(self) -> None:
        """Close the files; idempotent."""
        if self._counters is not None:
            self._counters.close()
            self._counters = None

    def look(self, now: float) -> Sample:
        """Read the counters: some 10 us, and as much for what is asked of the router where there is a port.

        Args:
            now: trio's clock.

        Raises:
            OSError: The sandbox is gone, or this process may have no more files open.
        """
        self.looks += 1
        counters, cell = self._open(), self._cell
        usec = counters.cpu_usec()
        memory = counters.memory_bytes()
        if memory is None:
            sampled = sum(sampler.memory_now for sampler in cell.samplers)
            memory = sampled, sampled
        disk = os.fstatvfs(cell.quota)
        traffic = self._count()
        return Sample(
            now,
            cell.cpu_seconds if usec is None else usec / 1e6,
            *memory,
            (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk.f_blocks * disk.f_frsize,
            disk.f_files - disk.f_ffree,
            disk.f_files,
            *((traffic.sent_bytes, traffic.received_bytes, traffic.refused_connections) if traffic is not None else ()),
        )

    def throttled(self) -> int:
        """How often the sandbox stood still for its CPU bandwidth. Raises as `look`."""
        return self._open().throttled()

    def look_at_programs(self, running: int) -> Programs:
        """Ask psutil: up to 0.1 ms for a process. Raises as `look`.

        Args:
            running: How many executions are running.
        """
        counters, cell = self._open(), self._cell
        programs = NO_PROGRAMS
        if running:
            if counters.directory is not None:
                programs = ask(list_programs(counters.directory, running))
            else:
                programs = ask(pid for sampler in cell.samplers for pid in sampler.find_programs())
        read, written = counters.io_bytes() or (
            None
            if programs.processes and programs.read_bytes is None
            else cell.read_bytes + (programs.read_bytes or 0),
            None
            if programs.processes and programs.written_bytes is None
            else cell.written_bytes + (programs.written_bytes or 0),
        )
        return Programs(
            processes=programs.processes, threads=programs.threads, open_files=programs.open_files,
            read_bytes=read, written_bytes=written,
        )  # fmt: skip

    def _open(self) -> Counters:
        if self._counters is None:
            self._counters = Counters(self._tree, self._cell.number)
        return self._counters


def cpu_limit(resources: ResourceAllocation) -> float:
    """In percent of one CPU."""
    return resources.cpu.cores * resources.cpu.limit_percent


def usage_of(sample: Sample, rate: Rate, resources: ResourceAllocation) -> ResourceUsage:
    """A look against the limits."""
    bandwidth = None if sample.sent_bytes is None else resources.network.bandwidth_mbps
    return ResourceUsage(
        cpu=Usage(usage=rate.cpu_percent, limit=cpu_limit(resources)),
        memory=Usage(usage=sample.memory_bytes / _MIB, limit=float(resources.memory.limit_mb)),
        disk=Usage(usage=sample.disk_bytes / _MIB, limit=float(resources.disk.quota_mb)),
        network=Usage(usage=rate.network_mbps, limit=float("inf") if bandwidth is None else bandwidth),
    )


def metrics_of(sample: Sample, usage: ResourceUsage, programs: Programs) -> ResourceMetrics:
    """All of it."""
    return ResourceMetrics(
        usage=usage,
        cpu_seconds=sample.cpu_seconds,
        memory_bytes=sample.memory_bytes,
        disk_bytes=sample.disk_bytes,
        disk_inodes=sample.disk_inodes,
        processes=programs.processes,
        threads=programs.threads,
        open_files=programs.open_files,
        read_bytes=programs.read_bytes,
        written_bytes=programs.written_bytes,
        sent_bytes=sample.sent_bytes,
        received_bytes=sample.received_bytes,
    )
