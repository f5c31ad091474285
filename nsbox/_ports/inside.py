"""Connections into the network namespace of a sandbox, which has a loopback interface and nothing else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable

import trio

from nsbox._errors import NetworkError
from nsbox._ports.replies import RefusedError

PATIENCE_SECONDS = 30.0
"""How long a new connection waits while the sandbox is suspended, or has no processes, before it is refused."""
CONNECT_SECONDS = 10.0
"""How long a connection waits for a server that listens and does not accept: its backlog is full."""

OpenSocket = Callable[[socket.AddressFamily], Awaitable[socket.socket]]
"""Makes a TCP socket in the sandbox's network namespace, neither connected nor blocking."""

_PAUSE_SECONDS = 0.5
_MOST_REQUESTS = 32  # for sockets, at a time: PID 1 serves them one by one, and its queue is the kernel's

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Inside:
    """The loopback interface of one sandbox.

    Args:
        is_frozen: Whether every process in it stands still.
    """

    def __init__(self, is_frozen: Callable[[], bool]) -> None:
        self._is_frozen = is_frozen
        self._open_socket: OpenSocket | None = None
        self._changed = trio.Event()
        self._requests = trio.Semaphore(_MOST_REQUESTS)

    def opened(self, open_socket: OpenSocket) -> None:
        """There are processes, and this makes sockets among them."""
        self._open_socket = open_socket
        self.changed()

    def closed(self) -> None:
        """They are gone."""
        self._open_socket = None
        self.changed()

    def changed(self) -> None:
        """Whether it is frozen may have changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a server in the sandbox, on 127.0.0.1, or else on ::1.

        Nothing is tried again where no server listens: whoever connects is told at once, and may come back.

        Raises:
            RefusedError: With 502 where none listens; with 503 where the sandbox is suspended, or between two lives,
                for longer than `PATIENCE_SECONDS`; with 504 where the server does not accept.

        Cancellation leaves nothing open.
        """
        deadline = trio.current_time() + PATIENCE_SECONDS
        while True:
            open_socket = await self._wait_open(deadline)
            try:
                return await self._connect(open_socket, port)
            except trio.TooSlowError as exc:
                if not self._is_frozen():
                    reason = f"the server on port {port} of the sandbox does not accept connections"
                    raise RefusedError(504, reason) from exc
            except NetworkError as exc:  # PID 1 has died, or its channel broke: both may be mended soon
                if trio.current_time() > deadline:
                    raise RefusedError(503, "the sandbox cannot be reached at the moment") from exc
                with trio.move_on_after(_PAUSE_SECONDS):
                    await self._changed.wait()

    async def _wait_open(self, deadline: float) -> OpenSocket:
        with trio.move_on_at(deadline):
            await trio.lowlevel.checkpoint()
            while (open_socket := self._open_socket) is None or self._is_frozen():
                await self._changed.wait()
            return open_socket
        why = "is suspended" if self._is_frozen() else "is not running"
        raise RefusedError(503, f"the sandbox {why}")

    async def _connect(self, open_socket: OpenSocket, port: int) -> trio.SocketStream:
        for family, address in _LOOPBACK:
            try:
                async with self._requests:
                    made = trio.socket.from_stdlib_socket(await open_socket(family))
            except OSError as exc:
                if exc.errno == errno.EAFNOSUPPORT:
                    continue
                raise RefusedError(503, f"no socket for a connection into the sandbox: {exc.strerror}") from exc
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    await made.connect((address, port))
                # A port of the ephemeral range may be the one that connect(2) has bound this socket to: then it has
                # connected to itself (RFC 9293, 3.5, simultaneous open), and nobody listens there.
                if made.getsockname()[1] != port:
                    return trio.SocketStream(made)
                made.close()
            except OSError:  # refused, or reset at once
                made.close()
            except BaseException:
                made.close()
                raise
        raise RefusedError(502, f"nothing listens on port {port} of the sandbox")
