"""The servers that the resolver asks: those of the host, resolv.conf(5).

Each question has a socket of its own, connected to one server, from a port that the kernel picks at random. With the
message's number that is about 32 bits that somebody who cannot see the packets has to guess (RFC 5452).
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
import dns.rdatatype
import trio

from nsbox._network.streams import receive_message, send_message

log = logging.getLogger("nsbox")

PATIENCE_SECONDS = 1.0
"""After so long without an answer the next server is asked, too; the first may still answer."""

RESEND_SECONDS = 1.5
"""After so long a datagram counts as lost."""

LARGEST_REPLY = 16_384
"""Bytes that are taken by TCP. To read one takes 2 ms for each KiB (measured), in which nothing else happens."""

_PAYLOAD = 1232  # by UDP: see queries.PAYLOAD
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
    try:
        return query.is_response(dns.message.from_wire(wire, question_only=True))
    except (dns.exception.DNSException, ValueError):
        return False


def read_reply(wire: bytes) -> dns.message.Message | None:
    """All of it; None where it cannot be read."""
    try:
        return dns.message.from_wire(wire, keyring=False)
    except (dns.exception.DNSException, ValueError):
        return None


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

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message | None:
        """Ask one server, and the next where that fails, or is slow, until one has said what there is.

        Nothing of whoever wants to know goes out but the name in lower case, and the type.

        Returns:
            NOERROR or NXDOMAIN, and what comes with it; None: all have failed. Only servers that say so fail; for
            silent ones the caller has a deadline.
        """
        found: list[dns.message.Message] = []

        async def ask_one(server: Server, failed: trio.Event) -> None:
            reply = await _ask_server(server, name.canonicalize(), kind)
            if reply is not None and reply.rcode() in _GOOD:
                self._last_good = server
                found.append(reply)
                nursery.cancel_scope.cancel()
            failed.set()

        async with trio.open_nursery() as nursery:
            for server in self._in_order():
                failed = trio.Event()
                nursery.start_soon(ask_one, server, failed)
                with trio.move_on_after(PATIENCE_SECONDS):
                    await failed.wait()
        return found[0] if found else None

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


async def _ask_server(server: Server, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message | None:
    """Its answer, whatever it says; None where there is none to be had."""
    try:
        query = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
        reply = await _exchange(server, query)
        if reply is not None and reply.rcode() in _WITHOUT_EDNS:
            reply = await _exchange(server, dns.message.make_query(name, kind))
    except (OSError, trio.BrokenResourceError) as exc:
        log.debug("name server %s: %s", server[0], exc)
        return None
    return reply


async def _exchange(server: Server, query: dns.message.Message) -> dns.message.Message | None:
    wire = await _by_datagrams(server, query)
    if wire[2] & _CUT:
        wire = await _by_stream(server, query)
    return read_reply(wire) if is_reply(query, wire) else None


async def _by_datagrams(server: Server, query: dns.message.Message) -> bytes:
    """The first datagram that answers; sent again and again until there is one."""
    wire = query.to_wire()
    with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        await sock.connect(server)
        while True:
            await sock.send(wire)
            with trio.move_on_after(RESEND_SECONDS):
                while not is_reply(query, reply := await sock.recv(65_535)):
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
