"""Where event handlers run: never in the middle of what the sandbox does, one after the other, in the events' order.

A run of handlers is started with the first event that waits and ends with the last, so that there is nothing to stop.
What a handler raises is logged and reported as `RuntimeErrorEvent`, and harms nobody.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import trio

from nsbox._events import Event, RuntimeErrorEvent

log = logging.getLogger("nsbox")

Handler = Callable[..., Any]


class Handlers(ABC):
    """The handlers of one sandbox, where its caller lives.

    Args:
        report: Emits an event.
    """

    def __init__(self, report: Callable[..., None]) -> None:
        self._report = report
        self._waiting: deque[tuple[Handler, Event]] = deque()
        self._lock = threading.Lock()
        self._running = False

    def deliver(self, handler: Handler, event: Event) -> None:
        """Have it called; in the supervisor's run, without waiting."""
        with self._lock:
            self._waiting.append((handler, event))
            if self._running:
                return
            self._running = True
        try:
            self._start()
        except RuntimeError:  # its event loop is closed: nobody is left to be told
            with self._lock:
                self._waiting.clear()
                self._running = False

    @abstractmethod
    def _start(self) -> None:
        """Start a run over what waits."""

    def _next(self) -> tuple[Handler, Event] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running = False
            return None

    async def _run(self) -> None:
        while (one := self._next()) is not None:
            handler, event = one
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is reported
                self._failed(event, exc)

    def _failed(self, event: Event, error: Exception) -> None:
        log.error("a handler of %s failed", event.name, exc_info=error)
        if not isinstance(event, RuntimeErrorEvent):  # its own handler fails: once is enough
            self._report(RuntimeErrorEvent, error=error)


class TrioHandlers(Handlers):
    """In a task of the run that the sandbox lives in."""

    def _start(self) -> None:
        trio.lowlevel.spawn_system_task(self._run, name="nsbox event handlers")


class HasLoop(Protocol):
    """Knows an event loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Of asyncio; None: not used yet."""


class AsyncioHandlers(Handlers):
    """In a task of the caller's event loop.

    Args:
        report: Emits an event; from the loop's thread.
        caller: Has the loop that the sandbox was last used in, as `loop`.
    """

    def __init__(self, report: Callable[..., None], caller: HasLoop) -> None:
        super().__init__(report)
        self._caller = caller
        self._references: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks by weak references only

    def _start(self) -> None:
        if self._caller.loop is not None:
            self._caller.loop.call_soon_threadsafe(self._start_task)

    def _start_task(self) -> None:
        task = asyncio.get_running_loop().create_task(self._run())
        self._references.add(task)
        task.add_done_callback(self._references.discard)


class ThreadHandlers(Handlers):
    """In a thread of their own, so that they may call the sandbox, and wait. Those that are async run in trio there."""

    def __init__(self, report: Callable[..., None]) -> None:
        super().__init__(report)
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="nsbox event handlers", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (one := self._next()) is not None:
            handler, event = one
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    trio.run(_wait, result)
            except Exception as exc:  # noqa: BLE001  # the same
                self._failed(event, exc)

    def wait(self, seconds: float) -> None:
        """Wait until all have been called that were to be, unless this is one of them."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)


async def _wait(result: Any) -> None:
    await result
