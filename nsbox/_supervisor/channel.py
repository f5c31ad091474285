"""Requests to the launcher and its answers, over one socket, in one trio run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence

import trio

from nsbox._errors import NetworkError
from nsbox._supervisor import wire
from nsbox._supervisor.start import receive

log = logging.getLogger("nsbox")

_ANSWER_SECONDS = 30.0
"""How long a step of the launcher's may take; the slowest, a cold move between v1 cgroups, takes 20 ms."""


class Answer:
    """What the launcher will say to one request."""

    __slots__ = ("_failure", "_fds", "_on_settled", "_record", "settled_event")

    def __init__(self, on_settled: Callable[[Answer], object] | None = None) -> None:
        self._on_settled = on_settled
        self.settled_event = trio.Event()
        self._record: wire.Record | None = None
        self._fds: list[int] = []
        self._failure: Exception | None = None

    def settle(self, record: wire.Record, fds: list[int]) -> None:
        """Called by the channel."""
        self._record, self._fds = record, fds
        self._announce()

    def break_off(self, failure: Exception) -> None:
        """Called by the channel: no answer will come."""
        if self._record is None:
            self._failure = failure
            self._announce()

    def _announce(self) -> None:
        self.settled_event.set()
        if self._on_settled is not None:
            self._on_settled(self)

    @property
    def settled(self) -> bool:
        """Whether `wait` would return at once."""
        return self.settled_event.is_set()

    def take(self) -> tuple[wire.Record, list[int]]:
        """The record and its descriptors, which are the caller's from now on; once it is settled.

        Raises:
            NetworkError: The launcher died, or the sandbox's PID 1 did.
        """
        if self._record is None:
            raise self._failure or NetworkError("the launcher has ended")
        return self._record, self._fds

    async def wait(self) -> tuple[wire.Record, list[int]]:
        """`take`, as soon as it is settled."""
        await self.settled_event.wait()
        return self.take()


