"""Events as rows. Pure; what comes from a program is cut to a length, and everything fits into SQLite's types."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import trio

from nsbox._config import ExecutionOptions, SandboxConfig
from nsbox._records import ResourceMetrics
from nsbox._results import Execution, ExecutionMetrics, ExecutionResult, Verdict
from nsbox._states import SandboxStatus
from nsbox._store.owner import own_identity

_LONGEST = 200
_LARGEST = 2**63 - 1
_METRICS = tuple(field.name for field in dataclasses.fields(ExecutionMetrics))

FIELDS_OF_EXECUTION = (
    "id", "sandbox_id", "code_sha256", "language", "options", "status", "verdict", "exit_code", "signal", "error",
    "truncated", *_METRICS, "created_at", "started_at", "completed_at",
)  # fmt: skip
"""The columns of `executions`, in the order of the table but for those of the metrics."""

_EXECUTION = (
    f"INSERT INTO executions ({', '.join(FIELDS_OF_EXECUTION)}) "  # noqa: S608  # our own names
    f"VALUES ({', '.join('?' * len(FIELDS_OF_EXECUTION))}) ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in FIELDS_OF_EXECUTION[5:])
)
_SANDBOX = "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_STATE = "INSERT INTO states VALUES (?, ?, ?, ?)"
_NEW_STATE = "UPDATE sandboxes SET state = ?, updated_at = ?, ended_at = ? WHERE id = ?"
_METRIC = "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Code:
    """A program's text where its hash belongs: hashing many megabytes is the writer's work, not the supervisor's."""

    text: str

    def digest(self) -> str:
        """SHA-256 of its UTF-8, in hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


Value = str | int | float | None | Code


@dataclass(frozen=True, slots=True)
class Row:
    """One statement that waits to be carried out."""

    statement: str
    values: tuple[Value, ...]

    def ready(self) -> Row:
        """The same with hashes in place of texts."""
        if not any(isinstance(value, Code) for value in self.values):
            return self
        return Row(self.statement, tuple(v.digest() if isinstance(v, Code) else v for v in self.values))


def sandbox_row(sandbox_id: str, config: SandboxConfig, runtime: str, at: datetime) -> tuple[Row, Row]:
    """A sandbox that is about to be started by this process."""
    state, now = SandboxStatus.CREATING.value, at.timestamp()
    values = (
        sandbox_id, os.getpid(), own_identity(), _clean(config.user_id), _clean(runtime), _json(config.tags), state,
        now, now,
    )  # fmt: skip
    return Row(_SANDBOX, values), Row(_STATE, (sandbox_id, now, None, state))


def state_rows(sandbox_id: str, at: datetime, old: SandboxStatus, new: SandboxStatus) -> tuple[Row, Row]:
    """Its state is another."""
    now = at.timestamp()
    ended = now if new is SandboxStatus.TERMINATED else None
    return (
        Row(_STATE, (sandbox_id, now, old.value, new.value)),
        Row(_NEW_STATE, (new.value, now, ended, sandbox_id)),
    )


def execution_started(execution: Execution) -> Row:
    """An execution was sent on its way."""
    return _execution(execution, None, None)


def execution_ended(execution: Execution, error: BaseException | None) -> Row:
    """An execution has ended, or could not be carried out: `error` says why, where there is no result."""
    return _execution(execution, execution.result, error)


def metrics_row(sandbox_id: str, at: datetime, metrics: ResourceMetrics) -> Row:
    """One look at its counters."""
    values = (
        sandbox_id, at.timestamp(), float(metrics.usage.cpu.usage), _fit(metrics.memory_bytes),
        _fit(metrics.disk_bytes), _fit(metrics.processes),
        *(None if value is None else _fit(value) for value in (metrics.sent_bytes, metrics.received_bytes)),
    )  # fmt: skip
    return Row(_METRIC, values)


def _execution(execution: Execution, result: ExecutionResult | None, error: BaseException | None) -> Row:
    metrics = None if result is None else result.metrics
    verdict, name = None, None
    if result is not None:
        verdict = result.verdict.value
        name = None if result.error is None else _clean(result.error.name)
    elif error is not None:
        cancelled = _is_cancellation(error)
        verdict = Verdict.CANCELLED.value if cancelled else None
        name = None if cancelled else type(error).__name__
    return Row(
        _EXECUTION,
        (
            execution.id, execution.sandbox_id, Code(execution.code), execution.language, _options(execution.options),
            execution.status.value, verdict,
            None if result is None else result.exit_code, None if result is None else result.signal, name,
            None if result is None else int(result.truncated),
            *(None if metrics is None else _fit(getattr(metrics, field)) for field in _METRICS),
            execution.created_at.timestamp(), _seconds(execution.started_at), _seconds(execution.completed_at),
        ),
    )  # fmt: skip


def _is_cancellation(error: BaseException) -> bool:
    """Whether its caller gave it up; trio wraps that in a group where several tasks were given up."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _options(options: ExecutionOptions) -> str:
    """What differs from the defaults: of stdin only how much it is, of variables only the names."""
    options = options.without_secrets
    found: dict[str, object] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        default = {} if field.name == "environment" else field.default
        if field.name == "stdin":
            if value:
                found["stdin_length"] = len(value)
        elif value != default:
            found[field.name] = value
    return _json(found)


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), default=_plain, ensure_ascii=True)


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _fit(value: float) -> float | int:
    return min(value, _LARGEST) if isinstance(value, int) else float(value)


def _clean(text: str) -> str:
    """What SQLite takes: UTF-8, without lone surrogates; and not longer than anybody wants to read."""
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
