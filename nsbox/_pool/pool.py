"""`AsyncPool`: a pool for trio and for asyncio."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from nsbox._config import SandboxConfig, make_config
from nsbox._errors import InvalidStateError
from nsbox._pool.mapping import PoolMap
from nsbox._pool.stock import Loan, Stock, check_concurrency
from nsbox._route import Route
from nsbox._sandbox import AsyncSandbox

T = TypeVar("T")
R = TypeVar("R")


class AsyncPool:
    """Sandboxes of one configuration that are ready before they are asked for, each used once.

    Use it as `async with AsyncPool(size=8) as pool`, which waits for the first sandbox, so that what cannot be made is
    told there, and ends all of them. Without that, the first one that is asked for begins it. One pool belongs to one
    event loop, as a sandbox does. `nsbox.Pool` is the same for blocking code.

    A sandbox that dies while it waits is replaced. Where none can be made, no more are made ahead for 0.1 s, and twice
    as long each time, up to 30 s; who asks for one then has one made at once, or is told why not.

    Args:
        config: What to start from; None: the defaults.
        size: How many sandboxes wait at most, 1 to 1,000.
        fields: As those of `AsyncSandbox`.

    Raises:
        ConfigError: Can never work; names field, value and what is allowed.
    """

    def __init__(self, config: SandboxConfig | None = None, /, *, size: int = 4, **fields: Any) -> None:
        self._route = Route()
        self._maps: weakref.WeakSet[PoolMap[Any, Any]] = weakref.WeakSet()
        self._stock: Stock | None = None
        self._stock = self._living = Stock(make_config(config, **fields), size)

    @property
    def config(self) -> SandboxConfig:
        """What its sandboxes are made from."""
        return self._living.config

    @property
    def size(self) -> int:
        """How many wait at most."""
        return self._living.size

    @property
    def idle(self) -> int:
        """How many wait now."""
        return self._living.idle

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.idle} of {self.size} sandboxes wait>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Wait until the first sandbox is ready; the others follow.

        Raises:
            InvalidStateError: It is closed.
            SandboxError: As `AsyncSandbox.start`.
        """
        await self._route.call(self._living.start)

    async def aclose(self) -> None:
        """End all maps and all sandboxes, also those that are in use, and wait for that. Not cancelled."""
        for one in tuple(self._maps):
            await one.stop(InvalidStateError("the pool was closed"))
        await self._route.call(self._living.close)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[AsyncSandbox]:
        """A sandbox that nobody has used: `async with pool.acquire() as sandbox`.

        The one that has waited longest; where none waits, one is made at once. It is ended afterwards, beside the
        caller, and another takes its place.

        Raises:
            InvalidStateError: The pool is closed.
            SandboxError: As `AsyncSandbox.start`.
        """
        loan = Loan()
        try:
            await self._route.call(self._living.take, loan)
            assert loan.core is not None
            yield AsyncSandbox._around(loan.core, self._route)  # of the same package, not of the contract
        finally:
            self._route.run_soon(lambda: self._living.give_back(loan))

    def map(
        self,
        function: Callable[[AsyncSandbox, T], Awaitable[R]],
        items: Iterable[T],
        *,
        concurrency: int | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> PoolMap[T, R]:
        """Call an async function with a fresh sandbox for each item, several at a time.

        Args:
            function: Called with a sandbox and an item, in a task of the caller's event loop.
            items: May be endless: it is asked for items as they can be worked on. It must not block.
            concurrency: How many items at the same time; None: as many as sandboxes may wait.
            on_progress: Called after each item with how many are done, and of how many; -1 where `items` has no length.
                What it raises ends the map.

        Returns:
            An async iterator over what the function returned or raised, in the order of the items; see `PoolMap`.

        Raises:
            ConfigError: `concurrency` is no number from 1 to 1,000.
        """
        found = PoolMap(self.acquire, function, items, check_concurrency(concurrency, self.size), on_progress)
        self._maps.add(found)
        return found

    def __del__(self) -> None:
        if self._stock is not None:
            self._route.run_soon(self._stock.abandon)
