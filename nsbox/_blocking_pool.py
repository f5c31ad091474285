"""`Pool`: the pool for blocking code."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from nsbox._blocking import Sandbox
from nsbox._config import SandboxConfig, make_config
from nsbox._documented import documented_by
from nsbox._errors import InvalidStateError
from nsbox._pool import AHEAD, AsyncPool, Loan, PoolMap, Stock, check_concurrency, count
from nsbox._supervisor.portal import Portal, get_portal

T = TypeVar("T")
R = TypeVar("R")


@documented_by(AsyncPool)
class Pool:
    """Sandboxes that are ready before they are asked for. The same as `AsyncPool`, for blocking code.

    Safe to use from several threads.

    Args:
        config: What to start from; None: the defaults.
        size: How many sandboxes wait at most, 1 to 1,000.
        fields: As those of `Sandbox`.

    Raises:
        ConfigError: Can never work; names field, value and what is allowed.
    """

    def __init__(self, config: SandboxConfig | None = None, /, *, size: int = 4, **fields: Any) -> None:
        self._maps: weakref.WeakSet[BlockingPoolMap[Any, Any]] = weakref.WeakSet()
        self._portal: Portal | None = None
        self._stock = Stock(make_config(config, **fields), size)
        self._portal = self._living = get_portal()

    @property
    def config(self) -> SandboxConfig:
        """What its sandboxes are made from."""
        return self._stock.config

    @property
    def size(self) -> int:
        """How many wait at most."""
        return self._stock.size

    @property
    def idle(self) -> int:
        """How many wait now."""
        return self._stock.idle

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.idle} of {self.size} sandboxes wait>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """See `AsyncPool.start`."""
        self._living.call(self._stock.start)

    def close(self) -> None:
        """See `AsyncPool.aclose`."""
        for one in tuple(self._maps):
            one.stop(InvalidStateError("the pool was closed"))
        if self._living.usable:
            self._living.call(self._stock.close)

    @contextlib.contextmanager
    def acquire(self) -> Iterator[Sandbox]:
        """See `AsyncPool.acquire`."""
        loan = Loan()
        try:
            self._living.call(self._stock.take, loan)
            assert loan.core is not None
            yield Sandbox._around(loan.core, self._living)  # of the same package, not of the contract
        finally:
            self._living.run_soon(lambda: self._stock.give_back(loan))

    def map(
        self,
        function: Callable[[Sandbox, T], R],
        items: Iterable[T],
        *,
        concurrency: int | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> BlockingPoolMap[T, R]:
        """See `AsyncPool.map`.

        Args:
            function: A plain one. It is called in threads, `concurrency` of them.
            items: Asked for items in the caller's thread only, as outcomes are taken.
            concurrency: How many items at the same time; None: as many as sandboxes may wait.
            on_progress: Called in those threads, never twice at the same time.
        """
        found = BlockingPoolMap(self, function, items, check_concurrency(concurrency, self.size), on_progress)
        self._maps.add(found)
        return found

    def __del__(self) -> None:
        if self._portal is not None:
            self._portal.run_soon(self._stock.abandon)


class _Work(Generic[T, R]):
    """What goes on in the map's threads, which know nothing of the iterator: so it can be dropped, and end them."""

    def __init__(
        self,
        pool: Pool,
        function: Callable[[Sandbox, T], R],
        total: int,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        self._pool = pool
        self._function = function
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        self._lent: set[Sandbox] = set()
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self.stopped = False

    def do(self, item: T) -> R | Exception:
        """One item, in one of the threads. Raises what ends the map."""
        outcome: R | Exception
        try:
            with self._pool.acquire() as sandbox, self._in_use(sandbox):
                outcome = self._function(sandbox, item)
        except Exception as exc:  # noqa: BLE001  # an item's own error is its outcome
            outcome = exc
        with self._telling:
            self._done += 1
            if self._on_progress is not None and not self.stopped:
                self._on_progress(self._done, self._total)
        return outcome

    @contextlib.contextmanager
    def _in_use(self, sandbox: Sandbox) -> Iterator[None]:
        with self._lock:
            if self.stopped:
                raise InvalidStateError("the map has ended")
            self._lent.add(sandbox)
        try:
            yield
        finally:
            with self._lock:
                self._lent.discard(sandbox)

    def stop(self) -> None:
        """Begin no more, and end the sandboxes in use, beside the caller: what runs in them is CANCELLED."""
        with self._lock:
            self.stopped = True
            for sandbox in self._lent:
                sandbox._end_soon()  # the same


@documented_by(PoolMap)
class BlockingPoolMap(Generic[T, R]):
    """See `PoolMap`; a plain iterator.

    Leaving the loop early ends the sandboxes in use; with `with`, or `close`, their functions are waited for.
    """

    def __init__(
        self,
        pool: Pool,
        function: Callable[[Sandbox, T], R],
        items: Iterable[T],
        concurrency: int,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        self._over = True  # until there is something to end
        self._items: Iterator[T] | None = iter(items)
        self._work = _Work(pool, function, count(items), on_progress)
        self._most = AHEAD * concurrency
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="nsbox map")
        self._coming: deque[Future[R | Exception]] = deque()
        self._error: BaseException | None = None
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R | Exception:
        if self._over:
            raise StopIteration
        try:
            self._begin()
            if self._coming:
                outcome = self._coming[0].result()
                self._coming.popleft()
                if not self._work.stopped:
                    return outcome
            if self._error is not None:
                raise self._error
        except CancelledError:
            error = self._error or InvalidStateError("the map has ended")
            self.close()
            raise error from None
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def _begin(self) -> None:
        """Begin as many items as may be, at least one; no more once there is something to give out."""
        while self._items is not None and len(self._coming) < self._most:
            try:
                item = next(self._items)
            except StopIteration:
                self._items = None
            except BaseException as exc:  # noqa: BLE001  # the items' own error: told when all before it are
                self._error = self._error or exc
                self._items = None
            else:
                try:
                    self._coming.append(self._threads.submit(self._work.do, item))
                except RuntimeError:  # ended by `stop` meanwhile, which has said why
                    return
            if self._coming and self._coming[0].done():
                return

    def stop(self, why: BaseException) -> None:
        """End it, from another thread: who iterates is told why."""
        if not self._over:
            self._error = self._error or why
            self._items = None
            self._stop(wait=True)

    def close(self) -> None:
        """Begin no more, end the sandboxes in use, and wait for the functions that use them."""
        self._over = True
        self._stop(wait=True)

    def _stop(self, *, wait: bool) -> None:
        self._work.stop()
        self._threads.shutdown(wait=wait, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self._stop(wait=False)
