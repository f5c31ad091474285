"""What comes back: verdict, result, metrics, and the records of executions and sandboxes.

All frozen data. Nothing here decides a verdict (that is `_verdict.judge`), and nothing here is decided by the program:
its output and its reported error are carried as opaque data.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from nsbox._config import ExecutionOptions, FrozenMap
from nsbox._config.frozen import freeze, shown
from nsbox._errors import ExecutionError, ExecutionTimeoutError, ResourceExceededError, SecurityViolationError
from nsbox._outputs import CodeError, RichOutput, plain
from nsbox._states import ExecutionStatus


class Verdict(StrEnum):
    """Why an execution ended; the first cause wins."""

    OK = "ok"  # exit code 0 within all limits
    NONZERO_EXIT = "nonzero_exit"  # exited by itself, exit_code != 0 (an uncaught exception too)
    SIGNALED = "signaled"  # died of a signal nsbox did not send
    CPU_TIME_LIMIT = "cpu_time_limit"
    WALL_TIME_LIMIT = "wall_time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROCESS_LIMIT = "process_limit"
    DISK_LIMIT = "disk_limit"
    SECURITY_VIOLATION = "security_violation"  # killed by the syscall filter
    COMPILE_ERROR = "compile_error"
    CANCELLED = "cancelled"  # terminate_execution(), terminate(), or the caller's cancel scope


_TIME_LIMITS = frozenset({Verdict.WALL_TIME_LIMIT, Verdict.CPU_TIME_LIMIT})
_RESOURCES: Mapping[Verdict, str] = FrozenMap(
    {
        Verdict.MEMORY_LIMIT: "memory",
        Verdict.OUTPUT_LIMIT: "output",
        Verdict.PROCESS_LIMIT: "processes",
        Verdict.DISK_LIMIT: "disk",
    }
)


def signal_name(number: int) -> str:
    """The name of a signal, "SIG<number>" where it has none, such as a real-time signal."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIG{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionMetrics:
    """What an execution used, measured from outside: cgroup counters, rusage, and the supervisor's monotonic clock.

    Attributes:
        wall_seconds: From start to end, without the time suspended.
        cpu_seconds: Of the whole process tree; user and system together. Of short runs only this sum is exact.
        user_seconds: The part in user mode.
        system_seconds: The part in the kernel.
        peak_memory_bytes: The most in use at one time.
        process_count_peak: The most processes and threads at one time.
        read_bytes: Read from storage.
        written_bytes: Written to storage.
        queued_seconds: From the call to the start.
        suspended_seconds: The time in the freezer.
    """

    wall_seconds: float
    cpu_seconds: float
    user_seconds: float
    system_seconds: float
    peak_memory_bytes: int
    process_count_peak: int
    read_bytes: int
    written_bytes: int
    queued_seconds: float
    suspended_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExecutionResult:
    """What one execution did. An outcome that is not OK is data too; `raise_for_verdict` makes an exception of it.

    Attributes:
        execution_id: The execution.
        verdict: Why it ended.
        exit_code: 0 to 255 as the kernel said, whatever the verdict; None where a signal ended it.
        signal: The signal that ended it as the kernel said, whatever the verdict; None where it exited.
        stdout_bytes: What it wrote, up to the output limit.
        stderr_bytes: The same for stderr.
        truncated: Whether there was more output than that.
        outputs: What it displayed, in contexts.
        error: The uncaught error, where the runtime reports one.
        metrics: What it used; None with `capture_metrics=False`.
        evidence: What the kernel said that led to the verdict; the keys are described at `_verdict.judge`.
    """

    execution_id: str
    verdict: Verdict
    exit_code: int | None
    signal: int | None
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""
    truncated: bool = False
    outputs: Sequence[RichOutput] = ()
    error: CodeError | None = None
    metrics: ExecutionMetrics | None = None
    evidence: Mapping[str, object] = field(default_factory=FrozenMap)
    # Decoded at the first use: a caller that reads bytes never pays, one that reads text in a loop pays once.
    _stdout: str | None = field(default=None, init=False, compare=False)
    _stderr: str | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", tuple(self.outputs))
        object.__setattr__(self, "evidence", freeze(self.evidence))

    @property
    def stdout(self) -> str:
        """`stdout_bytes` as UTF-8, with U+FFFD for what is not."""
        if self._stdout is None:
            object.__setattr__(self, "_stdout", self.stdout_bytes.decode("utf-8", "replace"))
        return self._stdout or ""

    @property
    def stderr(self) -> str:
        """`stderr_bytes` as UTF-8, with U+FFFD for what is not."""
        if self._stderr is None:
            object.__setattr__(self, "_stderr", self.stderr_bytes.decode("utf-8", "replace"))
        return self._stderr or ""

    @property
    def status(self) -> ExecutionStatus:
        """COMPLETED for OK, else FAILED, so that the status and the event that goes with it always say the same.

        The design that nsbox follows sets COMPLETED where it emits executionCompleted, and FAILED where it emits
        executionFailed, and here ExecutionFailed is emitted for every verdict that is not OK. Whether the program
        ended by itself is what the verdict is for.
        """
        return ExecutionStatus.COMPLETED if self.ok else ExecutionStatus.FAILED

    @property
    def ok(self) -> bool:
        """Whether the verdict is OK."""
        return self.verdict is Verdict.OK

    def __repr__(self) -> str:
        parts = [self.verdict.name]
        if self.exit_code is not None:
            parts.append(f"exit_code={self.exit_code}")
        if self.signal is not None:
            parts.append(f"signal={signal_name(self.signal)}")
        parts += [f"stdout={shown(self.stdout_bytes)}", f"stderr={shown(self.stderr_bytes)}"]
        if self.truncated:
            parts.append("truncated")
        if self.error is not None:
            parts.append(f"error={shown(self.error.name)}")
        if self.metrics is not None:
            parts.append(f"wall_seconds={self.metrics.wall_seconds:.3f}")
        return f"<ExecutionResult {self.execution_id}: {', '.join(parts)}>"

    def raise_for_verdict(self) -> Self:
        """Return self if the verdict is OK.

        Raises:
            ExecutionTimeoutError: WALL_TIME_LIMIT or CPU_TIME_LIMIT.
            ResourceExceededError: MEMORY_LIMIT, OUTPUT_LIMIT, PROCESS_LIMIT or DISK_LIMIT.
            SecurityViolationError: SECURITY_VIOLATION.
            ExecutionError: Every other verdict. All of them carry this result as `.result`.
        """
        if self.ok:
            return self
        message, limit = self._sentence(), self._number("limit")
        if self.verdict in _TIME_LIMITS:
            raise ExecutionTimeoutError(message, self, limit)
        if self.verdict in _RESOURCES:
            raise ResourceExceededError(message, self, _RESOURCES[self.verdict], self._number("usage"), limit)
        if self.verdict is Verdict.SECURITY_VIOLATION:
            raise SecurityViolationError(message, self, str(self.evidence.get("syscall", "unknown")), "critical")
        raise ExecutionError(message, self)

    def _number(self, name: str) -> float:
        value = self.evidence.get(name)
        return float(value) if isinstance(value, (int, float)) else math.nan

    def _sentence(self) -> str:
        """What happened, for the message of an exception."""
        facts = [] if self.exit_code is None else [f"exit code {self.exit_code}"]
        if self.signal is not None:
            facts.append(signal_name(self.signal))
        if "limit" in self.evidence:
            facts.append(f"limit {self._number('limit'):.12g} {self.evidence.get('unit', '')}".rstrip())
        if "syscall" in self.evidence:
            facts.append(f"system call {self.evidence['syscall']}")
        if self.error is not None:
            facts.append(f"{shown(self.error.name)[1:-1]}: {shown(self.error.value)}")
        return f"execution {self.execution_id} ended with {self.verdict.value} ({', '.join(facts) or 'no exit status'})"

    def to_dict(self) -> dict[str, object]:
        """Everything as what JSON knows: dicts, lists, strings, numbers, bools and None.

        Output is text, with U+FFFD for what is not UTF-8, and then also exact as `stdout_base64` or `stderr_base64`.
        Binary payloads of `outputs` are base64, as in Jupyter.
        """
        return {
            "execution_id": self.execution_id,
            "status": self.status.value,
            "verdict": self.verdict.value,
            "ok": self.ok,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "signal_name": None if self.signal is None else signal_name(self.signal),
            **_text_and_bytes("stdout", self.stdout, self.stdout_bytes),
            **_text_and_bytes("stderr", self.stderr, self.stderr_bytes),
            "truncated": self.truncated,
            "outputs": [{"data": plain(item.data), "is_main_result": item.is_main_result} for item in self.outputs],
            "error": None if self.error is None else dataclasses.asdict(self.error),
            "metrics": None if self.metrics is None else dataclasses.asdict(self.metrics),
            "evidence": plain(self.evidence),
        }


