"""From the launcher's record of an execution to what is known of it."""

from __future__ import annotations

import os

from nsbox._cgroups import CounterSlot
from nsbox._seccomp import abi_name, syscall_name
from nsbox._supervisor import wire
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.order import Order
from nsbox._supervisor.sampling import Sampler
from nsbox._verdict import KillReason, Observation, Violation


def observe(cell: Cell, order: Order, record: wire.Record, dropped: int, sampler: Sampler) -> Observation:
    """All facts about an execution, from its record and from what was seen here."""

    def count(slot: CounterSlot) -> int:
        value = record.counters[slot]
        return 0 if value == wire.UNKNOWN else value

    bounds = order.bounds
    user, system = record.user_us, record.system_us
    cpu_us = count(CounterSlot.CPU_USEC)
    if cpu_us:
        user, system = count(CounterSlot.USER_USEC), count(CounterSlot.SYSTEM_USEC)
    return Observation(
        wait_status=record.wait_status,
        reason=KillReason(record.reason),
        violation=_violation(record),
        oom_kills=count(CounterSlot.OOM_KILLS),
        processes_refused=_refused(cell, record),
        quota_full=_quota_full(cell, bounds.disk_slack_bytes),
        bytes_dropped=dropped,
        wall_seconds=record.wall_ns / 1e9,
        cpu_seconds=max(cpu_us / 1e6 or (user + system) / 1e6, sampler.cpu_seen),
        user_seconds=user / 1e6,
        system_seconds=system / 1e6,
        peak_memory_bytes=max(count(CounterSlot.MEMORY_PEAK), sampler.peak_memory_bytes),
        process_count_peak=max(count(CounterSlot.PIDS_PEAK), sampler.peak_processes),
        read_bytes=record.read_bytes,
        written_bytes=record.written_bytes,
        max_rss_bytes=record.max_rss_bytes,
        memory_limit_bytes=bounds.memory_bytes if bounds.enforce_memory else 0,
        cgroup_mode="none" if bounds.sampled else bounds.cgroup_mode,
        wall_limit_seconds=order.plan.wall_ns / 1e9,
        cpu_limit_seconds=bounds.cpu_seconds,
        output_limit_bytes=bounds.output_bytes,
        process_limit=bounds.process_limit,
        disk_limit_bytes=bounds.disk_bytes,
        file_size_limit_bytes=bounds.file_size_bytes,
    )


def _violation(record: wire.Record) -> Violation | None:
    if record.violation_number < 0 and not record.violation_arch:
        return None
    number, arch = record.violation_number, record.violation_arch
    return Violation(
        number=number, name=syscall_name(number, arch), architecture=abi_name(number, arch),
        arguments=record.violation_args,
    )  # fmt: skip


def _refused(cell: Cell, record: wire.Record) -> int:
    """Forks refused: by the execution's own limit, or else by the sandbox's, which several executions share."""
    own = record.counters[CounterSlot.PIDS_REFUSED]
    shared = record.counters[CounterSlot.SANDBOX_PIDS_REFUSED]
    before, cell.refused_before = cell.refused_before, 0 if shared == wire.UNKNOWN else shared
    if own not in (0, wire.UNKNOWN):
        return own
    return 0 if shared == wire.UNKNOWN else max(0, shared - before)


def _quota_full(cell: Cell, slack: int) -> bool:
    if cell.quota < 0:
        return False
    found = os.fstatvfs(cell.quota)
    return found.f_bavail * found.f_frsize <= slack or found.f_favail == 0
