"""What flows between an execution and its caller: stdin down, stdout and stderr up, in constant memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from typing import Protocol

import trio

_LARGE = 1 << 20  # the most that an unprivileged process gets, pipe(7); 2.5 times the throughput (measured)
_BUFFER = 256 * 1024  # faster than 64 KiB, and than 512 KiB, which leave the cache (measured)
_PAUSE = 0.001  # seconds after a tiny read: under a flood of tiny writes 16 % of a core instead of 97 (measured)
_TINY = 4096


_local = threading.local()


def _shared_buffer() -> memoryview:
    """One a thread: what is read into it is taken out before anybody else can run.

    Made anew for each pump, its pages would be a good part of what a short execution costs here.
    """
    try:
        return _local.buffer  # type: ignore[no-any-return]
    except AttributeError:
        _local.buffer = memoryview(bytearray(_BUFFER))
        return _local.buffer  # type: ignore[no-any-return]


class Budget:
    """How much output an execution may still write, stdout and stderr together.

    Args:
        limit: Bytes.
        on_excess: Called once, at the first byte beyond.
    """

    __slots__ = ("_on_excess", "dropped", "left")

    def __init__(self, limit: int, on_excess: Callable[[], None]) -> None:
        self.left = limit
        self.dropped = 0
        self._on_excess = on_excess

    def take(self, count: int) -> int:
        """How many of `count` bytes are within the limit."""
        taken = min(count, self.left)
        self.left -= taken
        if taken < count:
            if not self.dropped:
                self._on_excess()
            self.dropped += count - taken
        return taken


class Sink(Protocol):
    """Where output goes as it is written, beside or instead of being kept."""

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for output now; else it is early enough when the program has ended."""

    def put(self, stream: str, data: memoryview) -> None:
        """Take what was read from "stdout" or "stderr"; `data` is used for other things afterwards."""

    async def wait_room(self) -> None:
        """Return when more may come. Until then the program waits in a full pipe, and memory stays bounded."""


class _Nowhere:
    """The null device, for what nobody wants: by splice(2) it gets there without a copy, 1.5 to 2.6 times as fast."""

    __slots__ = ("_fd", "_usable")

    def __init__(self) -> None:
        self._fd = -1
        self._usable = True

    def take(self, fd: int) -> int | None:
        """Move what comes through a pipe until there is nothing, or it was _LARGE.

        Returns:
            Bytes, 0 at its end; None: it has to be read, like any other.

        Raises:
            BlockingIOError: There is nothing now.
        """
        if not self._usable:
            return None
        moved = 0
        try:
            if self._fd < 0:
                self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            while moved < _LARGE and (count := os.splice(fd, self._fd, _LARGE, flags=os.SPLICE_F_NONBLOCK)):
                moved += count
        except BlockingIOError:
            if not moved:
                raise
        except OSError:  # this process may have no more open; or it is no pipe
            self._usable = False
            return moved or None
        return moved

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class OutputPump:
    """Reads one pipe to its end, or until told that the writers are dead.

    Args:
        stream: "stdout" or "stderr", for the sink.
        fd: The end to read from; not blocking; the pump's to close.
        budget: Shared with the other stream.
        keep: Whether `kept` collects what was read.
        sink: Gets it, too.
    """

    def __init__(self, stream: str, fd: int, budget: Budget, *, keep: bool, sink: Sink) -> None:
        self._stream = stream
        self._fd = fd
        self._budget = budget
        self._keep = keep
        self._sink = sink
        self._buffer = _shared_buffer()
        self._grown = False
        self.kept = bytearray()

    async def run(self) -> None:
        """Read until end of file. Cancelled, what is still in the pipe is left for `drain`."""
        turn = 0
        with contextlib.closing(_Nowhere()) as nowhere:
            while True:
                try:
                    moved = None if self._keep or self._sink.wanted else nowhere.take(self._fd)
                    count = os.readv(self._fd, [self._buffer]) if moved is None else moved
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._fd)
                    turn = 0
                    continue
                if not count:
                    return
                if moved is None:
                    self._accept(count)
                    await self._sink.wait_room()
                else:
                    self._budget.take(count)
                turn += count
                if count < _TINY:
                    await trio.sleep(_PAUSE)
                    turn = 0
                elif turn >= _LARGE:
                    self._grow()
                    await trio.lowlevel.checkpoint()
                    turn = 0

    def drain(self) -> None:
        """Read what is there now: all there will be, for the writers are dead. Not further than the pipe can hold."""
        most = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ) + len(self._buffer)
        with contextlib.suppress(BlockingIOError):
            while most > 0 and (count := os.readv(self._fd, [self._buffer])):
                most -= count
                self._accept(count)

    def close(self) -> None:
        os.close(self._fd)

    def _accept(self, count: int) -> None:
        taken = self._budget.take(count)
        if self._keep and taken:
            self.kept += self._buffer[:taken]
        if taken:
            self._sink.put(self._stream, self._buffer[:taken])

    def _grow(self) -> None:
        """For a program that writes a lot: more room in the pipe."""
        if not self._grown:
            self._grown = True
            with contextlib.suppress(PermissionError):  # beyond the user's share, pipe-user-pages-soft: stay small
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _LARGE)


async def feed(fd: int, data: memoryview) -> None:
    """Write `data` to a program's stdin and close it; a program that does not read it all is no error.

    Args:
        fd: The end to write to; not blocking; closed in the end, also when cancelled.
        data: All there is.
    """
    try:
        while data:
            try:
                data = data[os.write(fd, data[:_LARGE]) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(fd)
            except BrokenPipeError:
                return
    finally:
        os.close(fd)
