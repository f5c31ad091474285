"""One task of a trio run that calls everybody in turn, each at its own interval.

A task each would cost some 40 us a turn for waking it up; a thousand sandboxes looked at each second would spend as
much on that as on looking. Turns that are due at almost the same time are taken together.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable

import trio

from nsbox._supervisor.background import start_soon

log = logging.getLogger("nsbox")

_GRID = 0.05  # seconds; turns are due at multiples of it, or of a tenth of their interval where that is less
_AT_ONCE = 32  # turns between two checkpoints: others in this run must not wait for a thousand of them

_current: trio.lowlevel.RunVar[Ticker | None] = trio.lowlevel.RunVar("nsbox ticker", None)


def current_ticker() -> Ticker:
    """This trio run's."""
    ticker = _current.get()
    if ticker is None:
        ticker = Ticker()
        _current.set(ticker)
    return ticker


class Turn:
    """What `Ticker.add` gives.

    Args:
        interval: Seconds; infinite: one turn only.
        function: Called at each; it must neither wait nor raise.
    """

    __slots__ = ("function", "interval")

    def __init__(self, interval: float, function: Callable[[], object]) -> None:
        self.interval = interval
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """No more turns; what it would have called is let go at once. Idempotent."""
        self.function = None


class Ticker:
    """See `current_ticker`. Its task is there while anybody has a turn to come."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Turn]] = []
        self._order = itertools.count()
        self._sleep: trio.CancelScope | None = None
        self._running = False

    def add(self, interval: float, function: Callable[[], object]) -> Turn:
        """Call `function` every `interval` seconds, first when one has passed.

        Returns:
            What cancels it.
        """
        turn = Turn(interval, function)
        self._put(turn, trio.current_time() + interval, interval)
        return turn

    def once(self, seconds: float, function: Callable[[], object]) -> Turn:
        """Call `function` when so many seconds have passed, and not again."""
        turn = Turn(math.inf, function)
        self._put(turn, trio.current_time() + seconds, seconds)
        return turn

    def _put(self, turn: Turn, due: float, interval: float) -> None:
        grid = min(_GRID, interval / 10)
        if grid > 0:
            due = math.ceil(due / grid) * grid
        heapq.heappush(self._due, (due, next(self._order), turn))
        if self._sleep is not None and due < self._sleep.deadline:
            self._sleep.deadline = due
        if not self._running:
            self._running = True
            start_soon(self._run)

    async def _run(self) -> None:
        try:
            while (due := self._next()) is not None:
                if due > trio.current_time():
                    with trio.CancelScope(deadline=due) as self._sleep:
                        await trio.sleep_forever()
                    self._sleep = None
                await self._take_turns(trio.current_time())
        finally:
            self._sleep = None
            self._running = False

    def _next(self) -> float | None:
        """When the next turn is due; those of who has gone are dropped on the way."""
        while self._due and self._due[0][2].function is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    async def _take_turns(self, now: float) -> None:
        taken = 0
        while self._due and self._due[0][0] <= now:
            due, order, turn = self._due[0]
            if turn.function is None:
                heapq.heappop(self._due)
                continue
            if turn.interval == math.inf:
                heapq.heappop(self._due)
            else:  # who is late by whole intervals, as after a suspended machine, is not called once for each
                missed = (now - due) // turn.interval
                heapq.heapreplace(self._due, (due + (missed + 1) * turn.interval, order, turn))
            try:
                turn.function()
            except Exception:
                log.exception("a task in the background failed: %r", turn.function)
            taken += 1
            if taken % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
