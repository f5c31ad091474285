"""The servers that the resolver asks: those of the host, resolv.conf(5).

Each question has a socket of its own, connected to one server, from a port that the kernel picks at random. With the
message's number that is about 32 bits that somebody who cannot see the packets has to guess (RFC 5452).

Whoever asks may own the domain, and have its servers say what takes longest to read: replies are read one at a time,
with others' turns in between, and each so far as a bounded labour goes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire
import trio

from nsbox._network.shares import Account, Shares
from nsbox._network.streams import receive_message, send_message

log = logging.getLogger("nsbox")

PATIENCE_SECONDS = 1.0
"""After so long without an answer the next server is asked, too; the first may still answer."""

RESEND_SECONDS = 1.5
"""After so long a datagram counts as lost."""

LARGEST_REPLY = 16_384
"""Bytes that are taken. Large sets of TXT, MX and NS have some thousands."""

MOST_LABOUR = 6_000
"""Of reading a reply, in which nothing else happens, and of telling it then: for 1 each takes about a microsecond."""

MOST_ADDRESSES = 64
"""Of a reply, the first ones; what is behind them is not read. A program is told of some of those, at most 32."""

SOCKETS_EACH = 64
SOCKETS_MOST = 256
"""Of all sandboxes: each is a descriptor, of which a process often has 1024. A question to servers that are all slow
has one for each of them, where there are so many."""

_PAYLOAD = 1232  # by UDP: see queries.PAYLOAD
_ADDRESSES = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA})
_LONGEST_TTL = 2**31 - 1  # more counts as 0: RFC 2181, 8
_CUT = dns.flags.TC >> 8  # in the third byte
_MOST_SERVERS = 3  # as in glibc, MAXNS
_CONFIG = "/etc/resolv.conf"
_GOOD = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})
_WITHOUT_EDNS = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS})  # RFC 6891, 7

Server = tuple[str, int]


def name_servers(config: str) -> tuple[Server, ...]:
    """Those of a resolv.conf, at most three; without one it is the host itself, as resolv.conf(5) has it."""
    found = []
    for line in config.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append((str(ipaddress.ip_address(words[1])), 53))
    return tuple(found[:_MOST_SERVERS]) or (("127.0.0.1", 53),)


def is_reply(query: dns.message.Message, wire: bytes) -> bool:
    """Whether a message says that it answers this query. What does not is somebody's try, or late, or broken."""
    if int.from_bytes(wire[4:6], "big") > 1:
        return False  # questions: each would be read
    try:
        return query.is_response(dns.message.from_wire(wire, question_only=True))
    except (dns.exception.DNSException, ValueError):
        return False


def read_reply(wire: bytes) -> dns.message.Message | None:
    """What it says: its code, and of the answers those that have the type of its question, and aliases.

    None where it cannot be read, or where that would take too long. What is behind the answers is for caches.
    """
    try:
        return _read(_Reader(wire))
    except (dns.exception.DNSException, ValueError):
        return None


class _Reader(dns.wire.Parser):
    """Counts what it takes to read something, to hash it, and to write it again, and fails where that is too much."""

    _LABOUR_OF_RECORD = 30
    _LABOUR_OF_STRING = 8

    def __init__(self, wire: bytes) -> None:
        super().__init__(wire)
        self._labour = 0

    def get_name(self, origin: dns.name.Name | None = None, decompress: bool = False) -> dns.name.Name:
        """One in a record: the library writes it in a time that grows with the square of its labels."""
        name = super().get_name(origin, decompress)
        self._count(len(name) ** 2)
        return name

    def get_counted_bytes(self, length_size: int = 1) -> bytes:
        """A string in a record, which may be empty, so that there may be very many."""
        self._count(self._LABOUR_OF_STRING)
        return super().get_counted_bytes(length_size)

    def get_owner(self) -> dns.name.Name:
        """The name of a question or record. It is written only once for all of a set, or is an alias' target, too."""
        name = super().get_name(decompress=True)
        self._count(self._LABOUR_OF_RECORD + 2 * len(name))
        return name

    def _count(self, labour: int) -> None:
        self._labour += labour
        if self._labour > MOST_LABOUR:
            raise dns.exception.FormError


def _read(reader: _Reader) -> dns.message.Message:
    number, flags, questions, answers, authority, additional = reader.get_struct("!HHHHHH")
    reply = dns.message.QueryMessage(number)
    reply.flags = dns.flags.Flag(flags)
    wanted = {int(dns.rdatatype.CNAME)}
    for _ in range(questions):
        reader.get_owner()
        wanted.add(reader.get_struct("!HH")[0])
    for _ in range(answers):
        name = reader.get_owner()
        kind, rdclass, ttl, size = reader.get_struct("!HHIH")
        if kind not in wanted or rdclass != dns.rdataclass.IN:
            reader.get_bytes(size)
            continue
        with reader.restrict_to(size):
            record = dns.rdata.from_wire_parser(rdclass, kind, reader)
        found = reply.find_rrset(reply.answer, name, record.rdclass, record.rdtype, create=True)
        found.add(record, ttl if ttl <= _LONGEST_TTL else 0)
        if kind in _ADDRESSES and len(found) >= MOST_ADDRESSES:
            break
    for _ in range(0 if answers else authority + additional):  # it may be a failure, with more of its code in the OPT
        reader.get_owner()
        kind, _, ttl, size = reader.get_struct("!HHIH")
        reader.get_bytes(size)
        if kind == dns.rdatatype.OPT:
            reply.ednsflags = ttl
    return reply


