"""The states of a sandbox and of an execution, and the one place where a sandbox's state changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from nsbox._errors import InvalidStateError, InvalidStateTransitionError


class SandboxStatus(StrEnum):
    """Where a sandbox is in its life. RUNNING, IDLE and BUSY are the active ones; TERMINATED is final."""

    CREATING = "creating"
    RUNNING = "running"
    IDLE = "idle"
    BUSY = "busy"
    SUSPENDED = "suspended"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    ERROR = "error"


class ExecutionStatus(StrEnum):
    """Where an execution is in its life. FAILED also says that it ended with a verdict that is not OK."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


_S = SandboxStatus
ALLOWED_TRANSITIONS: Mapping[SandboxStatus, frozenset[SandboxStatus]] = MappingProxyType(
    {
        # A creation can be cancelled: TERMINATING.
        _S.CREATING: frozenset({_S.RUNNING, _S.ERROR, _S.TERMINATING}),
        _S.RUNNING: frozenset({_S.IDLE, _S.BUSY, _S.SUSPENDED, _S.TERMINATING, _S.ERROR}),
        _S.IDLE: frozenset({_S.BUSY, _S.SUSPENDED, _S.TERMINATING, _S.ERROR}),
        # No BUSY: a second execution is no transition. SUSPENDED: the freezer stops executions without killing them.
        _S.BUSY: frozenset({_S.IDLE, _S.SUSPENDED, _S.TERMINATING, _S.ERROR}),
        # IDLE, BUSY: resume returns to where it was.
        _S.SUSPENDED: frozenset({_S.RUNNING, _S.IDLE, _S.BUSY, _S.TERMINATING, _S.ERROR}),
        _S.TERMINATING: frozenset({_S.TERMINATED, _S.ERROR}),
        _S.TERMINATED: frozenset(),
        # RUNNING: recovery restarts.
        _S.ERROR: frozenset({_S.TERMINATING, _S.RUNNING}),
    }
)
"""To each state, the states that may follow it. Nothing bypasses this table."""

ACTIVE: frozenset[SandboxStatus] = frozenset({_S.RUNNING, _S.IDLE, _S.BUSY})
"""The states in which a sandbox takes executions."""


def _names(states: frozenset[SandboxStatus] | tuple[SandboxStatus, ...]) -> str:
    """The names of states in the order of the enumeration, for a sentence."""
    return " or ".join(state.value for state in SandboxStatus if state in states) or "nothing, it is final"


_REMEDIES: Mapping[SandboxStatus, str] = MappingProxyType(
    {
        _S.CREATING: "; start it first, by `with` or `start`",
        _S.SUSPENDED: "; `resume` it first",
        _S.TERMINATED: "; it is gone, also by `with`'s end and after a forbidden system call: make a new one",
        _S.ERROR: "; `last_error` says why, and `reset` makes it anew",
    }
)
"""What the caller can do about a state in which nothing goes on, for the end of a sentence."""


class StateMachine:
    """Holds the status of one sandbox and refuses every change that the table does not have.

    Not thread-safe: it belongs to the supervisor's one thread.

    Args:
        observer: Called with the old and the new state after each change. What it raises goes to the caller of `to`;
            the change holds.
    """

    __slots__ = ("_observer", "_status")

    def __init__(self, observer: Callable[[SandboxStatus, SandboxStatus], object] | None = None) -> None:
        self._status = SandboxStatus.CREATING
        self._observer = observer

    def __repr__(self) -> str:
        return f"StateMachine({self._status.value})"

    @property
    def status(self) -> SandboxStatus:
        """The state now."""
        return self._status

    def to(self, new: SandboxStatus) -> None:
        """Change the state.

        Args:
            new: The state to go to.

        Raises:
            InvalidStateTransitionError: The table does not have it, also when `new` is the state already; the state
                is unchanged and the observer was not called.
        """
        old = self._status
        allowed = ALLOWED_TRANSITIONS[old]
        if new not in allowed:
            raise InvalidStateTransitionError(
                f"a sandbox cannot go from {old.value} to {new.value}; from {old.value} it can go to {_names(allowed)}",
                old.value,
                new.value,
            )
        self._status = new
        if self._observer is not None:
            self._observer(old, new)

    def require(self, *allowed: SandboxStatus, action: str) -> None:
        """Check that the sandbox is in one of some states.

        Args:
            allowed: The states in which the action is possible, at least one.
            action: What the caller wants to do, as a verb: "execute", "resume".

        Raises:
            InvalidStateError: The sandbox is in another state; nothing was changed.
        """
        if self._status not in allowed:
            raise InvalidStateError(
                f"cannot {action}: the sandbox is {self._status.value}, and this needs it to be {_names(allowed)}"
                + _REMEDIES.get(self._status, "")
            )
