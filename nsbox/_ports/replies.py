"""What a client is told where there is no server to answer it."""

from __future__ import annotations

import http

import trio

RETRY_SECONDS = 5
"""What `Retry-After` says (RFC 9110, 10.2.3)."""

_REQUEST_SECONDS = 10.0
"""How long a client that is to be refused may take to begin its request."""
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 1 << 20


class RefusedError(Exception):
    """A request that gets no answer from a sandbox.

    Args:
        status: Of HTTP.
        reason: A line for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the answer."""
        found = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(self.body)),
            (b"Connection", b"close"),
        ]
        if self.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            found.append((b"Retry-After", b"%d" % RETRY_SECONDS))
        return found

    @property
    def body(self) -> bytes:
        """Of the answer."""
        return f"nsbox: {self}\n".encode()

    @property
    def phrase(self) -> bytes:
        """What the status is called."""
        return http.HTTPStatus(self.status).phrase.encode()


async def answer(near: trio.SocketStream, refusal: RefusedError) -> None:
    """Tell a client on a connection of its own, and close it. It is told when it has asked: a browser opens
    connections ahead, and takes an answer to nothing for an error.

    Raises:
        trio.BrokenResourceError: It has gone.
    """
    with trio.move_on_after(_REQUEST_SECONDS):
        if not await near.receive_some(1):
            return
    head = b"HTTP/1.1 %d %s\r\n" % (refusal.status, refusal.phrase)
    head += b"".join(b"%s: %s\r\n" % header for header in refusal.headers)
    await near.send_all(head + b"\r\n" + refusal.body)
    await linger(near)


async def linger(near: trio.SocketStream) -> None:
    """Send an end of file, and read on for a while: closing a socket with unread bytes resets the connection, and
    the client might never see the answer (RFC 9112, 9.6).
    """
    await near.send_eof()
    left = _LINGER_BYTES
    with trio.move_on_after(_LINGER_SECONDS):
        while left > 0 and (data := await near.receive_some(min(left, 65_536))):
            left -= len(data)