class Upstream:
    """The servers, and which of them answered last.

    Args:
        servers: Addresses and ports, in the order in which they are asked; None: those of the host, read anew when
            they change, as where it comes into another network.
    """

    def __init__(self, servers: Sequence[Server] | None = None) -> None:
        self._reads = servers is None
        self._servers = tuple(servers or ())
        self._version: tuple[int, int] | None = None
        self._last_good: Server | None = None
        self._sockets = Shares(SOCKETS_EACH, SOCKETS_MOST)
        self._turn = trio.Lock()

    async def ask(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, account: Account
    ) -> dns.message.Message | None:
        """Ask one server, and the next where that fails, or is slow, until one has said what there is.

        Nothing of whoever wants to know goes out but the name in lower case, and the type. Where it has no socket for
        one more server, it gives up the one that it has waited for longest.

        Args:
            name: At most `queries.MOST_LABELS`.
            kind: The type.
            account: Of whoever wants to know: it has a share of the sockets, and pays for the time.

        Returns:
            NOERROR or NXDOMAIN, and what comes with it; None: all have failed. Only servers that say so fail; for
            silent ones the caller has a deadline.
        """
        found: list[dns.message.Message] = []

        async def ask_one(
            server: Server, scope: trio.CancelScope, ended: trio.Event, given_up: trio.Event | None
        ) -> None:
            try:
                with scope:
                    if given_up is not None:
                        await given_up.wait()  # else there would be two sockets for a moment
                    reply = await account.run(self._ask_server, server, name.canonicalize(), kind, account)
                    if reply is not None and reply.rcode() in _GOOD:
                        self._last_good = server
                        found.append(reply)
                        nursery.cancel_scope.cancel()
            finally:
                self._sockets.give_back(account.who, scope)
                ended.set()

        asked: list[tuple[trio.CancelScope, trio.Event]] = []
        async with trio.open_nursery() as nursery:
            for server in self._in_order():
                scope, given_up = self._sockets.take(account.who), None
                while scope is None and asked:
                    oldest, given_up = asked.pop(0)
                    oldest.cancel()
                    self._sockets.give_back(account.who, oldest)
                    scope = self._sockets.take(account.who)
                if scope is None:
                    break
                ended = trio.Event()
                asked.append((scope, ended))
                nursery.start_soon(ask_one, server, scope, ended, given_up)
                with trio.move_on_after(PATIENCE_SECONDS):
                    await ended.wait()
        return found[0] if found else None

    async def _ask_server(
        self, server: Server, name: dns.name.Name, kind: dns.rdatatype.RdataType, account: Account
    ) -> dns.message.Message | None:
        """Its answer, whatever it says; None where there is none to be had."""
        try:
            query = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
            reply = await self._exchange(server, query, account)
            if reply is not None and reply.rcode() in _WITHOUT_EDNS:
                reply = await self._exchange(server, dns.message.make_query(name, kind), account)
        except (OSError, trio.BrokenResourceError) as exc:
            log.debug("name server %s: %s", server[0], exc)
            return None
        return reply

    async def _exchange(
        self, server: Server, query: dns.message.Message, account: Account
    ) -> dns.message.Message | None:
        wire = await _by_datagrams(server, query)
        if wire[2] & _CUT:
            wire = await _by_stream(server, query)
        if not is_reply(query, wire):
            return None
        while True:
            await account.wait()
            async with self._turn:
                if not account.wait_seconds():
                    return read_reply(wire)

    def _in_order(self) -> list[Server]:
        """The one that answered last is first: another would cost each question the patience anew."""
        self._refresh()
        return sorted(self._servers, key=lambda one: one != self._last_good)

    def _refresh(self) -> None:
        if not self._reads:
            return
        try:
            with open(_CONFIG, encoding="utf-8", errors="replace") as file:
                status = os.fstat(file.fileno())
                if (version := (status.st_ino, status.st_mtime_ns)) == self._version:
                    return
                self._servers, self._version = name_servers(file.read()), version
        except OSError as exc:
            if self._servers:
                return  # it is being replaced
            log.warning("%s cannot be read: %s", _CONFIG, exc.strerror)
            self._servers = name_servers("")


async def _by_datagrams(server: Server, query: dns.message.Message) -> bytes:
    """The first datagram that answers; sent again and again until there is one."""
    wire = query.to_wire()
    with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        await sock.connect(server)
        while True:
            await sock.send(wire)
            with trio.move_on_after(RESEND_SECONDS):
                while not is_reply(query, reply := await sock.recv(LARGEST_REPLY)):
                    pass
                return reply


async def _by_stream(server: Server, query: dns.message.Message) -> bytes:
    """The answer by TCP, RFC 7766; nothing where it is too large, or ends early."""
    with trio.socket.socket(_family(server), socket.SOCK_STREAM) as sock:
        await sock.connect(server)
        stream = trio.SocketStream(sock)
        await send_message(stream, query.to_wire())
        return await receive_message(stream, LARGEST_REPLY)


def _family(server: Server) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET
