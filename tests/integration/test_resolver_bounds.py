"""Programs that flood, stall or garble what the resolver gets: it ends for none of them, and others do not wait."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import dns.message
import dns.rcode
import pytest
import trio
from dnsserver import DnsServer, dns_server
from resolving import PUBLIC, TABLE, B, ask, ask_by_tcp, code, connection, datagrams, is_cut, query, texts, world

from nsbox._network import answering, resolver
from nsbox._network.streams import receive_message, send_message


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[DnsServer]:
    """With the table, for tests that do not count what it is asked."""
    with dns_server(TABLE) as server:
        yield server


async def test_whoever_is_no_sandbox_is_not_answered(server: DnsServer) -> None:
    """Not by UDP, and cut by TCP."""
    async with world(server.at) as here:
        with datagrams(here, "127.0.0.1") as sock:
            await sock.send(query("localhost").to_wire())
            async with connection(here, "127.0.0.1") as stream:
                assert await is_cut(stream)
            assert texts(await ask(here, "localhost")) == ["127.0.0.1"]
            with pytest.raises(BlockingIOError):
                sock._sock.recv(1)  # type: ignore[attr-defined]


async def test_a_connection_has_many_queries(server: DnsServer) -> None:
    """One after the other, or sent all at once, in pieces; errors among them end nothing."""
    async with world(server.at) as here, connection(here) as stream:
        for name in ("www.example.com", "localhost", "truncate.example.com"):
            assert (await ask_by_tcp(stream, query(name))).rcode() == dns.rcode.NOERROR
        asked = [query(name) for name in ("www.example.com", "db", "missing.example.com", "localhost")]
        data = b"".join(len(wire := one.to_wire()).to_bytes(2, "big") + wire for one in asked)
        for place in range(0, len(data), 7):
            await stream.send_all(data[place : place + 7])
        for one in asked:
            assert one.is_response(dns.message.from_wire(await receive_message(stream, 65_535)))
        await send_message(stream, struct.pack("!HHHHHH", 7, 0, 3, 0, 0, 0))
        assert (await receive_message(stream, 65_535))[3] & 15 == dns.rcode.FORMERR
        assert (await ask_by_tcp(stream, query("localhost"))).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x20short", b"\0\0", b"\xff\xff" + bytes(5000), b"\0\3abc"])
async def test_a_connection_that_brings_nothing_is_cut(
    data: bytes, server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has had its time, or at once."""
    monkeypatch.setattr(resolver, "IDLE_SECONDS", 0.3)
    async with world(server.at) as here, connection(here) as stream:
        await stream.send_all(data)
        assert await is_cut(stream)
        assert await code(here, "localhost") == "NOERROR"


