"""Messages on a stream: each behind its length in two bytes, RFC 1035, 4.2.2."""

from __future__ import annotations

import trio


async def receive_message(stream: trio.SocketStream, largest: int) -> bytes:
    """The next one; nothing where the stream ends before, or where it would be empty, or larger than it may be.

    Raises:
        trio.BrokenResourceError: The connection was cut.
    """
    size = int.from_bytes(await _receive_exactly(stream, 2), "big")
    return await _receive_exactly(stream, size) if size <= largest else b""


async def send_message(stream: trio.SocketStream, wire: bytes) -> None:
    """Send one. Cancelled, it may have sent a part: the stream is of no more use.

    Raises:
        trio.BrokenResourceError: The connection was cut.
    """
    await stream.send_all(len(wire).to_bytes(2, "big") + wire)


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        if not piece:
            return b""
        received += piece
    return bytes(received)
