"""What the end of an execution is told as."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from nsbox._core.emitter import Emitter
from nsbox._errors import (
    ExecutionError,
    ExecutionTimeoutError,
    ResourceExceededError,
    SandboxError,
    SecurityViolationError,
)
from nsbox._events import (
    DiskFull,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionTimeout,
    ResourceExceeded,
    RuntimeErrorEvent,
    SecurityViolation,
)
from nsbox._results import Execution, ExecutionResult


def verdict_error(result: ExecutionResult) -> ExecutionError | None:
    """What `raise_for_verdict` would raise; None for OK."""
    try:
        result.raise_for_verdict()
    except ExecutionError as exc:
        return exc
    return None


def is_quota_full(result: ExecutionResult) -> bool:
    """Whether it failed for a full disk, and not for the size of one file."""
    return result.evidence.get("cause") == "quota_full"


def announce(
    emitter: Emitter,
    execution: Execution,
    result: ExecutionResult | None,
    error: BaseException | None,
    told: Collection[str] = (),
) -> None:
    """Emit what an execution has come to: the cause first, then that it is over.

    Args:
        emitter: Of the sandbox.
        execution: The record of before the end.
        result: What it did; None where it could not be carried out.
        error: What was raised in that case, else None.
        told: The resources whose excess was told of while it ran; a full disk among them is not told again.
    """
    if not emitter.active:
        return
    ended = execution.ended(datetime.now(UTC), result)
    error = error if result is None else verdict_error(result)
    if isinstance(error, ExecutionTimeoutError):
        emitter.emit(ExecutionTimeout, execution_id=execution.id, timeout=error.timeout)
    elif isinstance(error, ResourceExceededError):
        full = is_quota_full(error.result)
        if not (full and "disk" in told):
            emitter.emit(ResourceExceeded, resource=error.resource, usage=error.usage, limit=error.limit)
            if full:
                emitter.emit(DiskFull, usage=error.usage, limit=error.limit)
    elif isinstance(error, SecurityViolationError):
        emitter.emit(SecurityViolation, violation=error.violation, severity=error.severity)
    elif isinstance(error, Exception) and not isinstance(error, SandboxError):
        emitter.emit(RuntimeErrorEvent, error=error)  # no class that is known: a bug, or a subscriber's
    if error is not None:
        emitter.emit(ExecutionFailed, execution=ended, error=error)
    elif result is not None:
        emitter.emit(ExecutionCompleted, execution=ended, result=result)
