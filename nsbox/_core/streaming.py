"""An execution whose output somebody iterates over while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from nsbox._config import ExecutionOptions
from nsbox._core.core import SandboxCore
from nsbox._core.output import OutputQueue
from nsbox._errors import InvalidStateError
from nsbox._events import Event
from nsbox._results import ExecutionResult
from nsbox._supervisor.background import start_soon


class Streaming:
    """The supervisor's side of an `ExecutionStream`; its methods are for the supervisor's run.

    Args:
        core: The sandbox.
        program: Program text for `execute`, or an argv for `run`.
        options: How.
    """

    def __init__(self, core: SandboxCore, program: str | Sequence[str], options: ExecutionOptions) -> None:
        self._core = core
        self._program = program
        self._options = options
        self._queue = OutputQueue()
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._failure: Exception | None = None
        self.result: ExecutionResult | None = None

    async def next(self) -> Event | None:
        """The next event; the first call starts the execution. None: `result` is there.

        Raises:
            SandboxError: As `execute`.
        """
        if self._scope is None:
            self._scope = start_soon(self._work)
        event = await self._queue.get()
        if event is not None:
            return event
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        return None

    async def _work(self) -> None:
        self._failure = InvalidStateError("the execution was cancelled: its stream was closed, or the supervisor ended")
        try:
            if isinstance(self._program, str):
                self.result = await self._core.executions.execute(self._program, self._options, self._queue)
            else:
                self.result = await self._core.executions.run(self._program, self._options, self._queue)
            self._failure = None
        except Exception as exc:  # noqa: BLE001  # it is raised where somebody waits
            self._failure = exc
        finally:
            self._queue.close()
            self._ended.set()

    def cancel(self) -> None:
        """End the execution, if it runs; plain, and harmless at any time."""
        if self._scope is not None:
            self._scope.cancel()
        self._queue.discard()

    async def close(self) -> None:
        """End the execution and wait for that. Not cancelled."""
        self.cancel()
        if self._scope is not None:
            with trio.CancelScope(shield=True):
                await self._ended.wait()
        self._queue.close()
        self._ended.set()
