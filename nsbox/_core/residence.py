"""The program of contexts: one execution that lives on, its death, and the ends of its pipes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket

import trio

from nsbox._contexts.frames import Frame, FrameReader
from nsbox._core.program import Running
from nsbox._core.sources import Source
from nsbox._core.turns import Turns
from nsbox._errors import InvalidStateError, NetworkError, SetupError
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_interactive
from nsbox._supervisor.order import Order, Outcome
from nsbox._supervisor.turn import Resident
from nsbox._verdict import KillReason

_END_SECONDS = 10.0
_TURNS = 64
_CLOSED_SECONDS = 1.0
"""How long a program may take to die after it has closed its channel: one that does not has broken it."""


class Ends:
    """Our ends of a context's channel and output, and, until they are given away, the program's.

    Args:
        largest: Bytes that an output may have.

    Raises:
        SetupError: This process may have no more open.
    """

    def __init__(self, largest: int) -> None:
        made: list[int] = []
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            made += (ours.detach(), theirs.detach())
            for _ in range(2):
                made += os.pipe2(os.O_CLOEXEC)
        except OSError as exc:
            for fd in made:
                os.close(fd)
            raise SetupError("stdio", exc.errno or errno.EMFILE, exc.strerror or "", "of a context") from exc
        self.channel = socket.socket(fileno=made[0])
        self.stdout, self.stderr = made[2], made[4]
        self.theirs = (made[1], made[3], made[5])
        self._given = False
        self._closed = False
        self.channel.setblocking(False)
        for fd in (self.stdout, self.stderr):
            os.set_blocking(fd, False)
        self._frames = FrameReader(largest)

    def give(self) -> None:
        """The program has its own."""
        if not self._given:
            self._given = True
            for fd in self.theirs:
                os.close(fd)

    def close(self) -> None:
        """All of them, once."""
        self.give()
        if not self._closed:
            self._closed = True
            self.channel.close()
            os.close(self.stdout)
            os.close(self.stderr)

    async def send(self, data: bytes) -> bool:
        """Write all of it; False: nobody reads any more."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.channel.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.channel)
            except OSError:
                return False
        return True

    async def receive(self) -> Frame | None:
        """The next frame; None: the channel is closed. Cancelled, nothing is lost.

        Raises:
            FrameError: It is none.
        """
        for turn in itertools.count(1):
            if turn % _TURNS == 0:
                await trio.lowlevel.checkpoint()  # in bytes that come one by one there is no pause, either
            try:
                data = self.channel.recv(min(self._frames.wanted, 1 << 20))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.channel)
                continue
            except OSError:
                return None
            if not data:
                return None
            frame = self._frames.feed(data)
            if frame is not None:
                return frame
        raise AssertionError("there is no last number")


class Residence:
    """One process of contexts, and the processes that it has become by forks: they live and die together.

    Args:
        cell: Where.
        order: What the launcher is told.
        running: For its result, where it ends before it is ready.
    """

    def __init__(self, cell: Cell, order: Order, running: Running) -> None:
        self.cell = cell
        self.running = running
        self.resident = Resident(cell, order)
        self.turns = Turns()  # one cell at a time: limits and counters are those of all of it
        self.members = 0
        self.outcome: Outcome | None = None
        self.failure: Exception | None = None
        self.gone: str | None = None  # why nobody may use it any more, though it may still be dying
        self.ended = trio.Event()
        self.settled = trio.Event()
        """It has become its program, and all that belongs to that is here; or it has ended."""
        self._first: Ends | None = None
        self._living = trio.CancelScope()

    def start(self, ends: Ends, source: Source) -> None:
        """Send it on its way; returns at once."""
        self._first = ends
        self._living = start_soon(self._live, ends, source)

    async def _live(self, ends: Ends, source: Source) -> None:
        self.failure = InvalidStateError("the supervisor has ended")
        try:
            self.outcome = await run_interactive(
                self.cell, self.resident.order, ends.theirs, terminal=False, close_stdio=ends.give,
                on_start=self._started, on_sampler=self.resident.take_sampler,
            )  # fmt: skip
            self.failure = None
        except Exception as exc:  # noqa: BLE001  # it is raised where somebody waits
            self.failure = exc
        finally:
            source.close()
            ends.give()
            self.ended.set()
            self.settled.set()
            if self._first is None:
                ends.close()

    def _started(self, pidfd: int) -> None:
        os.close(pidfd)
        self.settled.set()

    def is_first(self, ends: Ends) -> bool:
        """Whether they are those of the process that was started, whose end is the end of all of them."""
        return ends is self._first

    def let_go(self, ends: Ends) -> None:
        """Close them; the first process would end at the end of its channel, and is left idle instead."""
        if ends is self._first and not self.ended.is_set():
            self._first = None
        else:
            ends.close()

    @property
    def over(self) -> str | None:
        """Why no cell can be run; None: one can."""
        if self.gone is None and self.ended.is_set():
            return "its program has ended"
        return self.gone

    async def kill(self, reason: KillReason) -> None:
        """End all of it, and wait for that. Not cancelled."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_SECONDS):
            if not self.ended.is_set():
                if self.resident.sampler is None:  # not asked for yet: a kill would go ahead of it
                    self._living.cancel()
                with contextlib.suppress(NetworkError):  # no launcher, no program
                    await self.resident.kill(reason)
                await self.ended.wait()

    async def wait_death(self) -> bool:
        """After the channel was closed: whether it dies of itself; else it is to be killed."""
        with trio.move_on_after(_CLOSED_SECONDS):
            await self.ended.wait()
        return self.ended.is_set()

    async def leave(self) -> None:
        """One context less; with the last one it ends."""
        self.members -= 1
        if self.members <= 0:
            self.gone = self.gone or "it was closed"
            await self.kill(KillReason.CANCELLED)
