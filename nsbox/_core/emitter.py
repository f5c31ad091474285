"""Events from where they happen to who wants them: handlers, readers, the log.

An event is delivered where it happens, in the supervisor's run, by appending it to queues: nothing here waits, and no
subscriber's code runs here. So the order of events is the order in which things happened, for everybody.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import trio

from nsbox._config.frozen import shown
from nsbox._events import Event, EventsLost, Terminated, find_event

log = logging.getLogger("nsbox")

_MOST_WAITING = 1024
"""Events that a reader may be behind."""

Deliver = Callable[[Any], object]
"""Called with an event of the kind that was asked for."""


class Emitter:
    """The events of one sandbox.

    Args:
        sandbox_id: Whose.
    """

    def __init__(self, sandbox_id: str) -> None:
        self._sandbox_id = sandbox_id
        self._lock = threading.Lock()
        self._subscribers: tuple[tuple[type[Event], Deliver], ...] = ()
        self._over: Terminated | None = None

    @property
    def active(self) -> bool:
        """Whether anybody would hear of any event."""
        return bool(self._subscribers) or log.isEnabledFor(logging.DEBUG)

    def wants(self, kind: type[Event]) -> bool:
        """Whether somebody would hear of such an event: what is dear to find out can be left out otherwise."""
        return any(issubclass(kind, wanted) for wanted, _ in self._subscribers) or log.isEnabledFor(logging.DEBUG)

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """Tell everybody. In the supervisor's run only."""
        subscribers = self._subscribers
        debug = log.isEnabledFor(logging.DEBUG)
        if not subscribers and not debug and kind is not Terminated:
            return
        event = kind(sandbox_id=self._sandbox_id, at=datetime.now(UTC), **fields)
        if debug:
            told = ", ".join(f"{name}={shown(getattr(event, name))}" for name in fields)
            log.debug("%s: %s%s", self._sandbox_id, event.name, told and f" ({told})")
        if isinstance(event, Terminated):
            self._over = event
        for wanted, deliver in subscribers:
            if isinstance(event, wanted):
                deliver(event)

    def subscribe(self, event: str | type[Event], deliver: Deliver) -> Callable[[], None]:
        """Have `deliver` called with every event of a kind, in the supervisor's run; it must neither wait nor raise.

        Args:
            event: As for `find_event`.
            deliver: Called with the event.

        Returns:
            What ends it; a second call does nothing. Both are safe from every thread.

        Raises:
            ConfigError: There is no such event.
        """
        entry = (find_event(event), deliver)
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(one for one in self._subscribers if one is not entry)

        return unsubscribe

    def read(self) -> EventReader:
        """All events from now on."""
        return EventReader(self, self._over is not None)


class EventReader:
    """A bounded queue of events: who reads too slowly loses the oldest, and is told how many.

    Args:
        emitter: Of the sandbox.
        over: Whether it has ended already.
    """

    def __init__(self, emitter: Emitter, over: bool) -> None:
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._over = over
        self._news = trio.Event()
        self._unsubscribe = emitter.subscribe(Event, self._put)

    def _put(self, event: Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._over = self._over or isinstance(event, Terminated)
        self._news.set()

    async def next(self) -> Event | None:
        """The next one, as soon as there is one; None: it was the last."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            if self._over:
                self.close()
                return None
            self._news = trio.Event()
            await self._news.wait()
        if self._lost:
            first = self._waiting[0]
            lost, self._lost = self._lost, 0
            return EventsLost(sandbox_id=first.sandbox_id, at=first.at, count=lost)
        return self._waiting.popleft()

    def close(self) -> None:
        """No more of them; a `next` that waits ends. In the supervisor's run."""
        self._over = True
        self._unsubscribe()
        self._news.set()
