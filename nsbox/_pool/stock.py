"""The sandboxes of a pool: those that wait, are being made, and are lent. In the supervisor's run."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from nsbox._config import SandboxConfig
from nsbox._config.validation import integer
from nsbox._core import SandboxCore
from nsbox._errors import InvalidStateError, NetworkError, SandboxError
from nsbox._events import StateChanged
from nsbox._states import ACTIVE
from nsbox._supervisor.background import start_soon

log = logging.getLogger("nsbox")

MOST = 1000
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Loan:
    """What somebody gets from a pool, who may be gone before he gets it: then he still can give it back.

    Attributes:
        core: The sandbox, once there is one, and until it is given back.
        error: Why there is none.
        settled: Set when either is known.
    """

    core: SandboxCore | None = None
    error: Exception | None = None
    settled: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True, eq=False)
class _Idle:
    core: SandboxCore
    unsubscribe: Callable[[], None]


def check_concurrency(concurrency: int | None, size: int) -> int:
    """How many items of a map are worked on at the same time.

    Raises:
        ConfigError: Not a positive number.
    """
    return size if concurrency is None else integer("concurrency", concurrency, minimum=1, maximum=MOST)


class Stock:
    """Keeps sandboxes ready. Each is lent once and ended afterwards: what one user leaves no other can find.

    The first one that is asked for begins it, `close` ends it, and else the end of the trio run does.

    Args:
        config: Of all of them.
        size: How many wait at most.

    Raises:
        ConfigError: Such sandboxes or such a size cannot be.
    """

    def __init__(self, config: SandboxConfig, size: int) -> None:
        SandboxCore(config)  # what no host can make is refused here, and not when the first one is asked for
        self.config = config
        self.size = integer("size", size, minimum=1, maximum=MOST)
        self._idle: deque[_Idle] = deque()
        self._waiting: deque[Loan] = deque()
        self._lent: set[SandboxCore] = set()
        self._making = 0
        self._failures = 0
        self._delayed = False
        self._warmed = False
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._closing: trio.Event | None = None

    @property
    def idle(self) -> int:
        """How many wait."""
        return len(self._idle)

    # ------------------------------------------------------------ what users ask for

    async def start(self) -> None:
        """Have the first one ready; the others follow. Raises as `take`."""
        loan = Loan()
        await self.take(loan)
        core, loan.core = loan.core, None
        assert core is not None
        self._lent.discard(core)
        self._put(core)

    async def take(self, loan: Loan) -> None:
        """Lend the one that has waited longest; where none waits, the next one that is made, and one is made at once.

        Cancellation: it is lent to another, or waits.

        Args:
            loan: Gets it.

        Raises:
            InvalidStateError: The pool is closed.
            SandboxError: As `AsyncSandbox.start`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._begin()
        while self._idle:
            core = self._pop()
            if core.status in ACTIVE:
                self._lend(core, loan)
                self._refill()
                return
            self._discard(core)
        self._waiting.append(loan)
        self._refill()
        try:
            await loan.settled.wait()
        except BaseException:
            if loan in self._waiting:
                self._waiting.remove(loan)
            elif loan.core is not None:
                core, loan.core = loan.core, None
                self._lent.discard(core)
                self._put(core)
            raise
        if loan.error is not None:
            raise loan.error

    def give_back(self, loan: Loan) -> None:
        """End what was lent, beside its user; nothing happens where nothing was lent."""
        core, loan.core = loan.core, None
        if core is not None and core in self._lent:
            self._lent.discard(core)
            self._discard(core)

    async def close(self) -> None:
        """End all of them, also those that are lent, and wait for that. Not cancelled. A second time, nothing."""
        with trio.CancelScope(shield=True):
            if self._closing is not None:
                await self._closing.wait()
                return
            self._closing = trio.Event()
            self._turn_away()
            if self._scope is not None:
                self._scope.cancel()
                await self._ended.wait()
            left = [*self._lent, *(self._pop() for _ in range(len(self._idle)))]
            self._lent.clear()
            async with trio.open_nursery() as nursery:
                for core in left:
                    nursery.start_soon(_end, core)
            self._closing.set()

    def abandon(self) -> None:
        """Nobody holds the pool any more."""
        if self._closing is None and self._scope is not None:
            with contextlib.suppress(RuntimeError):  # the run is ending, and takes no more tasks: all ends with it
                start_soon(self.close)

    # ------------------------------------------------------------ how they come and go

    def _begin(self) -> None:
        if self._closing is not None or self._ended.is_set():
            raise _closed()
        if self._scope is None:
            self._scope = start_soon(self._serve)

    async def _serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._refill()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = (
                        None  # here: once its tasks have ended, and before `async with` is left, it takes none
                    )
        finally:
            self._ended.set()
            self._turn_away()

    def _turn_away(self) -> None:
        for loan in self._waiting:
            loan.error = _closed()
            loan.settled.set()
        self._waiting.clear()

    def _refill(self) -> None:
        """For each who waits one is made, and beyond that one after the other until enough are there."""
        if self._nursery is None or self._closing is not None:
            return
        while self._making < len(self._waiting):
            self._start_making(self._nursery)
        enough = len(self._idle) >= self.size
        if not enough and not self._delayed and self._making == len(self._waiting):
            self._start_making(self._nursery)

    def _start_making(self, nursery: trio.Nursery) -> None:
        self._making += 1
        nursery.start_soon(self._make)

    async def _make(self) -> None:
        core = SandboxCore(self.config)
        error: Exception | None = None
        try:
            await core.start()
        except Exception as exc:  # noqa: BLE001  # whoever waits for it is told
            error = exc
        finally:
            self._making -= 1
        if error is not None:
            self._fail(error)
        else:
            self._failures = 0
            if not self._warmed:
                self._warmed = True
                core.warm_up()
            self._put(core)
        self._refill()

    def _put(self, core: SandboxCore) -> None:
        if core.status not in ACTIVE:
            self._discard(core)
        elif self._waiting:
            self._lend(core, self._waiting.popleft())
        elif len(self._idle) < self.size or self._closing is not None:  # close() ends it
            unsubscribe = core.emitter.subscribe(StateChanged, lambda _: self._notice(core))
            self._idle.append(_Idle(core, unsubscribe))
        else:
            self._discard(core)

    def _pop(self) -> SandboxCore:
        idle = self._idle.popleft()
        idle.unsubscribe()
        return idle.core

    def _lend(self, core: SandboxCore, loan: Loan) -> None:
        self._lent.add(core)
        loan.core = core
        loan.settled.set()

    def _discard(self, core: SandboxCore) -> None:
        try:
            if self._nursery is not None:
                self._nursery.start_soon(_end, core)
                return
        except RuntimeError:  # it is about to be gone, and takes nobody any more
            pass
        if self._closing is not None:
            self._lent.add(core)  # close() has not looked yet, or, where the run ends, all of it goes with the launcher

    def _notice(self, core: SandboxCore) -> None:
        """The state of one that waits has changed."""
        if core.status in ACTIVE:
            return
        for idle in tuple(self._idle):
            if idle.core is core:
                self._idle.remove(idle)
                idle.unsubscribe()
                self._discard(core)
                self._fail(core.last_error or NetworkError("a sandbox that waited in a pool was lost"))

    def _fail(self, error: BaseException) -> None:
        """One could not be made, or did not live: who waits is told, and no others are made ahead for a while."""
        if self._making < len(self._waiting) and isinstance(error, Exception):
            loan = self._waiting.popleft()
            loan.error = error
            loan.settled.set()
        if self._nursery is None or self._delayed:
            return
        delay = min(_FIRST_DELAY_SECONDS * 2**self._failures, _LONGEST_DELAY_SECONDS)
        self._failures += 1
        self._delayed = True
        log.warning("a pool makes no sandboxes ahead for %g s: %s", delay, error)
        self._nursery.start_soon(self._wait_and_refill, delay)

    async def _wait_and_refill(self, delay: float) -> None:
        await trio.sleep(delay)
        self._delayed = False
        self._refill()


async def _end(core: SandboxCore) -> None:
    try:
        await core.terminate()
    except SandboxError as exc:
        log.warning("%s: could not be ended: %s", core.id, exc)


def _closed() -> InvalidStateError:
    return InvalidStateError("the pool is closed")
