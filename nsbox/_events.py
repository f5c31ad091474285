"""What happens to a sandbox, as data: one frozen dataclass an event.

`name` is the class's name in snake_case. `find_event` takes that, the class itself, and the camelCase names of the
design that nsbox follows ("executionStarted").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

from nsbox._config import FrozenMap
from nsbox._errors import ConfigError
from nsbox._records import ExposedPort, FileInfo, ResourceMetrics
from nsbox._results import Execution, ExecutionResult
from nsbox._states import SandboxStatus


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all of them have.

    Attributes:
        sandbox_id: Whose.
        at: When; aware, UTC.
    """

    name: ClassVar[str] = "event"

    sandbox_id: str
    at: datetime

    def __init_subclass__(cls) -> None:
        cls.name = _snake(cls.__name__)


# ------------------------------------------------------------------ lifecycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(Event):
    """Its namespaces, limits and PID 1 are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """It takes executions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended(Event):
    """Every process of it stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Its processes go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated(Event):
    """Nothing of it is left. The last event of a sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """Its status is another.

    Attributes:
        old_state: The one of before.
        new_state: The one since.
    """

    old_state: SandboxStatus
    new_state: SandboxStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """The control channel to its PID 1 is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """The control channel to its PID 1 is closed.

    Attributes:
        code: 1000: on purpose, as with `terminate`; 1006: it broke (the numbers of RFC 6455, 7.4.1).
        reason: One sentence.
    """

    code: int
    reason: str


# ------------------------------------------------------------------ execution


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionStarted(Event):
    """An execution was sent on its way.

    Attributes:
        execution: The record, RUNNING.
    """

    execution: Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOutput(Event):
    """A program wrote something.

    Attributes:
        execution_id: Which.
        stream: "stdout" or "stderr".
        content: As UTF-8, with U+FFFD for what is not; never cut inside of a character.
    """

    execution_id: str
    stream: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionCompleted(Event):
    """An execution ended with the verdict OK.

    Attributes:
        execution: The record, COMPLETED.
        result: What it did.
    """

    execution: Execution
    result: ExecutionResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFailed(Event):
    """An execution could not be carried out, or its verdict is not OK.

    Attributes:
        execution: The record, FAILED; `execution.result` has the result where there is one.
        error: What was raised, or what `raise_for_verdict` would raise.
    """

    execution: Execution
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionTimeout(Event):
    """A time limit ended an execution. Comes before its `ExecutionFailed`.

    Attributes:
        execution_id: Which.
        timeout: The limit, in seconds.
    """

    execution_id: str
    timeout: float


# ------------------------------------------------------------------ resources


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsUpdated(Event):
    """The counters were looked at.

    Attributes:
        metrics: What they said.
    """

    metrics: ResourceMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceWarning(Event):  # noqa: A001  # the contract's name; the built-in is a category of warnings
    """A threshold was crossed, upwards where `usage` is at or above `limit`, else downwards; once per crossing.

    Attributes:
        resource: "cpu", "memory", "disk" or "execution".
        usage: In percent of the allocation; of "execution" in seconds.
        limit: The threshold, in the same unit.
    """

    resource: str
    usage: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceExceeded(Event):
    """A limit was reached.

    Attributes:
        resource: "cpu", "memory", "disk", "output", "processes" or "network".
        usage: In the unit of the limit's field of the configuration.
        limit: In the same unit.
    """

    resource: str
    usage: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Event):
    """The disk quota is reached, in bytes or in inodes.

    Attributes:
        usage: MiB.
        limit: MiB.
    """

    usage: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRefused(Event):
    """A program has asked for a name that it may not have resolved; each name once in 10 s, at most 100 names.

    Attributes:
        domain: The name, in lower case, without a final dot.
    """

    domain: str


# ------------------------------------------------------------------ errors and recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeErrorEvent(Event):
    """Something failed that no caller is told of by an exception: an event handler, a task in the background.

    Attributes:
        error: What was raised.
    """

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityViolation(Event):
    """The system call filter killed an execution.

    Attributes:
        violation: The name of the system call.
        severity: "critical": the filter kills only for what nothing but an attack does.
    """

    violation: str
    severity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatFailed(Event):
    """PID 1 did not answer.

    Attributes:
        error: Why not, as far as is known.
    """

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectFailed(Event):
    """The control channel could not be opened again.

    Attributes:
        original_error: Why it had to be.
        reconnect_error: Why it could not.
    """

    original_error: BaseException
    reconnect_error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySucceeded(Event):
    """The sandbox is usable again.

    Attributes:
        strategy: "reconnect", "cleanup_and_restart" or "restart_execution".
        attempt: The one that did it, from 1.
    """

    strategy: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryAttemptFailed(Event):
    """One attempt failed.

    Attributes:
        strategy: As in `RecoverySucceeded`.
        attempt: Which, from 1.
        error: Why.
    """

    strategy: str
    attempt: int
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFailed(Event):
    """No attempt is left.

    Attributes:
        strategy: As in `RecoverySucceeded`.
    """

    strategy: str


# ------------------------------------------------------------------ files, environment, ports


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUploaded(Event):
    """A file was written by `upload_file` or `write_file`.

    Attributes:
        file_info: The file.
    """

    file_info: FileInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDownloaded(Event):
    """A file was read by `download_file`.

    Attributes:
        path: In the sandbox.
        size: Bytes.
    """

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDeleted(Event):
    """A file or directory was removed by `delete_file`.

    Attributes:
        path: In the sandbox.
    """

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentUpdated(Event):
    """A variable was set.

    Attributes:
        key: Its name.
        value: Its value.
    """

    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentBatchUpdated(Event):
    """Several variables were set at once.

    Attributes:
        variables: Names and values.
    """

    variables: FrozenMap[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentDeleted(Event):
    """A variable was removed.

    Attributes:
        key: Its name.
    """

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortExposed(Event):
    """A port can be reached from outside.

    Attributes:
        exposed_port: Where.
    """

    exposed_port: ExposedPort


@dataclass(frozen=True, slots=True, kw_only=True)
class PortClosed(Event):
    """A port can be reached no more.

    Attributes:
        port: In the sandbox.
    """

    port: int


# ------------------------------------------------------------------ of the stream of events itself


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Event):
    """Only from `events()`: the reader was too slow, and the oldest events are gone.

    Attributes:
        count: How many, since the last one that was read.
    """

    count: int


EVENTS: Mapping[str, type[Event]] = MappingProxyType(
    {
        kind.name: kind
        for kind in tuple(globals().values())  # Event.__subclasses__() would have those of before slots=True, too
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, EventsLost)
    }
)
"""All that `on` can name, by name."""

_OTHER_NAMES = {"runtime_error": "runtime_error_event", "timeout_error": "execution_timeout"}
"""What the design that nsbox follows calls them beside the names of its classes."""


def find_event(event: str | type[Event]) -> type[Event]:
    """The class of an event.

    Args:
        event: The class, or its name in snake_case or camelCase. `Event` itself stands for all.

    Raises:
        ConfigError: There is none of that name.
    """
    if isinstance(event, type) and issubclass(event, Event):
        return event
    if isinstance(event, str):
        name = _snake(event)
        found = EVENTS.get(_OTHER_NAMES.get(name, name))
        if found is not None:
            return found
    raise ConfigError(f"event={event!r}: must be a class of nsbox.Event, or one of {', '.join(sorted(EVENTS))}")
