"""The resolver: what all sandboxes with a network ask for names.

It passes on what policy lets pass to the servers of the host, and does no recursion of its own. It keeps no answers,
either: the servers do, and what is kept here would have to be judged again at every change of a policy.

What runs in a sandbox can send it anything, at any rate. Each sandbox has a share of its time, of its descriptors and
of its memory; what it sends beyond is dropped, waits, or is answered SERVFAIL.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from nsbox._network.names import Names
from nsbox._network.shares import Account, Budget, Shares
from nsbox._network.streams import receive_message, send_message

if TYPE_CHECKING:
    from nsbox._network.answering import Answering

log = logging.getLogger("nsbox")

IDLE_SECONDS = 10.0
"""How long a connection may take for its next query, and to read an answer; RFC 7766, 6.2.3, has "a few"."""

SHARE = 0.4
"""Of the event loop's time, which is the application's: what all sandboxes together may have. One alone has a half."""

SHARE_SECONDS = 4.0
"""How long what was used counts. One alone can use 0.8 s at once after a pause: that is some thousand questions."""

QUERY_SECONDS = 0.000_05
"""What a query or a connection takes before it has a task whose time is measured."""

CONNECTIONS_EACH = 8
CONNECTIONS_MOST = 64

_LARGEST_QUERY = 1024  # queries.LARGEST_QUERY; a test holds them equal, since that module takes 30 ms to import
_BACKLOG = 64
_TURN = 32  # datagrams, before others have theirs
_TURN_QUERIES = 4  # of them that are answered: each may take 2 ms
_BREATH_SECONDS = 0.001  # after so many, and after each connection: also to drop them takes time
_PAUSE_SECONDS = 0.1  # where this process has no descriptor left, say


class Resolver:
    """Answers the queries that come to two sockets.

    Args:
        udp: Bound. It stays the caller's, to be closed after `run`.
        tcp: Bound, not listening. The same.
        find: What is known of the sandbox that has an address; None: nobody has it, and it is not answered. It is
            asked anew for each query, and once more when a server has answered.
        upstreams: Addresses and ports of servers, in the order in which they are asked; None: those of the host's
            /etc/resolv.conf, read anew when that changes.
    """

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        find: Callable[[str], Names | None],
        upstreams: Sequence[tuple[str, int]] | None = None,
    ) -> None:
        self._udp = udp
        self._tcp = tcp
        self._find = find
        self._upstreams = upstreams
        self._budget = Budget(SHARE, SHARE_SECONDS)
        self._connections = Shares(CONNECTIONS_EACH, CONNECTIONS_MOST)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is closed, and what was asked stays without an answer.

        Raises:
            OSError: The TCP socket cannot listen.
        """
        from nsbox._network.answering import Answering  # noqa: PLC0415  # dnspython, 30 ms that only who needs it pays

        answering = Answering(self._find, self._upstreams)
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        self._tcp.listen(_BACKLOG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, answering, nursery)
            nursery.start_soon(self._accept, answering, nursery)
            task_status.started()

    async def _receive(self, answering: Answering, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._udp)
            begun = 0
            for _ in range(_TURN):
                try:
                    wire, address = self._udp.recvfrom(_LARGEST_QUERY + 1)
                except OSError as exc:
                    if not isinstance(exc, BlockingIOError):
                        log.warning("resolver: nothing was received: %s", exc)
                        await trio.sleep(_PAUSE_SECONDS)
                    break
                account = self._account_of(address[0])
                if account is not None and not account.wait_seconds():
                    account.pay(QUERY_SECONDS)
                    nursery.start_soon(account.run, self._answer_datagram, answering, wire, address, account)
                    begun += 1
                    if begun == _TURN_QUERIES:
                        break
            else:
                await trio.sleep(_BREATH_SECONDS)

    async def _answer_datagram(
        self, answering: Answering, wire: bytes, address: tuple[str, int], account: Account
    ) -> None:
        answer = await answering.answer(wire, account, is_stream=False)
        if answer is not None:
            try:
                # Never waited for: the buffer may be full of what a sandbox with little bandwidth does not take.
                self._udp.sendto(answer, address)
            except OSError as exc:
                log.debug("resolver: an answer to %s was not sent: %s", address[0], exc)

    async def _accept(self, answering: Answering, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._tcp)
            try:
                connection, (source, _) = self._tcp.accept()
            except BlockingIOError:
                continue  # it has gone again
            except OSError as exc:
                log.warning("resolver: a connection was not accepted: %s", exc)
                await trio.sleep(_PAUSE_SECONDS)
                continue
            account = self._account_of(source)
            scope = None if account is None else self._connections.take(source)
            if account is None or scope is None:
                connection.close()
            else:
                account.pay(QUERY_SECONDS)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                nursery.start_soon(account.run, self._serve, answering, stream, account, scope)
            await trio.sleep(_BREATH_SECONDS)

    async def _serve(
        self, answering: Answering, stream: trio.SocketStream, account: Account, scope: trio.CancelScope
    ) -> None:
        """One query after the other, each behind its length (RFC 1035, 4.2.2)."""
        try:
            with scope:
                while True:
                    with trio.fail_after(IDLE_SECONDS):
                        wire = await receive_message(stream, _LARGEST_QUERY)
                    if not wire:
                        break
                    await account.wait()
                    account.pay(QUERY_SECONDS)
                    answer = await answering.answer(wire, account, is_stream=True)
                    if answer is None:
                        break
                    with trio.fail_after(IDLE_SECONDS):
                        await send_message(stream, answer)
        except (trio.BrokenResourceError, trio.TooSlowError, OSError) as exc:
            log.debug("resolver: a connection of %s: %s", account.who, exc)
        finally:
            stream.socket.close()
            self._connections.give_back(account.who, scope)

    def _account_of(self, source: str) -> Account | None:
        """Of a sandbox; None: nobody has the address."""
        return None if self._find(source) is None else Account(self._budget, source)
