"""How much of the resolver one sandbox may have, so that a flood from it keeps no other one from its answers."""

from __future__ import annotations

from collections import defaultdict

import trio


class Bucket:
    """So much a second, and so much at once after a pause: a token bucket that may get into debt.

    Args:
        rate: A second.
        burst: The most at once.
    """

    __slots__ = ("_burst", "_level", "_rate", "_since")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._since = float("-inf")

    def wait_seconds(self, now: float) -> float:
        """How long until there is something to take; 0: there is."""
        return max(0.0, (1.0 - self._level_at(now)) / self._rate)

    def take(self, now: float, amount: float = 1.0) -> None:
        """Take it, also where there is less."""
        self._level = self._level_at(now) - amount
        self._since = now

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken for long: a new one would be the same."""
        return self._level_at(now) >= self._burst

    def _level_at(self, now: float) -> float:
        return min(self._burst, self._level + (now - self._since) * self._rate)


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
