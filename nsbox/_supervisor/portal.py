"""The supervisor in a thread of its own, for callers that are not in a trio run: blocking code, and asyncio.

The thread runs trio for as long as the process lives, or until `shutdown`. A call is a task in it; cancelling the
caller (KeyboardInterrupt, a cancelled asyncio task) cancels the task, and the caller goes on when that has cleaned up.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import trio

from nsbox._errors import InvalidStateError
from nsbox._store import close_writers
from nsbox._supervisor.supervisor import stop_current

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_portal: Portal | None = None


class Portal:
    """A trio run in a daemon thread."""

    def __init__(self) -> None:
        self._ready: concurrent.futures.Future[trio.lowlevel.TrioToken] = concurrent.futures.Future()
        self._nursery: trio.Nursery | None = None
        self._owner = os.getpid()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nsbox supervisor", daemon=True)
        self._thread.start()
        self._token = self._ready.result()

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:
            if not self._ready.done():  # no descriptors for its epoll, for example: who waits for it is told
                self._ready.set_exception(exc)
                return
            raise

    @property
    def usable(self) -> bool:
        """False after `shutdown`, and in a child that was forked from the process that made it."""
        return not self._closed and self._owner == os.getpid() and self._thread.is_alive()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ready.set_result(trio.lowlevel.current_trio_token())
            await trio.sleep_forever()

    def submit(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[concurrent.futures.Future[T], trio.CancelScope]:
        """Start a call. Its result goes to the future; a cancelled one has CancelledError."""
        if not self.usable:
            raise InvalidStateError(
                "nsbox was shut down in this process, or the process was forked after its first use"
            )
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        scope = trio.CancelScope()

        async def task() -> None:
            try:
                with scope:
                    future.set_result(await function(*args, **kwargs))
                if not future.done():
                    future.set_exception(concurrent.futures.CancelledError())
            except BaseException as exc:
                if not future.done():
                    future.set_exception(exc)
                if not isinstance(exc, Exception):
                    raise

        def start() -> None:
            assert self._nursery is not None
            self._nursery.start_soon(task)

        self._token.run_sync_soon(start)
        return future, scope

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call and wait. KeyboardInterrupt cancels the call, waits for it, and is raised again."""
        future, scope = self.submit(function, *args, **kwargs)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InvalidStateError("nsbox was shut down during the call") from None
        except BaseException:
            if not future.done():
                self._token.run_sync_soon(scope.cancel)
                concurrent.futures.wait([future])
            raise

    async def call_from_asyncio(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call and wait in an asyncio task, whose cancellation cancels the call and waits for it."""
        future, scope = self.submit(function, *args, **kwargs)
        wrapped = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(wrapped)
        except asyncio.CancelledError:
            self._token.run_sync_soon(scope.cancel)
            while not future.done():
                try:
                    await asyncio.wait([wrapped])
                except asyncio.CancelledError:
                    continue  # once is enough: it is on its way
            if not wrapped.cancelled() and wrapped.done():
                wrapped.exception()  # retrieved, so that asyncio does not log it
            raise

    def run_soon(self, function: Callable[[], Any]) -> None:
        """Call a plain function in the run's thread, without waiting; nothing happens where it has ended."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def close(self) -> None:
        """End the run, every sandbox in it, and the thread."""
        if not self.usable:
            return
        self.call(stop_current)
        self._closed = True
        nursery = self._nursery
        assert nursery is not None
        self._token.run_sync_soon(nursery.cancel_scope.cancel)
        self._thread.join()


def get_portal() -> Portal:
    """This process' portal, made at the first use."""
    global _portal  # noqa: PLW0603 - one a process is what it is
    with _lock:
        if _portal is None or not _portal.usable:
            _portal = Portal()
        return _portal


@atexit.register
def shutdown() -> None:
    """End the supervisor of blocking and asyncio callers, and every sandbox of theirs; the next use starts anew."""
    global _portal
    with _lock:
        portal, _portal = _portal, None
    if portal is not None:
        portal.close()
    close_writers()
