"""What goes through a port at the moment, so that it can be counted and cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

MOST_CONNECTIONS = 256
"""Connections of one exposed port at a time; each takes two descriptors of this process."""


class Link:
    """One connection.

    Attributes:
        scope: Cancelled when it has to go.
        inward: Whether it has got as far as into the sandbox.
    """

    __slots__ = ("inward", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.inward = False


class Links:
    """The connections of one exposed port."""

    def __init__(self) -> None:
        self._links: set[Link] = set()
        self._none = trio.Event()
        self._none.set()

    @property
    def full(self) -> bool:
        """Whether there may be no more at the moment."""
        return len(self._links) >= MOST_CONNECTIONS

    @contextmanager
    def link(self) -> Iterator[Link]:
        """A connection, as long as the context lasts."""
        link = Link()
        if not self._links:
            self._none = trio.Event()
        self._links.add(link)
        try:
            with link.scope:
                yield link
        finally:
            self._links.discard(link)
            if not self._links:
                self._none.set()

    def cut(self, *, waiting: bool) -> None:
        """End connections; they are gone a moment later.

        Args:
            waiting: Those too that are not yet in the sandbox.
        """
        for link in self._links:
            if waiting or link.inward:
                link.scope.cancel()

    async def wait_none(self) -> None:
        """Wait until there is none."""
        await self._none.wait()
