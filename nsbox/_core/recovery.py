"""What is done when something broke: by class of error, with attempts and delays.

A sandbox is lost when its PID 1 or the launcher has died. Then it is ERROR, and comes back with new processes: with its
files where only PID 1 died, without them where the launcher did, whose memory they were in. Nothing is done where the
supervisor was ended on purpose.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from nsbox._config import ExecutionOptions
from nsbox._core.heartbeat import is_dead
from nsbox._core.output import OutputSink
from nsbox._core.sweep import empty
from nsbox._errors import (
    ExecutionError,
    NetworkError,
    ResourceExceededError,
    SecurityViolationError,
    SetupError,
)
from nsbox._events import RecoveryAttemptFailed, RecoveryFailed, RecoverySucceeded, RuntimeErrorEvent
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_execution
from nsbox._supervisor.start import pid_of

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_S = SandboxStatus
_SWEPT = (("tmp", "/tmp"), ("shm", "/dev/shm"))  # noqa: S108  # in the quota, and in the sandbox
_RELAPSE_SECONDS = 5.0
"""What breaks again so soon was not mended: its attempts go on counting, else it would go on for ever."""
_DEATH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Strategy:
    """What is tried.

    Attributes:
        name: As events have it.
        attempts: At most; the policy's max_retries bounds it, too.
        act: One attempt; raises where it failed.
    """

    name: str
    attempts: int
    act: Callable[[], Awaitable[object]]


class Recovery:
    """The recovery of one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._policy = core.config.recovery
        self._scope: trio.CancelScope | None = None
        self._done = trio.Event()
        self._attempt = 0
        self._recovered_at = float("-inf")

    # ------------------------------------------------------------ what callers ask for

    async def recover(self, error: Exception) -> bool:
        """Do what can be done about an error. See `AsyncSandbox.recover_from_error`."""
        if not self._policy.auto_recover:
            return False
        await self.wait()
        strategy = self._find_strategy(error)
        return strategy is not None and await self._carry_out(strategy) > 0

    async def reconnect(self) -> None:
        """Have a sandbox with a PID 1 that answers. See `AsyncSandbox.reconnect`."""
        await self.wait()
        await self._reconnect()

    async def cleanup(self) -> None:
        """Remove what programs have left. See `AsyncSandbox.cleanup`."""
        core = self._core
        async with core.changing:
            core.machine.require(*ACTIVE, _S.SUSPENDED, action="clean up")
            _, cell = core.living()
            if not core.executions.running:
                _kill_leftovers(core.id, cell)
            await self._empty(cell)

    # ------------------------------------------------------------ in the background

    def begin(self, error: NetworkError) -> None:
        """The sandbox is lost: try to get it back, beside its callers."""
        if self._policy.auto_recover and self._scope is None:
            self._done = trio.Event()
            self._scope = start_soon(self._work, error)

    async def stop(self) -> None:
        """End what goes on in the background; none is no error."""
        if self._scope is not None:
            self._scope.cancel()
            await self._done.wait()

    async def wait(self) -> None:
        """Until nothing goes on in the background."""
        if self._scope is not None:
            await self._done.wait()

    async def _work(self, error: NetworkError) -> None:
        try:
            log.warning("%s: lost, and to be recovered: %s", self._core.id, error)
            soon = trio.current_time() < self._recovered_at + _RELAPSE_SECONDS
            strategy = self._find_strategy(error)
            assert strategy is not None
            self._attempt = await self._carry_out(strategy, first=self._attempt + 1 if soon else 1)
            if self._attempt:
                self._recovered_at = trio.current_time()
        except Exception as exc:
            self._core.last_error = exc
            self._core.emitter.emit(RuntimeErrorEvent, error=exc)
            raise
        finally:
            self._scope = None
            self._done.set()

    # ------------------------------------------------------------ strategies

    def _find_strategy(self, error: Exception) -> Strategy | None:
        if isinstance(error, NetworkError):
            return Strategy("reconnect", 3, self._reconnect)
        if isinstance(error, ResourceExceededError):
            return Strategy("cleanup_and_restart", 2, self._cleanup_and_restart)
        if isinstance(error, SecurityViolationError):
            return None  # what attacks is not run again, and its sandbox is terminated
        if isinstance(error, ExecutionError):
            failed = error.execution_id
            return Strategy("restart_execution", 1, lambda: self._restart_execution(failed))
        return None

    async def _carry_out(self, strategy: Strategy, first: int = 1) -> int:
        """The number of the attempt that succeeded; 0: none."""
        core, policy = self._core, self._policy
        most = min(strategy.attempts, policy.max_retries)
        for attempt in range(first, most + 1):
            try:
                await strategy.act()
            except Exception as exc:  # noqa: BLE001  # whatever it was, it failed, and is told
                if core.status in (_S.TERMINATING, _S.TERMINATED):
                    return 0
                if core.status is _S.ERROR:
                    core.last_error = exc
                core.emitter.emit(RecoveryAttemptFailed, strategy=strategy.name, attempt=attempt, error=exc)
            else:
                core.emitter.emit(RecoverySucceeded, strategy=strategy.name, attempt=attempt)
                return attempt
            if attempt < most:
                await trio.sleep(policy.retry_delay * policy.backoff_factor ** (attempt - 1))
        core.emitter.emit(RecoveryFailed, strategy=strategy.name)
        return 0

    async def _reconnect(self) -> None:
        core = self._core
        await self._wait_for_the_death()
        async with core.changing:
            core.machine.require(*ACTIVE, _S.SUSPENDED, _S.ERROR, action="reconnect")
            if core.status is _S.ERROR:
                await core.remake()
                return
        await core.heartbeat.connect()

    async def _wait_for_the_death(self) -> None:
        """An execution is told that PID 1 has died a moment before the sandbox is."""
        core = self._core
        if core.status not in ACTIVE and core.status is not _S.SUSPENDED:
            return
        supervisor, cell = core.living()
        if cell.lost is None and (is_dead(cell.pidfd) or supervisor.channel.broken):
            with trio.move_on_after(_DEATH_SECONDS):
                await cell.gone.wait()

    async def _cleanup_and_restart(self) -> None:
        await self.cleanup()
        await self._core.restart()

    async def _restart_execution(self, execution_id: str) -> None:
        result = await self._core.executions.again(execution_id)
        result.raise_for_verdict()

    # ------------------------------------------------------------ emptying

    async def _empty(self, cell: Cell) -> None:
        supervisor, _ = self._core.living()
        if supervisor.ids.count > 1 and not supervisor.ids.ranges:
            await empty_from_inside(self._core, cell)  # the files belong to subordinate ids, which are not the caller's
            return
        for name, path in _SWEPT:
            await empty(cell.quota, name, path, self._kept_below(path))

    def _kept_below(self, path: str) -> frozenset[str]:
        """Where the working directory, or a mount, is below a directory that is emptied: the first name on the way."""
        config = self._core.config
        targets = (config.working_directory, *(mount.target for mount in config.mounts))
        below = [target.removeprefix(path).strip("/") for target in targets if target.startswith(f"{path}/")]
        return frozenset(one.split("/")[0] for one in below)


