"""One HTTP client of the gateway: each of its requests goes to the sandbox that its Host header names.

Each request gets a connection of its own into the sandbox, so that no answer can be taken for that of another request,
whatever a server in there writes. Both sides are parsed and written anew by h11; nothing is passed on as it came, but
for the bytes after a change of protocol (a WebSocket).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import h11
import trio

from nsbox._ports.forward import CHUNK, abort, keep_alive, splice, wait_gone
from nsbox._ports.heads import (
    LARGEST_HEAD,
    check_request,
    find_host,
    notice_outward,
    request_inward,
    response_outward,
)
from nsbox._ports.inside import Inside
from nsbox._ports.links import Links
from nsbox._ports.names import host_of
from nsbox._ports.replies import RefusedError, linger

IDLE_SECONDS = 60.0
"""How long a client may take for the head of a request, and between two."""

_MOST_NOTICES = 64  # of 1xx before one response


class Route(Protocol):
    """Where requests for a host go."""

    @property
    def inside(self) -> Inside:
        """Of the sandbox."""

    @property
    def port(self) -> int:
        """In the sandbox."""

    @property
    def links(self) -> Links:
        """Of that port."""


Find = Callable[[str], Route | None]
"""By the name of a host."""


async def serve_client(near: trio.SocketStream, find: Find) -> None:
    """Serve one connection until it ends. The stream is closed afterwards.

    Args:
        near: Of the client.
        find: Where a host is.

    Raises:
        trio.BrokenResourceError: The client has gone.
    """
    keep_alive(near)
    client = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
    try:
        while await _serve_request(near, client, find):
            client.start_next_cycle()
    except BaseException:
        abort(near)
        raise


async def _serve_request(near: trio.SocketStream, client: h11.Connection, find: Find) -> bool:
    """Whether another one may follow on the connection."""
    method = b""
    try:
        request = await _read_request(near, client)
        if request is None:
            return False
        method = request.method
        check_request(request)
        host, target = find_host(request)
        name = host_of(host)
        route = None if name is None else find(name)
        if route is None:
            raise RefusedError(404, "no such host")
        if route.links.full:
            raise RefusedError(503, "too many connections to this port of the sandbox")
        peer = near.socket.getpeername()[0]
        again = False
        with route.links.link() as link:
            far = await route.inside.connect(route.port)
            link.inward = True
            try:
                again = await _Exchange(near, client, far).run(request_inward(request, host, target, peer))
            except BaseException:
                abort(far)
                raise
            finally:
                far.socket.close()
        if link.scope.cancelled_caught:
            abort(near)
        elif not again and near.socket.fileno() >= 0:
            await linger(near)
        return again
    except RefusedError as refusal:
        await _refuse(near, client, method, refusal)
    except h11.RemoteProtocolError as exc:
        await _refuse(near, client, method, RefusedError(exc.error_status_hint, str(exc)))
    return False


async def _read_request(near: trio.SocketStream, client: h11.Connection) -> h11.Request | None:
    with trio.move_on_after(IDLE_SECONDS):
        event = await _next(near, client)
        return event if isinstance(event, h11.Request) else None
    if client.trailing_data[0]:
        raise RefusedError(408, "the head of the request was not complete in time")
    return None


async def _next(stream: trio.SocketStream, connection: h11.Connection) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(CHUNK))
    return event


async def _send(stream: trio.SocketStream, connection: h11.Connection, event: Any) -> None:
    data = connection.send(event)
    if data:
        await stream.send_all(data)


async def _refuse(near: trio.SocketStream, client: h11.Connection, method: bytes, refusal: RefusedError) -> None:
    if client.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # too late to say so: a part of an answer is out
        abort(near)
        return
    response = h11.Response(status_code=refusal.status, reason=refusal.phrase, headers=refusal.headers)
    with contextlib.suppress(trio.BrokenResourceError):
        await _send(near, client, response)
        if method != b"HEAD":
            await _send(near, client, h11.Data(data=refusal.body))
        await linger(near)


class _FarIsBrokenError(Exception):
    """The server reads no more."""


class _Exchange:
    """One request and its response.

    Args:
        near: The client.
        client: What it has said so far: a request, of which the body may be to come.
        far: A new connection to the server.
    """

    def __init__(self, near: trio.SocketStream, client: h11.Connection, far: trio.SocketStream) -> None:
        self._near, self._client, self._far = near, client, far
        self._server = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        self._fault: Exception | None = None
        self._uploaded = trio.Event()

    async def run(self, request: h11.Request) -> bool:
        """Whether the client's connection can take another request.

        Raises:
            RefusedError: The server gave no response that can be passed on.
            h11.RemoteProtocolError: The client's body is malformed.
            trio.BrokenResourceError: The client has gone.
        """
        switched = False
        keep_alive(self._far)
        async with trio.open_nursery() as nursery:
            try:
                with contextlib.suppress(trio.BrokenResourceError):  # it may have answered before it was asked
                    await _send(self._far, self._server, request)
                nursery.start_soon(self._upload, nursery.cancel_scope)
                switched = await self._download()
            except h11.LocalProtocolError as exc:  # what can be read cannot always be written
                self._fault = self._fault or RefusedError(502, f"the server in the sandbox does not speak HTTP: {exc}")
            except (RefusedError, trio.BrokenResourceError) as exc:
                self._fault = self._fault or exc
            nursery.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault
        if switched:
            await self._tunnel()
            return False
        return self._client.our_state is h11.DONE and self._client.their_state is h11.DONE

    async def _upload(self, everything: trio.CancelScope) -> None:
        try:
            try:
                while isinstance(event := await _next(self._near, self._client), h11.Data):
                    await self._send_far(event)
                await self._send_far(h11.EndOfMessage())  # trailers are for this connection only
                self._uploaded.set()
            except _FarIsBrokenError:
                pass  # a server may answer and close before it has it all
            await wait_gone(self._near)
            raise trio.BrokenResourceError("the client has gone")
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as exc:
            self._fault = exc
            everything.cancel()

    async def _send_far(self, event: Any) -> None:
        try:
            await _send(self._far, self._server, event)
        except (trio.BrokenResourceError, h11.LocalProtocolError) as exc:
            raise _FarIsBrokenError from exc

    async def _download(self) -> bool:
        """Pass the response on; whether it is the change to another protocol."""
        notices = 0
        while True:
            event = await self._next_far()
            if isinstance(event, h11.InformationalResponse):
                notices += 1
                if notices > _MOST_NOTICES:
                    raise RefusedError(502, "the server in the sandbox does not come to an answer")
                if event.status_code == 101:
                    await self._uploaded.wait()
                    await _send(self._near, self._client, notice_outward(event))
                    return True
                if self._client.their_http_version == b"1.1":
                    await _send(self._near, self._client, notice_outward(event))
            elif isinstance(event, h11.Response):
                await _send(self._near, self._client, response_outward(event))
            elif isinstance(event, h11.Data):
                await _send(self._near, self._client, h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await _send(self._near, self._client, h11.EndOfMessage())
                return False
            else:
                raise RefusedError(502, "the server in the sandbox closed the connection without an answer")

    async def _next_far(self) -> Any:
        try:
            return await _next(self._far, self._server)
        except h11.RemoteProtocolError as exc:
            raise RefusedError(502, f"the server in the sandbox does not speak HTTP: {exc}") from exc
        except trio.BrokenResourceError as exc:
            raise RefusedError(502, "the server in the sandbox closed the connection") from exc

    async def _tunnel(self) -> None:
        early, late = self._client.trailing_data[0], self._server.trailing_data[0]
        try:
            await self._far.send_all(early)
            await self._near.send_all(late)
        except trio.BrokenResourceError:
            abort(self._near, self._far)
            return
        await splice(self._near, self._far)
