"""Sockets that listen on the host, on its loopback interface or on all of them."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable

import psutil
import trio

from nsbox._errors import SetupError
from nsbox._supervisor.background import start_soon

log = logging.getLogger("nsbox")

_BACKLOG = 1024
_TRIES = 16
_PAUSE_SECONDS = 0.1  # where this process has no descriptor left, say

_ADDRESSES = {
    False: ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")),
    True: ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")),  # noqa: S104  # asked for by public=True
}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

Serve = Callable[[trio.SocketStream], Awaitable[object]]
"""Serves a client, and closes its stream."""


def listen(*, public: bool, port: int = 0, told_by: str = "") -> list[trio.SocketListener]:
    """Listen on one port, by IPv4, and by IPv6 where this host has it.

    Args:
        public: On all interfaces, not on loopback only.
        port: 0: one that is free.
        told_by: Where the port comes from, for a message.

    Raises:
        SetupError: The port is taken, or may not be had; this process may have no more descriptors.
    """
    for attempt in range(_TRIES):
        made: list[trio.SocketListener] = []
        wanted = port
        try:
            for family, address in _ADDRESSES[public]:
                try:
                    made.append(_listen(family, address, wanted))
                except OSError as exc:
                    if not (made and exc.errno in _NO_IPV6):
                        raise
                wanted = made[0].socket.getsockname()[1]
        except OSError as exc:
            for one in made:
                one.socket.close()
            if exc.errno == errno.EADDRINUSE and port == 0 and attempt < _TRIES - 1:
                continue  # what was free for IPv4 is not for IPv6
            where = f"port {port}" + (f" ({told_by})" if told_by else "")
            raise SetupError("listen", exc.errno or errno.EINVAL, exc.strerror or "", where) from exc
        return made
    raise AssertionError("unreachable")


def _listen(family: socket.AddressFamily, address: str, port: int) -> trio.SocketListener:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(made))
    except BaseException:
        made.close()
        raise


def host_name() -> str:
    """How other machines may call this one: its first address that is not its own alone, else its name.

    Nothing is sent to find out. An address of IPv4 goes before one of IPv6.
    """
    with contextlib.suppress(OSError):
        found = [one for many in psutil.net_if_addrs().values() for one in many]
        for family, own in ((socket.AF_INET, ("127.", "169.254.")), (socket.AF_INET6, ("::1", "fe80:"))):
            for one in found:
                if one.family == family and not one.address.startswith(own):
                    return one.address if family == socket.AF_INET else f"[{one.address}]"
    return socket.gethostname()


class Listening:
    """Listeners and the connections that they have accepted.

    Args:
        listeners: All on one port.
        serve: For each connection, in a task of its own.
        most: Connections at a time; the others wait in the kernel's backlog.
    """

    def __init__(self, listeners: list[trio.SocketListener], serve: Serve, most: int) -> None:
        self._listeners = listeners
        self._serve = serve
        self._slots = trio.Semaphore(most)
        self._ended = trio.Event()
        self.port: int = listeners[0].socket.getsockname()[1]
        self._scope = start_soon(self._run)

    def stop(self) -> None:
        """Listen no more, from now on, and cut every connection; those are gone a moment later."""
        for listener in self._listeners:
            listener.socket.close()
        self._scope.cancel()

    async def wait_closed(self) -> None:
        """Wait until all is closed."""
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        finally:
            for listener in self._listeners:
                listener.socket.close()
            self._ended.set()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while listener.socket.fileno() >= 0:
            try:
                await trio.lowlevel.wait_readable(listener.socket)
                await self._slots.acquire()
            except trio.ClosedResourceError:
                return  # stopped
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as exc:
                self._slots.release()
                log.warning("port %d: a connection was not accepted: %s", self.port, exc)
                await trio.sleep(_PAUSE_SECONDS)
                continue
            except BaseException:
                self._slots.release()
                raise
            nursery.start_soon(self._serve_one, stream)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, OSError):
            log.debug("port %d: a client has gone", self.port)
        except Exception:
            log.exception("port %d: a connection failed", self.port)
        finally:
            stream.socket.close()
            self._slots.release()