async def empty_from_inside(core: SandboxCore, cell: Cell) -> None:
    """As `empty`, by a program in the sandbox, whose user the files belong to. No execution of the caller's: no events.

    Raises:
        SandboxError: It could not be run, or has not done it.
    """
    words = " ".join(
        f"-path {path}/{name} -prune -o" for _, path in _SWEPT for name in sorted(core.recovery._kept_below(path))
    )
    script = (
        "find /tmp /dev/shm -type d ! -perm -700 -exec chmod u+rwx {} + 2>/dev/null; "
        f"find /tmp /dev/shm -mindepth 1 -maxdepth 1 {words} -exec rm -rf -- {{}} +"
    )
    options = ExecutionOptions(working_directory="/", capture_output=False)
    argv = ("/bin/sh", "-c", script)
    running = core.executions.new_command(argv, options)
    outcome = await run_execution(
        cell, core.executions.order(running, argv, None, ""), OutputSink(core.emitter, running.execution.id, None)
    )
    if outcome.observation.wait_status:
        raise SetupError("cleanup", 5, f"the command that empties it ended with {outcome.observation.wait_status:#x}")


def _kill_leftovers(sandbox_id: str, cell: Cell) -> None:
    """What would have outlived its execution would be PID 1's child. There is none: an execution is over when its whole
    tree is dead. Looked at all the same, for what this is called is a promise.
    """
    with contextlib.suppress(OSError, StopIteration):
        init = pid_of(cell.pidfd)
        for pid in map(int, Path(f"/proc/{init}/task/{init}/children").read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[1]) == init and fields[0] != "Z":  # still the one that was found
                        log.error("%s: process %d has outlived its execution, and is killed", sandbox_id, pid)
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)
