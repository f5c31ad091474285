"""The metrics of a sandbox: when its counters are looked at, and what is told of them.

Nothing is read, and no file is opened, while nobody would hear of it; and nothing before the first interval has passed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from nsbox._core.part import Part
from nsbox._errors import SetupError
from nsbox._events import DiskFull, MetricsUpdated, ResourceExceeded, ResourceWarning, RuntimeErrorEvent
from nsbox._metrics.programs import NO_PROGRAMS
from nsbox._metrics.reading import Rates, Reader, Sample, cpu_limit, metrics_of, usage_of
from nsbox._metrics.thresholds import find_crossings
from nsbox._metrics.ticker import Turn, current_ticker
from nsbox._plan import disk_slack_bytes
from nsbox._records import ResourceUsage
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_MIB = 1 << 20
_SATURATED = 95.0
"""Percent of the allocation of CPU or bandwidth: a sandbox that was throttled for a moment, and used less, did not lack
any."""
_LIMITS: Mapping[str, float] = {"cpu": _SATURATED, "memory": 100.0, "disk": 100.0, "network": _SATURATED}


@dataclass(slots=True, kw_only=True)
class Timed:
    """A running execution that is to be warned about.

    Attributes:
        started_at: trio's clock.
        stood_still: How long the sandbox had been suspended by then, in seconds, all in all.
        turn: When to look.
    """

    started_at: float
    stood_still: float
    turn: Turn


class Meter(Part):
    """The metrics of one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        config = core.config
        self._core = core
        self._thresholds = {
            "cpu": config.thresholds.cpu_percent,
            "memory": config.thresholds.memory_percent,
            "disk": config.thresholds.disk_percent,
        }
        self._disk_slack = disk_slack_bytes(config)
        self._reader: Reader | None = None
        self._turn: Turn | None = None
        self._ticked: Rates | None = None
        self._asked: Rates | None = None
        self._warned: frozenset[str] = frozenset()
        self._exceeded: frozenset[str] = frozenset()
        self._told_at: dict[str, float] = {}
        self._throttled = 0
        self._refused = 0
        self._refusing = False
        self._timed: dict[str, Timed] = {}
        self._stood_still = 0.0
        self._suspended_at: float | None = None
        self._cpu_before = 0.0
        self._cpu_seconds = 0.0
        self._failed = False

    @property
    def cpu_seconds(self) -> float:
        """CPU time of everything in the sandbox, as far as it was looked at."""
        return self._cpu_before + self._cpu_seconds

    @property
    def looks(self) -> int:
        """How often the counters were read since the sandbox was started or restarted."""
        return 0 if self._reader is None else self._reader.looks

    # ------------------------------------------------------------ the sandbox's life

    def opened(self, supervisor: Supervisor, cell: Cell) -> None:
        self.closed()
        now = trio.current_time()
        self._reader = Reader(supervisor.tree, cell, self._core.network.count)
        self._ticked, self._asked = Rates(now), Rates(now)
        self._throttled = self._refused = 0
        self._refusing = False
        self._suspended_at = None
        self._turn = current_ticker().add(self._core.config.metrics_interval, self._tick)

    def suspended(self) -> None:
        self._suspended_at = trio.current_time()
        sample = self._look()
        for rate in (self._ticked, self._asked):
            if sample is not None and rate is not None:
                rate.restart(sample)

    def resumed(self) -> None:
        if self._suspended_at is not None:
            self._stood_still += trio.current_time() - self._suspended_at
            self._suspended_at = None

    def closed(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            self._cpu_before += self._cpu_seconds
            self._cpu_seconds = 0.0

    async def end(self) -> None:
        self.closed()

    # ------------------------------------------------------------ executions

    def begun(self, execution_id: str) -> None:
        """An execution is on its way."""
        seconds = self._core.config.thresholds.execution_seconds
        if seconds is not None:
            self._timed[execution_id] = Timed(
                started_at=trio.current_time(), stood_still=self._stood_still_by_now(),
                turn=current_ticker().once(seconds, lambda: self._check_time(execution_id, seconds)),
            )  # fmt: skip

    def observed(self, peak_memory_bytes: int, limit_bytes: int, started_at: float) -> None:
        """An execution has ended, whose memory is not enforced: what was too short to be seen is told now.

        Args:
            peak_memory_bytes: Of the whole of it.
            limit_bytes: Its limit.
            started_at: trio's clock.
        """
        if peak_memory_bytes > limit_bytes and "memory" not in self.told_since(started_at):
            self._exceed("memory", peak_memory_bytes / _MIB, limit_bytes / _MIB)

    def told_since(self, at: float) -> Collection[str]:
        """The resources whose excess was told of since then, so that the end of an execution need not tell it again."""
        return [resource for resource, told_at in self._told_at.items() if told_at >= at]

    def ended(self, execution_id: str, *, disk_full: bool) -> None:
        """An execution is over.

        Args:
            execution_id: Which.
            disk_full: Whether its end has told of a full disk, which is not to be told again while it stays so.
        """
        timed = self._timed.pop(execution_id, None)
        if timed is not None:
            timed.turn.cancel()
        if disk_full:
            self._exceeded |= {"disk"}

    def _check_time(self, execution_id: str, seconds: float) -> None:
        timed = self._timed.get(execution_id)
        if timed is None:
            return
        age = trio.current_time() - timed.started_at - (self._stood_still_by_now() - timed.stood_still)
        if age >= seconds:
            self._core.emitter.emit(ResourceWarning, resource="execution", usage=age, limit=seconds)
        else:  # it was suspended meanwhile, or is
            left = max(seconds - age, 0.001) if self._suspended_at is None else self._core.config.metrics_interval
            timed.turn = current_ticker().once(left, lambda: self._check_time(execution_id, seconds))

    def _stood_still_by_now(self) -> float:
        since = 0.0 if self._suspended_at is None else trio.current_time() - self._suspended_at
        return self._stood_still + since

    # ------------------------------------------------------------ looking

    async def usage(self) -> ResourceUsage:
        """What is used now, read now.

        Raises:
            InvalidStateError: The sandbox is not started, or has ended.
            NetworkError: Its PID 1 or the launcher has died.
            SetupError: This process may have no more files open.
        """
        _, cell = self._core.living()
        await trio.lowlevel.checkpoint()
        if cell.lost is not None:
            raise cell.lost
        self._core.living()
        assert self._reader is not None
        assert self._asked is not None
        try:
            sample = self._reader.look(trio.current_time())
        except OSError as exc:
            raise SetupError("metrics", exc.errno or errno.EIO, exc.strerror or "", exc.filename) from exc
        self._note(sample)
        return usage_of(sample, self._asked.look(sample), self._core.config.resources)

    def _look(self) -> Sample | None:
        """A look on our own behalf, whose failure is told as an event, once."""
        if self._reader is None:
            return None
        try:
            sample = self._reader.look(trio.current_time())
        except OSError as exc:
            self._tell_failure(exc)
            return None
        self._failed = False
        self._note(sample)
        return sample

    def _note(self, sample: Sample) -> None:
        totals = self._core.totals
        totals.peak_memory_bytes = max(totals.peak_memory_bytes, sample.charged_bytes)
        self._cpu_seconds = sample.cpu_seconds

    def _tick(self) -> None:
        emitter = self._core.emitter
        if not emitter.active:
            return
        wants_metrics, wants_warnings = emitter.wants(MetricsUpdated), emitter.wants(ResourceWarning)
        wants_excess = emitter.wants(ResourceExceeded) or emitter.wants(DiskFull)
        if not (wants_metrics or wants_warnings or wants_excess):
            return
        sample = self._look()
        if sample is None or self._ticked is None:
            return
        usage = usage_of(sample, self._ticked.look(sample), self._core.config.resources)
        if wants_metrics:
            self._tell_metrics(sample, usage)
        percents = {
            "cpu": 100 * usage.cpu.utilization, "memory": 100 * usage.memory.utilization, "disk": sample.disk_percent
        }  # fmt: skip
        if wants_warnings:
            self._tell_warnings(percents)
        if wants_excess:
            self._tell_excess(sample, usage, percents)

    def _tell_metrics(self, sample: Sample, usage: ResourceUsage) -> None:
        programs = NO_PROGRAMS
        try:
            if self._reader is not None:
                programs = self._reader.look_at_programs(len(self._core.executions.running))
        except OSError as exc:
            self._tell_failure(exc)
        self._core.emitter.emit(MetricsUpdated, metrics=metrics_of(sample, usage, programs))

    def _tell_warnings(self, percents: Mapping[str, float]) -> None:
        self._warned, crossings = find_crossings(self._warned, percents, self._thresholds)
        for crossing in crossings:
            self._core.emitter.emit(
                ResourceWarning, resource=crossing.resource, usage=crossing.usage, limit=crossing.limit
            )

    def _tell_excess(self, sample: Sample, usage: ResourceUsage, percents: Mapping[str, float]) -> None:
        reached = dict(self._reached(sample, percents, usage.network.utilization))
        self._exceeded, crossings = find_crossings(self._exceeded, reached, _LIMITS)
        values = {
            "cpu": (usage.cpu.usage / 100, cpu_limit(self._core.config.resources) / 100),
            "memory": (usage.memory.usage, usage.memory.limit),
            "disk": (usage.disk.usage, usage.disk.limit),
            "network": (usage.network.usage, usage.network.limit),
        }
        for crossing in crossings:
            if crossing.upwards:
                self._exceed(crossing.resource, *values[crossing.resource])
        self._tell_refusals(sample)

    def _tell_refusals(self, sample: Sample) -> None:
        """Of connections, once for a time in which each look finds more of them."""
        refusing = sample.refused_connections > self._refused
        limit = self._core.config.resources.network.connections_limit
        if refusing and not self._refusing and limit is not None:
            self._exceed("network", float(limit + 1), float(limit))
        self._refused, self._refusing = sample.refused_connections, refusing

    def _reached(self, sample: Sample, percents: Mapping[str, float], network: float) -> Iterator[tuple[str, float]]:
        """How near each limit is whose excess is told of here. One of memory that is enforced ends an execution, and is
        told of at that end; one that is not enforced is only told of here.
        """
        saturated = percents["cpu"] >= _SATURATED
        before = self._throttled
        if saturated:
            self._throttled = self._count_throttled()
        if not saturated or self._throttled > before:  # else it used all that it wanted, and what was is left as it is
            yield "cpu", percents["cpu"]
        if not self._core.config.enforcement.enforce_memory_limits:
            yield "memory", percents["memory"]
        # Short of full it is below 100, whatever the rounding; and what is full counts as that.
        full = sample.is_disk_full(self._disk_slack)
        yield "disk", 100.0 if full else min(percents["disk"], 99.0)
        yield "network", 100 * network  # 0 where there is no limit

    def _count_throttled(self) -> int:
        try:
            return 0 if self._reader is None else self._reader.throttled()
        except OSError as exc:
            self._tell_failure(exc)
            return 0

    def _exceed(self, resource: str, usage: float, limit: float) -> None:
        self._told_at[resource] = trio.current_time()
        self._core.emitter.emit(ResourceExceeded, resource=resource, usage=usage, limit=limit)
        if resource == "disk":
            self._core.emitter.emit(DiskFull, usage=usage, limit=limit)

    def _tell_failure(self, exc: OSError) -> None:
        """Once, until a look has succeeded again."""
        if not self._failed:
            self._failed = True
            log.warning("%s: its counters cannot be read: %s", self._core.id, os.strerror(exc.errno or errno.EIO))
            self._core.emitter.emit(RuntimeErrorEvent, error=exc)
