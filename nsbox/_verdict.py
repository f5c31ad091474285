"""From what the kernel said to the verdict: one pure, total function.

The launcher and the supervisor collect an `Observation`; nothing in it is a byte that the program could write. The
precedence is the one of docs/architecture.md, "Facts, then verdict": the reason for a kill is recorded before the kill,
the first reason wins, and what the program did next (an exit code that imitates a kill, a crash out of a full output)
cannot hide it. `exit_code` and `signal` are what the kernel said, whatever the verdict.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from nsbox._config import FrozenMap
from nsbox._results import ExecutionMetrics, Verdict, signal_name

_MIB = 1 << 20


class KillReason(IntEnum):
    """Why nsbox killed an execution; the values are on the wire, and the launcher in C has the same."""

    NONE = 0
    CANCELLED = 1
    WALL_TIME = 2
    CPU_TIME = 3
    OUTPUT = 4
    MEMORY = 5
    SECURITY = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """The system call for which the filter killed.

    Attributes:
        number: Its number in `architecture`.
        name: Its name; empty where the number has none.
        architecture: The name of the architecture it was made for, which need not be the host's.
        arguments: The raw values of its arguments, never what they point to.
    """

    number: int
    name: str
    architecture: str
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All facts about an ended execution, from the kernel and from nsbox itself.

    Attributes:
        wait_status: As wait(2) gave it for the main process.
        reason: What nsbox killed for; NONE where the main process had ended before the kill.
        violation: The first call in the execution's tree that the filter killed for.
        oom_kills: OOM kills in the tree (memory.events).
        processes_refused: Forks refused (pids.events).
        quota_full: Whether the disk quota, in bytes or inodes, was full at the end.
        bytes_dropped: Output beyond the output limit; nothing else counts here.
        wall_seconds: Wall clock, without the time suspended.
        cpu_seconds: CPU time of the tree.
        user_seconds: The part in user mode.
        system_seconds: The part in the kernel.
        peak_memory_bytes: The most in use at one time, from the cgroup; 0 where unknown.
        process_count_peak: The most processes at one time.
        read_bytes: Read from storage.
        written_bytes: Written to storage.
        max_rss_bytes: The largest resident set of a single process (getrusage(2)).
        memory_limit_bytes: The limit in force; 0: none.
        cgroup_mode: How the host's cgroups are used; "none": there are no counters, memory was sampled.
        compiler: Whether it was the compiler that ended, and not the program: without a program to run.
        wall_limit_seconds: The limit, for the evidence; so are the following. None: not limited, or not known.
        cpu_limit_seconds: Of CPU time.
        output_limit_bytes: Of stdout and stderr together.
        process_limit: Of processes.
        disk_limit_bytes: Of all that can be written.
        file_size_limit_bytes: Of a single file.
    """

    wait_status: int
    reason: KillReason
    violation: Violation | None
    oom_kills: int
    processes_refused: int
    quota_full: bool
    bytes_dropped: int
    wall_seconds: float
    cpu_seconds: float
    user_seconds: float
    system_seconds: float
    peak_memory_bytes: int
    process_count_peak: int
    read_bytes: int
    written_bytes: int
    max_rss_bytes: int
    memory_limit_bytes: int
    cgroup_mode: str
    compiler: bool = False
    wall_limit_seconds: float | None = None
    cpu_limit_seconds: float | None = None
    output_limit_bytes: int | None = None
    process_limit: int | None = None
    disk_limit_bytes: int | None = None
    file_size_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        # Nothing else than an end may get here: "stopped" and "continued" have 0x7f and 0xff in the low byte.
        if not 0 <= self.wait_status <= 0xFFFF or self.wait_status & 0x7F == 0x7F:
            raise ValueError(f"wait_status={self.wait_status:#x}: must be that of a process that has ended")
        object.__setattr__(self, "reason", KillReason(self.reason))

    @property
    def exit_code(self) -> int | None:
        """The exit code of the main process; None where a signal ended it."""
        return None if self.signal is not None else self.wait_status >> 8

    @property
    def signal(self) -> int | None:
        """The signal that ended the main process; None where it exited."""
        return self.wait_status & 0x7F or None

    @property
    def memory_sampled(self) -> bool:
        """Whether memory is known from samples and rusage only."""
        return self.cgroup_mode == "none"

    @property
    def memory_peak_bytes(self) -> int:
        """The peak of the tree, or the best substitute: without a counter, the largest single process."""
        return max(self.peak_memory_bytes, self.max_rss_bytes) if self.memory_sampled else self.peak_memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on.

    Attributes:
        verdict: Why the execution ended.
        exit_code: As the kernel said, whatever the verdict; None where a signal ended it.
        signal: As the kernel said, whatever the verdict; None where it exited.
        evidence: The facts, as described at `judge`.
    """

    verdict: Verdict
    exit_code: int | None
    signal: int | None
    evidence: Mapping[str, object]

    @property
    def ok(self) -> bool:
        """Whether the verdict is OK."""
        return self.verdict is Verdict.OK


_KILLED_FOR: Mapping[KillReason, Verdict] = FrozenMap(
    {
        KillReason.CANCELLED: Verdict.CANCELLED,
        KillReason.WALL_TIME: Verdict.WALL_TIME_LIMIT,
        KillReason.CPU_TIME: Verdict.CPU_TIME_LIMIT,
        KillReason.OUTPUT: Verdict.OUTPUT_LIMIT,
        KillReason.MEMORY: Verdict.MEMORY_LIMIT,
        KillReason.SECURITY: Verdict.SECURITY_VIOLATION,
    }
)


def judge(observation: Observation) -> Judgement:
    """Decide the verdict. Pure, and total: every observation has exactly one.

    The evidence has, of the following, what there is to say:

    - `cause`: which rule decided, one of "killed", "filter", "oom_kill", "rss_at_limit", "output_dropped",
      "processes_refused", "quota_full", "file_size", "signal", "exit".
    - `resource`, `usage`, `limit`, `unit`: for a verdict about a limit, in the unit of its configuration field
      ("seconds", "MiB", "processes"); `usage` and `limit` only where they are known.
    - `killed_for`: what nsbox killed for, such as "wall_time". `signal_name`: such as "SIGKILL".
    - `syscall`, `syscall_number`, `syscall_architecture`, `syscall_arguments`: the call that the filter killed for.
    - `oom_kills`, `processes_refused`, `quota_full`, `bytes_dropped`: the counters that are not zero, also of a program
      that went on and ended well.
    - `memory_source`: "sampled" or "cgroup", for MEMORY_LIMIT. `cgroup_mode`: always.
    - `compiler_verdict`: for COMPILE_ERROR, what the verdict about a program would be that ended like the compiler.

    Args:
        observation: The facts.
    """
    verdict, cause = _decide(observation)
    if cause == "killed" and observation.reason is KillReason.MEMORY and observation.oom_kills > 0:
        cause = "oom_kill"  # the kernel killed one, and nsbox the rest of the tree (cgroup v1)
    evidence = {"cause": cause, **dict(_limit(verdict, cause, observation)), **dict(_facts(verdict, observation))}
    if observation.compiler and verdict is not Verdict.CANCELLED:
        evidence["compiler_verdict"] = verdict.value
        verdict = Verdict.COMPILE_ERROR
    return Judgement(
        verdict=verdict, exit_code=observation.exit_code, signal=observation.signal, evidence=FrozenMap(evidence)
    )


def _decide(seen: Observation) -> tuple[Verdict, str]:  # noqa: C901 - a decision table is a list of conditions
    """The rules, in their order; the first that applies decides."""
    if seen.reason is not KillReason.NONE:
        return _KILLED_FOR[seen.reason], "killed"
    # The launcher records every kill of the filter. A SIGSYS without a record is one that the program sent itself.
    if seen.violation is not None:
        return Verdict.SECURITY_VIOLATION, "filter"
    if seen.oom_kills > 0:  # anywhere in the tree, even if the main process then exits 0
        return Verdict.MEMORY_LIMIT, "oom_kill"
    # More than the limit was written, and whether the kill came before the program's own end was a race: the verdict
    # must not depend on who won it. Also what a full output is mistaken for otherwise, a death by SIGPIPE.
    if seen.bytes_dropped > 0:
        return Verdict.OUTPUT_LIMIT, "output_dropped"
    if seen.exit_code == 0:
        return Verdict.OK, "exit"
    if seen.memory_sampled and 0 < seen.memory_limit_bytes <= seen.max_rss_bytes:
        return Verdict.MEMORY_LIMIT, "rss_at_limit"
    if seen.processes_refused > 0:
        return Verdict.PROCESS_LIMIT, "processes_refused"
    if seen.quota_full:
        return Verdict.DISK_LIMIT, "quota_full"
    if seen.signal == signals.SIGXFSZ:  # RLIMIT_FSIZE, setrlimit(2)
        return Verdict.DISK_LIMIT, "file_size"
    if seen.signal is not None:
        return Verdict.SIGNALED, "signal"
    return Verdict.NONZERO_EXIT, "exit"


def _limit(verdict: Verdict, cause: str, seen: Observation) -> Iterator[tuple[str, object]]:
    """The limit that a verdict is about, and how much was used of it."""
    match verdict:
        case Verdict.WALL_TIME_LIMIT:
            return _entries("wall_time", seen.wall_seconds, seen.wall_limit_seconds, "seconds")
        case Verdict.CPU_TIME_LIMIT:
            return _entries("cpu_time", seen.cpu_seconds, seen.cpu_limit_seconds, "seconds")
        case Verdict.MEMORY_LIMIT:
            return _entries("memory", _mib(seen.memory_peak_bytes), _mib(seen.memory_limit_bytes or None), "MiB")
        case Verdict.OUTPUT_LIMIT:
            limit = seen.output_limit_bytes
            usage = None if limit is None else limit + max(seen.bytes_dropped, 0)
            return _entries("output", _mib(usage), _mib(limit), "MiB")
        case Verdict.PROCESS_LIMIT:
            return _entries("processes", seen.process_count_peak, seen.process_limit, "processes")
        case Verdict.DISK_LIMIT:
            # Full means that as much as the limit was in use; nothing measures what the program wanted on top.
            size = _mib(seen.file_size_limit_bytes if cause == "file_size" else seen.disk_limit_bytes)
            return _entries("disk", size, size, "MiB")
        case _:
            return iter(())


def _entries(resource: str, usage: float | None, limit: float | None, unit: str) -> Iterator[tuple[str, object]]:
    yield "resource", resource
    if usage is not None:
        yield "usage", usage
    if limit is not None:
        yield "limit", limit
    yield "unit", unit


def _mib(size: int | None) -> float | None:
    return None if size is None else size / _MIB


def _facts(verdict: Verdict, seen: Observation) -> Iterator[tuple[str, object]]:
    """What was observed, as far as it says something."""
    if seen.reason is not KillReason.NONE:
        yield "killed_for", seen.reason.name.lower()
    if seen.signal is not None:
        yield "signal_name", signal_name(seen.signal)
    if seen.violation is not None:
        yield "syscall", seen.violation.name or f"unknown_{seen.violation.number}"
        yield "syscall_number", seen.violation.number
        yield "syscall_architecture", seen.violation.architecture
        yield "syscall_arguments", tuple(seen.violation.arguments)
    for name in ("oom_kills", "processes_refused", "bytes_dropped"):
        if getattr(seen, name) > 0:
            yield name, getattr(seen, name)
    if seen.quota_full:
        yield "quota_full", True
    if verdict is Verdict.MEMORY_LIMIT:
        yield "memory_source", "sampled" if seen.memory_sampled else "cgroup"
    yield "cgroup_mode", seen.cgroup_mode


def execution_metrics(
    observation: Observation, *, queued_seconds: float = 0.0, suspended_seconds: float = 0.0
) -> ExecutionMetrics:
    """The metrics of an ended execution.

    Args:
        observation: The facts.
        queued_seconds: From the call to the start.
        suspended_seconds: The time in the freezer.
    """
    return ExecutionMetrics(
        wall_seconds=observation.wall_seconds,
        cpu_seconds=observation.cpu_seconds,
        user_seconds=observation.user_seconds,
        system_seconds=observation.system_seconds,
        peak_memory_bytes=observation.memory_peak_bytes,
        process_count_peak=observation.process_count_peak,
        read_bytes=observation.read_bytes,
        written_bytes=observation.written_bytes,
        queued_seconds=queued_seconds,
        suspended_seconds=suspended_seconds,
    )
