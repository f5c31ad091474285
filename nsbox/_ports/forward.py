"""One connection: bytes both ways, until both sides have said that they are done."""

from __future__ import annotations

import contextlib
import socket
import struct

import trio

from nsbox._ports.inside import Inside
from nsbox._ports.links import Links
from nsbox._ports.replies import RefusedError, answer

CHUNK = 65_536
"""Bytes that are read at a time: all that is buffered here, for each direction."""

_TCP_CLOSE = 7  # <linux/tcp.h>, the first byte of struct tcp_info
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_LOOK_SECONDS = 30.0


def abort(*streams: trio.SocketStream) -> None:
    """Close by a reset, socket(7) SO_LINGER: what was cut off must not look as if it were complete."""
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


def keep_alive(stream: trio.SocketStream) -> None:
    """Have the kernel find out that the other side is gone, tcp(7)."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


async def wait_gone(stream: trio.SocketStream) -> None:
    """Wait until the kernel has given a connection up. Whoever only waits to write would never hear of it."""
    with contextlib.suppress(OSError):
        while stream.socket.fileno() >= 0:
            if stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                return
            await trio.sleep(_LOOK_SECONDS)


async def forward(near: trio.SocketStream, inside: Inside, port: int, links: Links, *, http: bool) -> None:
    """Connect a client to a server in a sandbox, and wait until they are done.

    Args:
        near: The client; closed afterwards.
        inside: Of the sandbox.
        port: Of the server.
        links: Of that port.
        http: Whether a client that is refused is told in HTTP; else its connection is reset.
    """
    keep_alive(near)
    try:
        with links.link() as link:
            far = await inside.connect(port)
            link.inward = True
            await splice(near, far)
        if link.scope.cancelled_caught:
            abort(near)
    except RefusedError as refusal:
        if http:
            with contextlib.suppress(trio.BrokenResourceError):
                await answer(near, refusal)
        else:
            abort(near)
    except BaseException:
        abort(near)
        raise
    finally:
        near.socket.close()


async def splice(near: trio.SocketStream, far: trio.SocketStream) -> None:
    """Copy both ways; an end of file is passed on, and the other direction goes on. Both are closed afterwards: in
    order when both have ended so, else by a reset. Cancellation resets both.
    """
    broken = True
    try:
        broken = await _Splice(near, far).run()
    finally:
        if broken:
            abort(near, far)
        near.socket.close()
        far.socket.close()


class _Splice:
    def __init__(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self._streams = (near, far)
        self._broken = False
        self._copying = 2
        self._all = trio.CancelScope()

    async def run(self) -> bool:
        near, far = self._streams
        keep_alive(far)
        with self._all:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, near, far)
                nursery.start_soon(self._copy, far, near)
        return self._broken

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(CHUNK):
                try:
                    await sink.send_all(data)
                except trio.BrokenResourceError:
                    # What the other side has sent before it left is still to be read: its last words.
                    self._broken = True
                    break
            else:
                with contextlib.suppress(trio.BrokenResourceError):
                    await sink.send_eof()
        except trio.BrokenResourceError:
            self._broken = True
            self._all.cancel()
            return
        self._copying -= 1
        if self._copying:
            await wait_gone(source)
            self._broken = True
        self._all.cancel()