async def test_a_connection_that_reads_nothing_is_cut(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers would fill memory else."""
    monkeypatch.setattr(resolver, "IDLE_SECONDS", 0.5)
    one = query("long.example.com", "TXT").to_wire()
    async with world(server.at) as here, connection(here) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  # some time during that
            while True:
                await send_message(stream, one)


async def test_one_sandbox_has_so_many_connections_and_others_have_theirs(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are served; where all are taken, who has the most loses the oldest."""
    monkeypatch.setattr(resolver, "CONNECTIONS_MOST", resolver.CONNECTIONS_EACH + 1)
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(world(server.at))
        held = [await stack.enter_async_context(connection(here)) for _ in range(resolver.CONNECTIONS_EACH)]
        for stream in held:
            assert (await ask_by_tcp(stream, query("localhost"))).rcode() == dns.rcode.NOERROR
        async with connection(here) as late:
            assert await is_cut(late)
        others = [await stack.enter_async_context(connection(here, B)) for _ in range(2)]
        for stream in others:
            assert (await ask_by_tcp(stream, query("www.example.com"))).rcode() == dns.rcode.NOERROR
        assert await is_cut(held[0])
        assert (await ask_by_tcp(held[1], query("localhost"))).rcode() == dns.rcode.NOERROR


async def test_one_sandbox_has_so_many_queries_in_flight_and_others_have_theirs(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred that no server answers: what is too much fails at once, and another's is answered nevertheless."""
    monkeypatch.setattr(answering, "MOST", answering.EACH)
    monkeypatch.setattr(answering, "DEADLINE_SECONDS", 15.0)
    async with world(server.at) as here:
        with datagrams(here) as sock:
            for _ in range(100):
                await sock.send(query("drop.example.com").to_wire())
            failed = [dns.message.from_wire(await sock.recv(1000)).rcode() for _ in range(100 - answering.EACH)]
            assert set(failed) == {dns.rcode.SERVFAIL}
            with pytest.raises(BlockingIOError):
                sock._sock.recv(1)  # type: ignore[attr-defined]
            assert texts(await ask(here, "www.example.com", B)) == [PUBLIC]
            assert dns.message.from_wire(await sock.recv(1000)).rcode() == dns.rcode.SERVFAIL  # it gave one up


async def test_one_sandbox_is_answered_so_often_and_others_are_answered_meanwhile(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asks beyond is dropped by UDP, and waits by TCP. Here each counts as a second, and 300 are for all."""
    monkeypatch.setattr(resolver, "QUERY_SECONDS", 1.0)
    monkeypatch.setattr(resolver, "SHARE", 5.0)
    monkeypatch.setattr(resolver, "SHARE_SECONDS", 60.0)
    asked = query("localhost").to_wire()
    async with world(server.at) as here:
        with datagrams(here) as sock, datagrams(here, B) as other:
            for _ in range(20):
                for _ in range(10):
                    await sock.send(asked)
                await other.send(query("www.example.com").to_wire())
                assert dns.message.from_wire(await other.recv(1000)).rcode() == dns.rcode.NOERROR
            answered = 0
            with pytest.raises(BlockingIOError):  # noqa: PT012  # some time during that
                while sock._sock.recv(1000):  # type: ignore[attr-defined]
                    answered += 1
            assert 130 < answered < 180
        async with connection(here) as stream:
            assert (await ask_by_tcp(stream, query("localhost"))).rcode() == dns.rcode.NOERROR


async def test_without_a_descriptor_a_query_fails_and_the_next_one_works(server: DnsServer) -> None:
    """Those of the process are used up for a moment; a connection then waits to be accepted."""
    async with world(server.at) as here:
        assert await code(here, "www.example.com") == "NOERROR"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with connection(here) as stream:
            with datagrams(here) as sock:
                await sock.send(query("localhost").to_wire())
                await sock.recv(1000)
                lowest = os.open("/dev/null", os.O_RDONLY)
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
                try:
                    await sock.send(query("www.example.com").to_wire())
                    assert dns.message.from_wire(await sock.recv(1000)).rcode() == dns.rcode.SERVFAIL
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (await ask_by_tcp(stream, query("www.example.com"))).rcode() == dns.rcode.NOERROR


async def test_no_bytes_end_it(server: DnsServer) -> None:
    """Random ones, and good messages with a bit changed or an end missing, by UDP and by TCP."""
    random = Random(1)  # noqa: S311  # the same ones each time
    good = query("www.example.com").to_wire()
    async with world(server.at) as here:
        with datagrams(here) as sock:
            for turn in range(300):
                changed = bytearray(good)
                changed[random.randrange(len(good))] ^= 1 << random.randrange(8)
                wire = (random.randbytes(random.randrange(100)), bytes(changed), good[: random.randrange(len(good))])
                await sock.send(wire[turn % 3])
                if turn % 20 == 0:
                    async with connection(here) as stream:
                        await send_message(stream, wire[turn % 3])
        assert texts(await ask(here, "www.example.com", B)) == [PUBLIC]


async def test_it_ends_with_everything_that_is_on_its_way(server: DnsServer) -> None:
    """Connections are cut, queries have no answer, the sockets are the caller's."""
    async with world(server.at) as here, connection(here) as stream, connection(here) as idle:
        with datagrams(here) as sock:
            await sock.send(query("drop.example.com").to_wire())
            await send_message(stream, query("drop.example.com").to_wire())
            assert await code(here, "localhost") == "NOERROR"
            here.running.cancel()
            with trio.CancelScope(shield=True):
                await is_cut(stream)
                await is_cut(idle)
            assert here.udp.fileno() >= 0


def test_nothing_of_the_library_is_loaded_before_it_is_needed() -> None:
    """It takes 30 ms; with nsbox, and with the resolver's own module, it is not there."""
    program = "import sys, nsbox, nsbox._network.resolver; print('dns' in sys.modules, 'trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
