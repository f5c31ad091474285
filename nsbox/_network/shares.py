"""How much of the resolver one sandbox may have, so that a flood from it keeps no other one from its answers.

Time is counted when it has been taken, by the clock of this thread: what a question costs, nobody knows before.
"""

from __future__ import annotations

import functools
import math
import time
import types
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")

STEP_SECONDS = 0.000_02
"""What the loop takes for each step of a task, beside what the task does in it (measured)."""

_MOST_KNOWN = 1024
_FORGOTTEN = 0.001  # of what may be used: too little to matter


class Budget:
    """The time of the event loop, for each one and for all. What was used counts for less and less.

    One may begin something while it has used less than all together have left. So one alone gets a half, each of n
    greedy ones a part in n + 1, and whoever has used nothing can begin: all together never get everything. (For the
    buffers of a switch that is Choudhury and Hahne's dynamic threshold, 1998.)

    Args:
        share: Of the loop's time, what all together may have for long.
        seconds: In which what was used comes to count for 1/e.
    """

    __slots__ = ("_all", "_each", "_most", "_seconds")

    def __init__(self, share: float, seconds: float) -> None:
        self._seconds = seconds
        self._most = share * seconds
        self._all = (0.0, 0.0)
        self._each: dict[str, tuple[float, float]] = {}  # seconds used, and when

    def wait_seconds(self, who: str, now: float) -> float:
        """How long until it may begin something, if nobody does until then; 0: it may."""
        used = self._left_of(self._all, now) + self._left_of(self._each.get(who, (0.0, now)), now)
        return self._seconds * math.log(used / self._most) if used > self._most else 0.0

    def take(self, who: str, now: float, seconds: float) -> None:
        """Note what something took that it has begun."""
        if who not in self._each and len(self._each) >= _MOST_KNOWN:
            least = _FORGOTTEN * self._most
            self._each = {one: used for one, used in self._each.items() if self._left_of(used, now) > least}
        self._each[who] = (self._left_of(self._each.get(who, (0.0, now)), now) + seconds, now)
        self._all = (self._left_of(self._all, now) + seconds, now)

    def _left_of(self, used: tuple[float, float], now: float) -> float:
        return used[0] * math.exp((used[1] - now) / self._seconds)


class Account:
    """What one has of a budget.

    Args:
        budget: Of all.
        who: It.
    """

    __slots__ = ("_budget", "who")

    def __init__(self, budget: Budget, who: str) -> None:
        self._budget = budget
        self.who = who

    def wait_seconds(self) -> float:
        """How long until it may begin something; 0: it may."""
        return self._budget.wait_seconds(self.who, trio.current_time())

    async def wait(self) -> None:
        """Until it may begin something."""
        while seconds := self.wait_seconds():  # noqa: ASYNC110  # others may have used more meanwhile
            await trio.sleep(seconds)

    def pay(self, seconds: float) -> None:
        """For what was done for it."""
        self._budget.take(self.who, trio.current_time(), seconds)

    async def run(self, work: Callable[..., Coroutine[Any, Any, _T]], *args: object) -> _T:
        """Await something, and pay for the time of this thread that it takes, but for what tasks it starts do."""
        return await _measured(work(*args), self.pay)


@types.coroutine
def _measured(work: Coroutine[Any, Any, _T], pay: Callable[[float], None]) -> Generator[Any, Any, _T]:
    """Pass on what it waits for, and what comes of that, as `yield from` does; in between it works."""
    step: Callable[[], Any] = functools.partial(work.send, None)
    while True:
        start = time.thread_time()
        try:
            waits_for = step()
        except StopIteration as done:
            result: _T = done.value
            return result
        finally:
            pay(time.thread_time() - start + STEP_SECONDS)
        try:
            came = yield waits_for
        except BaseException as exc:  # noqa: BLE001  # GeneratorExit, too: all of it is the work's
            step = functools.partial(work.throw, exc)
        else:
            step = functools.partial(work.send, came)


class Shares:
    """So many at a time for each one, and for all. When all are taken, who has the most gives one up.

    Args:
        each: The most for one.
        most: For all together.
    """

    def __init__(self, each: int, most: int) -> None:
        self._each = each
        self._most = most
        self._held: defaultdict[str, list[trio.CancelScope]] = defaultdict(list)
        self._taken = 0

    def take(self, who: str) -> trio.CancelScope | None:
        """A scope to work in, which is cancelled if it is given up for somebody who has less; None: no more for now."""
        own = len(self._held[who]) if who in self._held else 0
        if own >= self._each or (self._taken >= self._most and not self._make_room(own)):
            return None
        scope = trio.CancelScope()
        self._held[who].append(scope)
        self._taken += 1
        return scope

    def give_back(self, who: str, scope: trio.CancelScope) -> None:
        """When the work is over; also after it was given up."""
        if scope in self._held.get(who, ()):
            self._remove(who, scope)

    def _make_room(self, own: int) -> bool:
        # Only where it evens out: two who have the same would take from each other for ever.
        greediest = max(self._held, key=lambda one: len(self._held[one]))
        if len(self._held[greediest]) < own + 2:
            return False
        oldest = self._held[greediest][0]
        self._remove(greediest, oldest)
        oldest.cancel()
        return True

    def _remove(self, who: str, scope: trio.CancelScope) -> None:
        self._held[who].remove(scope)
        self._taken -= 1
        if not self._held[who]:
            del self._held[who]
