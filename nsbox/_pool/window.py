"""Which items of a map are on their way, and whose outcome is next. No effects, and no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Generic, TypeVar

R = TypeVar("R")

AHEAD = 2
"""For each item that may be worked on, so many may be begun beyond the last whose outcome was taken."""


def count(items: Iterable[object]) -> int:
    """How many there are; -1 where that is not known."""
    return len(items) if isinstance(items, Sized) else -1


class Window(Generic[R]):
    """The part of a sequence, maybe an endless one, that is in work.

    Args:
        items: The sequence; only its length is used, where it has one.
        concurrency: How many are worked on at the same time.
        on_progress: Called with how many are done, and of how many, -1 where that is not known.
    """

    def __init__(
        self, items: Iterable[object], concurrency: int, on_progress: Callable[[int, int], object] | None
    ) -> None:
        self._total = count(items)
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._outcomes: dict[int, R | Exception] = {}
        self._begun = self._taken = self._done = 0
        self._exhausted = False

    @property
    def has_room(self) -> bool:
        """Whether one more item may be begun."""
        running = self._begun - self._done
        ahead = self._begun - self._taken
        return not self._exhausted and running < self._concurrency and ahead < AHEAD * self._concurrency

    @property
    def over(self) -> bool:
        """Whether no outcome is to come."""
        return self._exhausted and self._taken == self._begun

    @property
    def ready(self) -> bool:
        """Whether the outcome that is next is there."""
        return self._taken in self._outcomes

    def begin(self) -> int:
        """An item is begun. Returns its place."""
        self._begun += 1
        return self._begun - 1

    def exhaust(self) -> None:
        """There are no more items."""
        self._exhausted = True

    def put(self, place: int, outcome: R | Exception) -> None:
        """An item is done. Raises what `on_progress` raises."""
        self._outcomes[place] = outcome
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def take(self) -> R | Exception:
        """The next outcome, in the order of the items; where it is `ready`."""
        outcome = self._outcomes.pop(self._taken)
        self._taken += 1
        return outcome
