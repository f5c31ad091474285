"""Whether PID 1 of a sandbox is there and answers, and what happens when it does not.

Executions need no PID 1 that answers: it only reaps. But one that is silent for good lets dead processes pile up until
the sandbox's number of processes is reached, and its ports are dead; so it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from nsbox._core.part import Part
from nsbox._core.timers import current_timers
from nsbox._errors import NetworkError, SandboxError
from nsbox._events import Connected, Disconnected, HeartbeatFailed, ReconnectFailed
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.start import pid_of
from nsbox._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

NORMAL, BROKEN = 1000, 1006
"""Codes of `Disconnected`, RFC 6455, 7.4.1."""

_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 10.0
_EXITING = 0x4
"""PF_EXITING in the flags of proc_pid_stat(5)."""
_PATIENCE = 3
"""So much longer is waited for a PID 1 that is alive and runnable: its sandbox may have used up its CPU time for now
(cpu.max: a period is 0.1 s), or be at its memory limit, where each page fault waits for memory to be reclaimed."""


class Heartbeat(Part):
    """The pings of one sandbox. No task of its own: a timer, and an answer that is handed in.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._interval = core.config.heartbeat_interval
        self._wait = min(max(self._interval, _SHORTEST_WAIT), _LONGEST_WAIT)
        self._supervisor: Supervisor | None = None
        self._cell: Cell | None = None
        self._connected = False
        self._suspended = False
        self._asked: int | None = None
        self._reconnecting: trio.CancelScope | None = None

    # ------------------------------------------------------------ the sandbox's life

    def opened(self, supervisor: Supervisor, cell: Cell) -> None:
        self._supervisor, self._cell = supervisor, cell
        self._suspended = False
        cell.control.on_closed = self._note_closed
        if cell.control.open:
            self._note_connected()
        else:
            self._begin_to_reconnect(NetworkError("the control channel was closed at once"))

    def suspended(self) -> None:
        self._suspended = True
        self._stop()

    def resumed(self) -> None:
        self._suspended = False
        if self._connected:
            self._schedule()
        elif self._cell is not None:
            self._begin_to_reconnect(NetworkError("the control channel broke while the sandbox was suspended"))

    def closed(self) -> None:
        cell, supervisor = self._cell, self._supervisor
        if cell is None or supervisor is None:
            return
        self._stop()  # while it is known whose answer is not to come any more
        self._cell = None
        cell.control.on_closed = None
        if self._connected:
            self._connected = False
            if cell.lost is None or supervisor.stopping:
                self._core.emitter.emit(Disconnected, code=NORMAL, reason="the processes of the sandbox end")
            else:
                self._core.emitter.emit(Disconnected, code=BROKEN, reason=str(cell.lost))

    def _stop(self) -> None:
        current_timers().cancel(self)
        self._forget()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            self._reconnecting = None

    # ------------------------------------------------------------ pings

    def _schedule(self) -> None:
        current_timers().set(self, self._interval, self._ping)

    def _forget(self) -> None:
        if self._asked is not None and self._cell is not None:
            self._cell.control.forget(self._asked)
        self._asked = None

    def _ping(self) -> None:
        assert self._cell is not None
        try:
            self._asked = self._cell.control.ask(self._note_answer, op="ping")
        except NetworkError as exc:
            if self._connected and not is_dying(self._cell.pidfd):  # else it was told already, or is about to be
                self._fail(exc)
            return
        current_timers().set(self, self._wait, self._note_late)

    def _note_answer(self, answer: dict[str, Any] | NetworkError, _: object) -> None:
        self._asked = None
        if not isinstance(answer, NetworkError):  # else the channel is closed, of which `_note_closed` is told
            self._schedule()

    def _note_late(self) -> None:
        """No answer in time, which alone says nothing: the kernel is asked what PID 1 does."""
        assert self._cell is not None
        if is_dying(self._cell.pidfd):
            return  # the launcher is about to say so, and `closed` follows
        if self._is_frozen():
            self._forget()
            self._schedule()
        elif _stat(self._cell.pidfd)[:1] in (["T"], ["t"]):
            self._fail(NetworkError(f"the sandbox's PID 1 did not answer within {self._wait:g} s, it is stopped"))
        else:
            current_timers().set(self, self._wait * _PATIENCE, self._note_silent)

    def _note_silent(self) -> None:
        assert self._cell is not None
        if is_dying(self._cell.pidfd):
            return
        if self._is_frozen():
            self._forget()
            self._schedule()
            return
        total = self._wait * (1 + _PATIENCE)
        self._fail(NetworkError(f"the sandbox's PID 1 is alive and did not answer within {total:g} s"))

    def _is_frozen(self) -> bool:
        """Whether `suspend` is under way, or somebody else has frozen the sandbox."""
        assert self._cell is not None
        assert self._supervisor is not None
        tree = self._supervisor.tree
        for hierarchy, base in zip(tree.hierarchies, tree.dirfds, strict=True):
            if hierarchy.version == 2:
                with contextlib.suppress(OSError):
                    fd = os.open(f"s{self._cell.number}/cgroup.freeze", os.O_RDONLY | os.O_CLOEXEC, dir_fd=base)
                    try:
                        return os.read(fd, 16).strip() == b"1"
                    finally:
                        os.close(fd)
        return False

    # ------------------------------------------------------------ the channel breaks, and is mended

    def _note_connected(self) -> None:
        self._connected = True
        self._core.emitter.emit(Connected)
        if not self._suspended:
            self._schedule()

    def _note_closed(self, reason: NetworkError) -> None:
        """End of file, or nonsense. Where PID 1 is dead, the launcher is about to say so."""
        if self._cell is not None and self._connected and not is_dying(self._cell.pidfd):
            self._begin_to_reconnect(reason)

    def _fail(self, error: NetworkError) -> None:
        self._core.emitter.emit(HeartbeatFailed, error=error)
        self._begin_to_reconnect(error)

    def _begin_to_reconnect(self, error: NetworkError) -> None:
        assert self._cell is not None
        self._stop()
        if self._connected:
            self._connected = False
            self._core.emitter.emit(Disconnected, code=BROKEN, reason=str(error))
        self._core.last_error = error
        self._cell.control.close(error)
        if self._core.config.recovery.auto_recover and not self._suspended:
            self._reconnecting = start_soon(self._reconnect, self._cell, error)

    async def connect(self) -> None:
        """Make sure of a channel that PID 1 answers on: the one there is, or a new one.

        Raises:
            NetworkError: It does not, or the launcher or PID 1 has died.
            SetupError: The kernel refused a new one.
        """
        cell = self._cell
        if cell is None:
            raise NetworkError("the sandbox has no processes to be connected to")
        if self._connected and not self._suspended:
            with contextlib.suppress(NetworkError):
                await cell.control.ping(self._wait)
                return
        async with self._core.changing:
            if cell is not self._cell:
                raise NetworkError("the sandbox got new processes meanwhile")
            await cell.connect()
            if self._suspended:  # PID 1 takes it when it goes on
                self._note_reconnected()
                return
        await cell.control.ping(self._wait)
        if cell is self._cell:
            self._note_reconnected()

    def _note_reconnected(self) -> None:
        if self._connected:
            self._core.emitter.emit(Disconnected, code=BROKEN, reason="the control channel was replaced")
        self._stop()
        self._core.last_error = None
        self._note_connected()

    async def _reconnect(self, cell: Cell, error: NetworkError) -> None:
        policy = self._core.config.recovery
        failure: Exception = NetworkError("recovery.max_retries allows no attempt")
        for attempt in range(1, policy.max_retries + 1):
            try:
                await self.connect()
            except SandboxError as exc:
                failure = exc
            else:
                return
            if attempt < policy.max_retries:
                await trio.sleep(policy.retry_delay * policy.backoff_factor ** (attempt - 1))
        if cell is not self._cell or cell.lost is not None:
            return
        self._reconnecting = None
        self._core.emitter.emit(ReconnectFailed, original_error=error, reconnect_error=failure)
        cell.give_up(NetworkError(f"the sandbox's PID 1 could not be reached any more, and was ended: {failure}"))


def is_dying(pidfd: int) -> bool:
    """Whether the process has ended or is about to: who exits closes his descriptors first, and PID 1 then waits until
    all of its sandbox is dead before its own end is told (pid_namespaces(7)).
    """
    if pidfd < 0:
        return True
    fields = _stat(pidfd)
    if fields and int(fields[6]) & _EXITING:
        return True
    poll = select.poll()  # behind the look: what was gone then is told now
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _stat(pidfd: int) -> list[str]:
    """proc_pid_stat(5), from the state on; [] where it cannot be seen."""
    try:
        return Path(f"/proc/{pid_of(pidfd)}/stat").read_text().rpartition(")")[2].split()
    except (OSError, StopIteration):
        return []
