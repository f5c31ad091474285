"""A resolver that runs in the test's own process, with sandboxes that are addresses of the loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import dns.message
import dns.rcode
import trio
from dnsserver import Table, bind

from nsbox._network.names import Names
from nsbox._network.resolver import Resolver
from nsbox._network.streams import receive_message, send_message

A, B = "127.0.0.2", "127.0.0.3"
"""Two sandboxes; 127.0.0.1 is nobody's."""
PUBLIC, OTHER, V6 = "93.184.216.34", "93.184.216.35", "2606:4700::1"
SECONDS = 20.0
TABLE: Table = {
    "www.example.com": {"A": [PUBLIC], "AAAA": [V6], "ttl": 30},
    "www.example.org": {"A": [OTHER]},
    "mail.example.com": {"MX": ["10 mx.example.com."], "TXT": ['"text"']},
    "alias.example.com": {"CNAME": ["cdn.example.net."]},
    "cdn.example.net": {"A": [PUBLIC], "ttl": 5},
    "xn--bcher-kva.example.com": {"A": [PUBLIC]},
    "bind.example.com": {"turns": [{"A": [PUBLIC]}, {"A": ["127.0.0.1"]}, {"A": [PUBLIC, "10.0.0.1"]}]},
    "many.example.com": {"A": [f"93.184.0.{i}" for i in range(200)]},
    "long.example.com": {"TXT": [f'"{i:0250}"' for i in range(20)]},
    "huge.example.com": {"TXT": [f'"{i:0250}"' for i in range(200)]},
    "wrong-id.example.com": {"A": [PUBLIC], "fault": "wrong-id"},
    "wrong-question.example.com": {"A": [PUBLIC], "fault": "wrong-question"},
    "garbage.example.com": {"A": [PUBLIC], "fault": "garbage"},
    "echo.example.com": {"A": [PUBLIC], "fault": "echo"},
    "then-right.example.com": {"A": [PUBLIC], "fault": "then-right"},
    "servfail.example.com": {"fault": "servfail"},
    "refused.example.com": {"fault": "refused"},
    "drop.example.com": {"fault": "drop"},
    "lost.example.com": {"turns": [{"fault": "drop"}, {"A": [PUBLIC]}]},
    "truncate.example.com": {"A": [PUBLIC], "fault": "truncate"},
    "always-tc.example.com": {"A": [PUBLIC], "fault": "always-tc"},
    "early-end.example.com": {"A": [PUBLIC], "turns": [{"A": [PUBLIC], "fault": "truncate"},
                                                     {"A": [PUBLIC], "fault": "early-end"}]},
    "no-edns.example.com": {"A": [PUBLIC], "fault": "no-edns"},
}  # fmt: skip


@dataclass
class Sandbox:
    """What is known of one, and what the resolver has said about it."""

    names: Names = field(init=False)
    admitted: list[tuple[str, float]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = Names(
            hosts={"db": ("10.200.0.2",)}.get, admit=self.admit, refused=self.refused.append,
            is_blocked_address=lambda address: address.startswith(("127.", "10.")),
        )  # fmt: skip

    async def admit(self, addresses: Sequence[tuple[str, float]]) -> None:
        """As the router does."""
        self.admitted += addresses


@dataclass
class World:
    """A resolver that runs, and its sandboxes."""

    address: tuple[str, int]
    sandboxes: dict[str, Sandbox]
    udp: socket.socket
    running: trio.CancelScope
    resolver: Resolver

    @property
    def a(self) -> Sandbox:
        """The first."""
        return self.sandboxes[A]


@contextlib.asynccontextmanager
async def world(*upstreams: tuple[str, int]) -> AsyncIterator[World]:
    """A resolver with two sandboxes and these servers; it is cancelled at the end."""
    udp, tcp = bind("127.0.0.1")
    with udp, tcp:
        sandboxes = {A: Sandbox(), B: Sandbox()}

        def find(address: str) -> Names | None:
            return sandboxes[address].names if address in sandboxes else None

        async with trio.open_nursery() as nursery:
            resolver = Resolver(udp, tcp, find, upstreams)
            await nursery.start(resolver.run)
            with trio.fail_after(SECONDS):
                yield World(udp.getsockname(), sandboxes, udp, nursery.cancel_scope, resolver)
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def datagrams(here: World, source: str = A) -> Iterator[trio.socket.SocketType]:
    """A socket of a sandbox that is connected to the resolver."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with trio.socket.from_stdlib_socket(sock) as wrapped:
        sock.bind((source, 0))
        sock.connect(here.address)
        yield wrapped


@contextlib.asynccontextmanager
async def connection(here: World, source: str = A) -> AsyncIterator[trio.SocketStream]:
    """The same by TCP."""
    sock = socket.socket()
    sock.bind((source, 0))
    with trio.socket.from_stdlib_socket(sock) as wrapped:
        await wrapped.connect(here.address)
        yield trio.SocketStream(wrapped)


def query(name: str, kind: str = "A", *, payload: int | None = 1232) -> dns.message.Message:
    """A question; `payload` None: without EDNS."""
    return dns.message.make_query(name, kind, use_edns=-1 if payload is None else 0, payload=payload or 1232)


async def ask(here: World, question: dns.message.Message | str, source: str = A) -> dns.message.Message:
    """By UDP, for an address where it is a name; the answer is checked to be one."""
    asked = query(question) if isinstance(question, str) else question
    with datagrams(here, source) as sock:
        await sock.send(asked.to_wire())
        answer = dns.message.from_wire(await sock.recv(65_535))
    assert asked.is_response(answer)
    return answer


async def ask_by_tcp(stream: trio.SocketStream, asked: dns.message.Message) -> dns.message.Message:
    """On a connection."""
    await send_message(stream, asked.to_wire())
    answer = dns.message.from_wire(await receive_message(stream, 65_535))
    assert asked.is_response(answer)
    return answer


async def code(here: World, question: dns.message.Message | str, source: str = A) -> str:
    """What an answer says of itself."""
    return dns.rcode.to_text((await ask(here, question, source)).rcode())


def texts(answer: dns.message.Message) -> list[str]:
    """The records of an answer, sorted, without names and times."""
    return sorted(record.to_text() for rrset in answer.answer for record in rrset)


async def is_cut(stream: trio.SocketStream) -> bool:
    """Whether a connection ends without another byte."""
    try:
        return await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        return True
