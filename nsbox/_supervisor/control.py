"""The control channel to a sandbox's PID 1: msgpack frames over a socket pair that only the two of them hold.

native/control.h is the other end. PID 1 is nsbox's own process, but it lives in the sandbox: what comes from it is
bounded, checked, and dropped where nobody asked for it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final

import msgpack
import trio

from nsbox._errors import NetworkError

log = logging.getLogger("nsbox")

FRAME_BYTES: Final = 512
"""The most that either side sends in one frame."""
_SOCKET_SECONDS = 10.0
_FRAMES_AT_ONCE = 16  # what is left is readable still, and another channel's turn comes first
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)

Settle = Callable[[dict[str, Any] | NetworkError, socket.socket | None], object]
"""Called once with the answer and what came with it, or with why none will come."""


class ControlWatcher:
    """Waits for all control channels of a supervisor in one task: an idle sandbox costs a descriptor in an epoll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], object]] = {}

    async def run(self) -> None:
        """Call readers until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0, 64):
                reader = self._readers.get(fd)
                if reader is None:
                    continue
                try:
                    reader()
                except Exception:
                    log.exception("a control channel is given up")  # a bug of one sandbox's must not stop all others
                    self.remove(fd)
            await trio.lowlevel.checkpoint()

    def add(self, fd: int, reader: Callable[[], object]) -> None:
        """Have `reader` called whenever there is something to read, an end of file too."""
        if not self._epoll.closed:
            self._epoll.register(fd, select.EPOLLIN)
            self._readers[fd] = reader

    def remove(self, fd: int) -> None:
        """Before it is closed."""
        if self._readers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """No channel is watched any more."""
        self._readers.clear()
        self._epoll.close()


class Control:
    """The supervisor's end of one control channel. The object stays when the channel is replaced by another.

    Args:
        watcher: Of the supervisor.
    """

    __slots__ = ("_numbers", "_socket", "_waiting", "_watcher", "on_closed")

    def __init__(self, watcher: ControlWatcher) -> None:
        self._watcher = watcher
        self._socket: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Settle] = {}
        self.on_closed: Callable[[NetworkError], object] | None = None
        """Called when the channel breaks; not when it is closed here."""

    @property
    def open(self) -> bool:
        """Whether there is a channel, as far as is known."""
        return self._socket is not None

    def take(self, fd: int) -> None:
        """A new channel, in place of the old one; requests on that one fail."""
        self.close(NetworkError("the control channel was replaced by a new one"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self._watcher.add(fd, self._read)

    def close(self, reason: NetworkError | None = None) -> None:
        """Close the channel; requests on it fail with `reason`. A second time, nothing."""
        if self._socket is not None:
            self._watcher.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
            waiting, self._waiting = self._waiting, {}
            for settle in waiting.values():
                settle(reason or NetworkError("the control channel was closed"), None)

    def ignore(self) -> None:
        """Its end is expected, and nobody has to wake up for it."""
        if self._socket is not None:
            self._watcher.remove(self._socket.fileno())

    async def ping(self, seconds: float) -> None:
        """Have PID 1 answer.

        Args:
            seconds: Seconds to wait for that.

        Raises:
            NetworkError: It did not, or the channel is broken.
        """
        await self._request(seconds, op="ping")

    async def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, *, seconds: float = _SOCKET_SECONDS
    ) -> socket.socket:
        """A socket that PID 1 makes in the sandbox's network namespace, where it stays whoever uses it (socket(2)).

        Args:
            family: AF_INET or AF_INET6.
            kind: SOCK_STREAM or SOCK_DGRAM.
            seconds: Seconds to wait for it. PID 1 of a suspended sandbox gives none.

        Returns:
            Not bound, not connected, not blocking; the caller's to close.

        Raises:
            NetworkError: PID 1 did not answer, or the channel is broken.
            OSError: The kernel refused: no such family there, or too many open files.
        """
        if family not in _FAMILIES or kind not in _KINDS:
            raise ValueError(f"a socket of family {family} and type {kind} is not to be had")
        answer, made = await self._request(seconds, op="socket", family=int(family), type=int(kind))
        if answer["errno"]:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        assert made is not None
        return made

    def ask(self, settle: Settle, **request: Any) -> int:
        """Send a request without waiting.

        Args:
            settle: Called with the answer.
            request: Beside its number.

        Returns:
            Its number, for `forget`.

        Raises:
            NetworkError: It was not sent.
        """
        if self._socket is None:
            raise NetworkError("there is no control channel to the sandbox's PID 1")
        number = next(self._numbers)
        try:
            self._socket.send(msgpack.packb({"n": number, **request}))
        except BlockingIOError:
            raise NetworkError("the sandbox's PID 1 reads nothing from its control channel") from None
        except OSError as exc:
            self._break(NetworkError(f"the control channel broke: {exc.strerror}"))
            raise NetworkError(f"the control channel broke: {exc.strerror}") from exc
        self._waiting[number] = settle
        return number

    def forget(self, number: int) -> None:
        """Nobody waits any more: a late answer is dropped."""
        self._waiting.pop(number, None)

    async def _request(self, seconds: float, **request: Any) -> tuple[dict[str, Any], socket.socket | None]:
        settled = trio.Event()
        answers: list[tuple[dict[str, Any] | NetworkError, socket.socket | None]] = []

        def settle(answer: dict[str, Any] | NetworkError, made: socket.socket | None) -> None:
            answers.append((answer, made))
            settled.set()

        number = self.ask(settle, **request)
        try:
            with trio.move_on_after(seconds):
                await settled.wait()
        except BaseException:
            for _, made in answers:
                if made is not None:
                    made.close()
            raise
        finally:
            self.forget(number)
        if not answers:
            raise NetworkError(f"the sandbox's PID 1 did not answer within {seconds:g} s")
        answer, made = answers[0]
        if isinstance(answer, NetworkError):
            raise answer
        return answer, made

    def _break(self, reason: NetworkError) -> None:
        if self._socket is not None:
            self.close(reason)
            if self.on_closed is not None:
                self.on_closed(reason)

    def _read(self) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            if self._socket is None:
                return
            try:
                frame, fds, cut = _receive(self._socket)
            except BlockingIOError:
                return
            except OSError as exc:
                self._break(NetworkError(f"the control channel broke: {exc.strerror}"))
                return
            if not frame:
                _close_all(fds)
                self._break(NetworkError("the sandbox's PID 1 has closed its control channel"))
                return
            self._hand_out(frame, fds, cut)

    def _hand_out(self, frame: bytes, fds: list[int], cut: bool) -> None:
        try:
            answer = _decode(frame)
            if cut and not fds and answer["op"] == "socket":
                answer["errno"] = errno.EMFILE  # PID 1 has sent it, and this process can have no more open
            settle = self._waiting.get(answer["n"])
            made = _take_socket(answer, fds) if settle is not None else None
        except ValueError as exc:
            _close_all(fds)
            self._break(NetworkError(f"the sandbox's PID 1 talks nonsense on its control channel: {exc}"))
            return
        _close_all(fds)
        if settle is not None:
            del self._waiting[answer["n"]]
            settle(answer, made)


def _receive(connection: socket.socket) -> tuple[bytes, list[int], bool]:
    """A frame, the descriptors that came with it, and whether some were lost on the way (recvmsg(2), MSG_CTRUNC)."""
    fds = array.array("i")
    frame, ancillary, flags, _ = connection.recvmsg(
        FRAME_BYTES + 1, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return frame, list(fds), bool(flags & socket.MSG_CTRUNC)


def _decode(frame: bytes) -> dict[str, Any]:
    """An answer: a number, and an errno where it is one about a socket.

    Raises:
        ValueError: It is none.
    """
    if len(frame) > FRAME_BYTES:
        raise ValueError("a frame that is too long")
    try:
        answer = msgpack.unpackb(
            frame, raw=False, strict_map_key=True, max_str_len=32, max_bin_len=0, max_array_len=0, max_map_len=8,
            max_ext_len=0,
        )  # fmt: skip
    except Exception as exc:
        # msgpack's errors have no common base; a RecursionError is one of them
        raise ValueError(f"no msgpack ({type(exc).__name__})") from exc
    if not isinstance(answer, dict) or type(answer.get("n")) is not int:
        raise ValueError("no answer")
    known = {"pong": {"op", "n"}, "socket": {"op", "n", "errno"}}
    op = answer.get("op")
    if not isinstance(op, str) or set(answer) != known.get(op, set()):
        raise ValueError("no answer that is known")
    if op == "socket" and (type(answer["errno"]) is not int or not 0 <= answer["errno"] <= 4095):
        raise ValueError("no errno")
    return answer


def _take_socket(answer: dict[str, Any], fds: list[int]) -> socket.socket | None:
    """What came along, taken out of `fds`.

    Raises:
        ValueError: It is not what was promised.
    """
    if answer["op"] != "socket" or answer["errno"]:
        return None
    if len(fds) != 1:
        raise ValueError("no socket where one was promised")
    try:
        made = socket.socket(fileno=fds[0])
    except OSError as exc:
        raise ValueError("no socket where one was promised") from exc
    fds.clear()
    made.setblocking(False)  # as it is: Python takes every descriptor for a blocking one
    if made.family not in _FAMILIES or made.type not in _KINDS:
        made.close()
        raise ValueError("a socket of another kind")
    return made


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    fds.clear()
