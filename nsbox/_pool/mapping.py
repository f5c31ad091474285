"""`AsyncPool.map`: a function over items, some at a time, the outcomes in the items' order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Self, TypeVar

import trio

from nsbox._pool.tasks import Tasks, tasks_here
from nsbox._pool.window import Window
from nsbox._sandbox import AsyncSandbox

T = TypeVar("T")
R = TypeVar("R")


class _Work(Generic[T, R]):
    """What goes on in the map's tasks, which know nothing of the iterator: so it can be dropped, and end them."""

    def __init__(
        self,
        acquire: Callable[[], AbstractAsyncContextManager[AsyncSandbox]],
        function: Callable[[AsyncSandbox, T], Awaitable[R]],
        items: Iterator[T],
        window: Window[R],
        tasks: Tasks,
    ) -> None:
        self._acquire = acquire
        self._function = function
        self._items = items
        self.window = window
        self.tasks = tasks
        self.failure: BaseException | None = None
        self.stopped = False

    def stop(self, why: BaseException | None = None) -> None:
        """Begin no more, and cancel what runs."""
        self.stopped = True
        self.failure = self.failure or why
        self.tasks.cancel()
        self.tasks.wake()

    def begin(self) -> None:
        """Begin as many items as may be."""
        while not self.stopped and self.window.has_room:
            try:
                item = next(self._items)
            except StopIteration:
                self.window.exhaust()
            except BaseException as exc:  # noqa: BLE001  # the items' own error: told when all before it are
                self.failure = self.failure or exc
                self.window.exhaust()
            else:
                self._begin(item)

    def _begin(self, item: T) -> None:
        place = self.window.begin()

        async def task() -> None:
            outcome: R | Exception
            try:
                async with self._acquire() as sandbox:
                    outcome = await self._function(sandbox, item)
            except Exception as exc:  # noqa: BLE001  # an item's own error is its outcome
                outcome = exc
            except (trio.Cancelled, asyncio.CancelledError) as exc:
                if not self.stopped:
                    self.stop(exc)
                raise
            except BaseException as exc:  # noqa: BLE001  # KeyboardInterrupt, SystemExit: the caller's
                self.stop(exc)
                return
            self._finish(place, outcome)

        self.tasks.start(task)

    def _finish(self, place: int, outcome: R | Exception) -> None:
        try:
            self.window.put(place, outcome)
            self.begin()
        except Exception as exc:  # noqa: BLE001  # of on_progress
            self.stop(exc)
        self.tasks.wake()


class PoolMap(Generic[T, R]):
    """An async iterator over a map's outcomes, which begins with the first step.

    What the function returns or raises is yielded, in the order of the items; nothing of it ends the iteration.
    Up to twice `concurrency` items are begun beyond the last one whose outcome was taken. Leaving the loop early, and
    cancellation, cancel what runs; with `async with`, or `aclose`, that is awaited.

    Raises:
        InvalidStateError: From the iteration: the pool was closed meanwhile.
    """

    def __init__(
        self,
        acquire: Callable[[], AbstractAsyncContextManager[AsyncSandbox]],
        function: Callable[[AsyncSandbox, T], Awaitable[R]],
        items: Iterable[T],
        concurrency: int,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        self._work: _Work[T, R] | None = None
        self._over = False
        self._arguments = (acquire, function, iter(items), Window[R](items, concurrency, on_progress))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R | Exception:
        if self._over:
            raise StopAsyncIteration
        if self._work is None:
            self._work = _Work(*self._arguments, tasks_here())
        work = self._work
        try:
            await work.tasks.checkpoint()
            work.begin()
            while not work.window.ready or work.stopped:
                if work.stopped or work.window.over:
                    break
                await work.tasks.wait()
            else:
                outcome = work.window.take()
                work.begin()
                return outcome
            if work.failure is not None:
                raise work.failure
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Begin no more, cancel what runs, and wait for that."""
        self._over = True
        if self._work is not None:
            self._work.stop()
            await self._work.tasks.join()

    async def stop(self, why: BaseException) -> None:
        """As `aclose`, but that who iterates is told why."""
        if self._work is not None and not self._over:
            self._work.stop(why)
            await self._work.tasks.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._work is not None and not self._over:
            self._work.stop()