def _text_and_bytes(name: str, text: str, raw: bytes) -> dict[str, object]:
    """The text, and the bytes themselves where the text does not say it all."""
    # U+FFFD in valid UTF-8 is rare enough that comparing only then costs nothing on the usual path.
    exact = "\ufffd" not in text or text.encode() == raw
    return {name: text} if exact else {name: text, f"{name}_base64": base64.b64encode(raw).decode("ascii")}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Execution:
    """One execution, as it was at one moment: a change makes a new record, so that what an event carries stays true.

    Attributes:
        id: The execution.
        sandbox_id: Its sandbox.
        code: What was run; for a command, its argv quoted for a shell.
        language: The runtime's name, or "command".
        options: How it was run.
        status: Where it is in its life.
        result: What it did, when it has ended.
        created_at: When it was asked for; aware.
        started_at: When its program was started; aware.
        completed_at: When it ended; aware.
    """

    id: str
    sandbox_id: str
    code: str
    language: str
    options: ExecutionOptions
    status: ExecutionStatus = ExecutionStatus.PENDING
    result: ExecutionResult | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def __post_init__(self) -> None:
        _require_aware(self.created_at, self.started_at, self.completed_at)

    def __repr__(self) -> str:
        return f"<Execution {self.id}: {self.status.value}, {self.language}, code={shown(self.code)}>"

    @property
    def metrics(self) -> ExecutionMetrics | None:
        """What it used, when it has ended."""
        return None if self.result is None else self.result.metrics

    def started(self, at: datetime) -> Execution:
        """The record after its program was started."""
        return dataclasses.replace(self, status=ExecutionStatus.RUNNING, started_at=at)

    def ended(self, at: datetime, result: ExecutionResult | None) -> Execution:
        """The record after its end.

        Args:
            at: When; aware.
            result: What it did; None where it could not be carried out.
        """
        status = ExecutionStatus.FAILED if result is None else result.status
        return dataclasses.replace(self, status=status, result=result, completed_at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxMetadata:
    """What is known about a sandbox beside its configuration, as it was at one moment.

    Attributes:
        created_at: When it was made; aware.
        last_active_at: When its state last changed or an execution last began or ended; aware.
        total_executions: Executions so far.
        total_cpu_time: Seconds, of all of them.
        total_memory_used: The peak so far, in bytes.
        total_disk_used: Now, in bytes.
        tags: As configured.
        environment: The variables that the next execution gets.
    """

    created_at: datetime
    last_active_at: datetime
    total_executions: int = 0
    total_cpu_time: float = 0.0
    total_memory_used: int = 0
    total_disk_used: int = 0
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    environment: Mapping[str, str] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        _require_aware(self.created_at, self.last_active_at)
        object.__setattr__(self, "tags", FrozenMap(self.tags))
        object.__setattr__(self, "environment", FrozenMap(self.environment))


def _require_aware(*times: datetime | None) -> None:
    """Refuse times without a zone: comparing one with an aware time raises, far from here."""
    for time in times:
        if time is not None and time.tzinfo is None:
            raise ValueError(f"{time!r}: must have a time zone")
