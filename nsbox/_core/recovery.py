"""What is done when something broke: by class of error, with attempts and delays.

A sandbox is lost when its PID 1 or the launcher has died. Then it is ERROR, and comes back with new processes: with its
files where only PID 1 died, without them where the launcher did, whose memory they were in. Nothing is done where the
supervisor was ended on purpose.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from nsbox._core.cleanup import clean_up
from nsbox._core.heartbeat import is_dying
from nsbox._errors import (
    ExecutionError,
    NetworkError,
    ResourceExceededError,
    SecurityViolationError,
)
from nsbox._events import RecoveryAttemptFailed, RecoveryFailed, RecoverySucceeded, RuntimeErrorEvent
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.background import start_soon

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_S = SandboxStatus
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
            await clean_up(core)

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
        if cell.lost is None and (is_dying(cell.pidfd) or supervisor.channel.broken):
            with trio.move_on_after(_DEATH_SECONDS):
                await cell.gone.wait()

    async def _cleanup_and_restart(self) -> None:
        await self.cleanup()
        await self._core.restart()

    async def _restart_execution(self, execution_id: str) -> None:
        result = await self._core.executions.again(execution_id)
        result.raise_for_verdict()
