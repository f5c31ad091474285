"""Tasks and events of the caller's own event loop, trio's or asyncio's: a map's functions run there."""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import trio


class Tasks(ABC):
    """The tasks of one map."""

    def __init__(self) -> None:
        self._cancels: set[Callable[[], object]] = set()

    @abstractmethod
    def start(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a function in a task of its own. It must not raise but when it is cancelled."""

    @abstractmethod
    def wake(self) -> None:
        """Something has happened."""

    @abstractmethod
    async def wait(self) -> None:
        """Until `wake` is called after the last `wait`; cancelled as any other wait."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Where the caller may be cancelled, as in every step of an iteration."""

    def cancel(self) -> None:
        """Cancel all that run, without waiting."""
        for cancel in tuple(self._cancels):
            cancel()

    @abstractmethod
    async def join(self) -> None:
        """Wait until none runs. A cancellation of the caller is told after that."""


class TrioTasks(Tasks):
    """Of the run that this is made in."""

    def __init__(self) -> None:
        super().__init__()
        self._news = trio.Event()

    def start(self, function: Callable[[], Awaitable[None]]) -> None:
        scope = trio.CancelScope()
        self._cancels.add(scope.cancel)

        async def task() -> None:
            try:
                with scope:
                    await function()
            finally:
                self._cancels.discard(scope.cancel)
                self.wake()

        trio.lowlevel.spawn_system_task(task, name="nsbox map", context=contextvars.copy_context())

    def wake(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    async def join(self) -> None:
        with trio.CancelScope(shield=True):
            while self._cancels:
                await self.wait()


class AsyncioTasks(Tasks):
    """Of the loop that this is made in."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks by weak references only
        self._loop = asyncio.get_running_loop()

    def start(self, function: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await function()

        task = self._loop.create_task(run())
        self._tasks.add(task)
        self._cancels.add(task.cancel)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._cancels.discard(task.cancel)
            self.wake()

        task.add_done_callback(done)

    def wake(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def cancel(self) -> None:
        if not self._loop.is_closed():
            super().cancel()

    async def join(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        while self._tasks:
            try:
                await asyncio.wait(tuple(self._tasks))
                await asyncio.sleep(0)  # their callbacks
            except asyncio.CancelledError as exc:
                cancelled = exc  # they are on their way out already
        if cancelled is not None:
            raise cancelled


def tasks_here() -> Tasks:
    """Of the event loop that runs."""
    return TrioTasks() if trio.lowlevel.in_trio_run() else AsyncioTasks()
