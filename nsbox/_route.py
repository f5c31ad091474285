"""From where an `AsyncSandbox` is used to the trio run that its supervisor is in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio

from nsbox._errors import InvalidStateError
from nsbox._supervisor.portal import Portal, get_portal

P = ParamSpec("P")
T = TypeVar("T")


class Route:
    """In the caller's own trio run, or else to the supervisor's thread; the first call decides for all.

    Args:
        owner: What is used through it, for messages.

    Attributes:
        loop: The caller's event loop of now, once it is known that it is asyncio's.
    """

    def __init__(self, owner: str = "sandbox") -> None:
        self._owner = owner
        self._portal: Portal | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `function` there. Cancelling the caller cancels it, and waits for it.

        Raises:
            InvalidStateError: The first call came from another trio run, or from asyncio where this one is trio's.
        """
        if trio.lowlevel.in_trio_run():
            here = trio.lowlevel.current_trio_token()
            if self.loop is not None or self._token not in (None, here):
                raise InvalidStateError(self._elsewhere())
            self._token = here
            return await function(*args, **kwargs)
        if self._token is not None:
            raise InvalidStateError(self._elsewhere())
        self.loop = asyncio.get_running_loop()
        self._portal = self._portal or get_portal()
        return await self._portal.call_from_asyncio(function, *args, **kwargs)

    def _elsewhere(self) -> str:
        return f"this {self._owner} belongs to another event loop, the one that first used it"

    def run_soon(self, function: Callable[[], object]) -> None:
        """Call a plain function there, without waiting; nothing happens where that run has ended."""
        if self._portal is not None:
            self._portal.run_soon(function)
        elif self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function)
        else:  # never called from anywhere: nothing runs that could be disturbed
            function()