class Channel:
    """The supervisor's end of the socket. All methods are for the one trio run it was made in.

    Args:
        connection: To the launcher, not blocking.
        on_lost: Called with the id of a sandbox whose PID 1 died.
        on_cooled: Called with the id of a kind of sandbox whose warm interpreter died.
    """

    def __init__(
        self, connection: socket.socket, on_lost: Callable[[int], None], on_cooled: Callable[[int], None]
    ) -> None:
        self._socket = connection
        self._on_lost = on_lost
        self._on_cooled = on_cooled
        self._sending = trio.Lock()
        self._answers: dict[tuple[int, int], Answer] = {}
        self._started: dict[int, Answer] = {}
        self._broken: Exception | None = None

    @property
    def broken(self) -> bool:
        """Whether the launcher is gone."""
        return self._broken is not None

    async def read(self) -> None:
        """Hand out answers until the launcher is gone; for the whole life of the channel, in one task."""
        try:
            while True:
                try:
                    record, fds = receive(self._socket)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket.fileno())
                    continue
                try:
                    self._hand_out(record, fds)
                except Exception:
                    # who waits for one record must not take the launcher, and so every other sandbox, along
                    log.exception("a record of the launcher's could not be dealt with: %s", record.type.name)
        except (NetworkError, OSError) as exc:
            self._break(exc if isinstance(exc, NetworkError) else NetworkError(f"the launcher's socket broke: {exc}"))
        finally:
            self._break(NetworkError("the supervisor has ended"))

    def _hand_out(self, record: wire.Record, fds: list[int]) -> None:
        if record.type is wire.Up.LOST:
            (self._on_cooled if record.of == wire.Down.WARM else self._on_lost)(record.id)
            return
        if record.type is wire.Up.STARTED:
            answer = self._started.pop(record.id, None)
        else:
            answer = self._answers.pop((record.of, record.id), None)
            if record.of == wire.Down.EXEC and (waiting := self._started.pop(record.id, None)):
                waiting.break_off(NetworkError("it has ended"))
        if answer is not None:
            answer.settle(record, fds)
        else:
            for fd in fds:
                os.close(fd)

    def _break(self, failure: NetworkError) -> None:
        if self._broken is not None:
            return
        self._broken = failure
        for answer in (*self._answers.values(), *self._started.values()):
            answer.break_off(failure)
        self._answers.clear()
        self._started.clear()

    async def send(
        self,
        type: wire.Down,
        id: int,
        *,
        parent: int = 0,
        flags: int = 0,
        payload: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """Send one request. The descriptors remain the caller's.

        Raises:
            NetworkError: The launcher is gone.
        """
        header = wire.DOWN.pack(type, id, parent, flags, len(payload))
        if len(payload) <= wire.INLINE_PAYLOAD:
            await self._send_packet([header, payload], fds)
            return
        memfd = os.memfd_create("nsbox-payload", os.MFD_CLOEXEC)
        try:
            write_all(memfd, payload)
            await self._send_packet([header], [*fds, memfd])
        finally:
            os.close(memfd)

    def _try_to_send(self, parts: list[bytes], fds: Sequence[int]) -> bool:
        """Send at once, if nobody else is waiting to. False: there is no room."""
        if self._broken is not None:
            raise self._broken
        if self._sending.locked():
            return False
        try:
            socket.send_fds(self._socket, parts, fds)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._break(NetworkError("the launcher has ended"))
            raise NetworkError("the launcher has ended") from exc
        return True

    async def _send_packet(self, parts: list[bytes], fds: Sequence[int]) -> None:
        if self._try_to_send(parts, fds):
            return
        async with self._sending:
            while True:
                if self._broken is not None:
                    raise self._broken
                try:
                    socket.send_fds(self._socket, parts, fds)
                    return
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket.fileno())
                except OSError as exc:
                    if exc.errno not in (errno.EPIPE, errno.ECONNRESET):
                        raise
                    self._break(NetworkError("the launcher has ended"))

    def expect(self, type: wire.Down, id: int, on_settled: Callable[[Answer], object] | None = None) -> Answer:
        """Prepare for the answer to a request that is about to be sent.

        Args:
            type: The request.
            id: Whose.
            on_settled: Called with the answer when it comes, or when it is certain that none will.

        Raises:
            NetworkError: The launcher is gone.
        """
        if self._broken is not None:
            raise self._broken
        return self._answers.setdefault((type, id), Answer(on_settled))

    def ask_ahead(self, type: wire.Down, id: int, parent: int, on_settled: Callable[[Answer], object]) -> bool:
        """Ask for something that nobody waits for. False: not asked, for want of room to send or of a launcher."""
        if self._broken is not None:
            return False
        self.expect(type, id, on_settled)
        with contextlib.suppress(NetworkError):  # who waits for an answer is told already
            if self._try_to_send([wire.DOWN.pack(type, id, parent, wire.CREATE_AHEAD, 0)], ()):
                return True
        self._answers.pop((type, id), None)
        return False

    def expect_start(self, id: int, on_settled: Callable[[Answer], object]) -> None:
        """Prepare for `Up.STARTED` of an execution that is about to be sent; it may never come."""
        self._started[id] = Answer(on_settled)

    def break_off(self, type: wire.Down, id: int, failure: Exception) -> None:
        """Let who waits for an answer know that none will come."""
        if answer := self._answers.pop((type, id), None):
            answer.break_off(failure)

    async def request(
        self, type: wire.Down, id: int, *, parent: int = 0, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> tuple[wire.Record, list[int]]:
        """Ask, and wait for the answer. Not cancelled once sent: it is short, and half of it is nobody's.

        Raises:
            NetworkError: The launcher died, or did not answer.
        """
        answer = self.expect(type, id)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ANSWER_SECONDS) as scope:
            await self.send(type, id, parent=parent, payload=payload, fds=fds)
            await answer.settled_event.wait()
        if not scope.cancelled_caught:
            return answer.take()
        self._answers.pop((type, id), None)
        raise NetworkError(f"the launcher did not answer to {type.name.lower()} within {_ANSWER_SECONDS:g} s")

    def close(self) -> None:
        """Close the socket, which ends the launcher."""
        self._break(NetworkError("the supervisor has ended"))
        with contextlib.suppress(OSError):  # a child that the application forked may hold it open, too: end it for all
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def write_all(fd: int, data: bytes) -> None:
    """Write to a file in memory, to the end."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
