"""What questions and replies may cost the application, whoever makes them as costly as can be: time and sockets."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
import trio
from dnsserver import DnsServer, Table, dns_server
from resolving import PUBLIC, A, B, World, ask, ask_by_tcp, code, connection, datagrams, query, texts, world

from nsbox._network import answering, upstream
from nsbox._network.queries import MOST_LABELS, PAYLOAD
from nsbox._network.upstream import LARGEST_REPLY, read_reply

_LONGEST = dns.name.Name([b"%05d" % number for number in range(MOST_LABELS)] + [b""])
_SHORT = dns.name.from_text("w.example.com")


def reply(name: dns.name.Name, kind: str, records: list[bytes]) -> bytes:
    """A server's, to what the resolver asks: each of the records has that name and type."""
    number = dns.rdatatype.from_text(kind)
    question = name.to_wire() + struct.pack("!HH", number, 1)  # type: ignore[operator]
    parts = [b"\xc0\x0c" + struct.pack("!HHIH", number, 1, 60, len(one)) + one for one in records]
    return b"\0\0\x81\x80" + struct.pack("!HHHH", 1, len(records), 0, 0) + question + b"".join(parts)


def below(number: int) -> bytes:
    """A name below that of the question, of which there are 90."""
    return b"\1" + bytes((33 + number % 90,)) + b"\xc0\x0c"


def many_labels(number: int) -> bytes:
    """A name that has as many labels as there can be, and none in common with others."""
    return b"".join(b"\3" + struct.pack("!HB", number, 33 + place) for place in range(63)) + b"\0"


COSTLY = {
    "services below a long name": (
        _LONGEST, "SRV", [struct.pack("!HHH", 0, 0, one) + below(one) for one in range(400)]
    ),
    "exchangers with many labels": (_SHORT, "MX", [struct.pack("!H", one) + many_labels(one) for one in range(60)]),
    "very many strings": (_SHORT, "TXT", [struct.pack("!BH", 2, one) + bytes(250) for one in range(60)]),
    "very many records": (_SHORT, "MX", [struct.pack("!H", one) + below(one) for one in range(900)]),
}  # fmt: skip


def thread_seconds(wire: bytes, *, with_library: bool) -> float:
    """What it takes to read a reply, at the least of three times."""
    taken = []
    for _ in range(3):
        start = time.thread_time()
        found = dns.message.from_wire(wire) if with_library else read_reply(wire)
        taken.append(time.thread_time() - start)
        assert (found is not None) is with_library
    return min(taken)


@pytest.mark.parametrize("name", list(COSTLY))
async def test_a_reply_that_is_costly_to_read_fails(name: str) -> None:
    """Long before the library would be through with it; others' replies, and the next one, are read."""
    asked, kind, records = COSTLY[name]
    wire = reply(asked, kind, records)
    assert len(wire) <= LARGEST_REPLY
    assert thread_seconds(wire, with_library=True) > 2 * thread_seconds(wire, with_library=False)
    with dns_server({"*": {"wire": wire[2:].hex()}, "www.example.com": {"A": [PUBLIC]}}) as server:
        async with world(server.at) as here:
            question = dns.message.make_query(asked, kind)
            assert await code(here, question) == "SERVFAIL"
            async with connection(here) as stream:
                assert (await ask_by_tcp(stream, question)).rcode() == dns.rcode.SERVFAIL
            assert texts(await ask(here, "www.example.com", B)) == [PUBLIC]


LARGE: Table = {
    "mx.example.com": {"MX": [f"10 mx{number}.mail.example.com." for number in range(60)]},
    "ns.example.com": {"NS": [f"ns{number}.example.net." for number in range(90)]},
    "txt.example.com": {"TXT": [f'"{number:0250}"' for number in range(50)]},
    "key._domainkey.example.com": {"TXT": [f'"v=DKIM1; k=rsa; p={"A" * 230}" "{"B" * 250}" "{"C" * 250}"']},
    f"{'0.' * 32}ip6.arpa": {"PTR": [f"host{number}.example.com." for number in range(50)]},
    "srv.example.com": {"SRV": [f"1 1 80 host{number}.a.b.example.com." for number in range(60)]},
    "addresses.example.com": {"AAAA": [f"2606:4700::{number:x}" for number in range(1, 400)]},
}


async def test_large_sets_of_honest_domains_are_told_whole() -> None:
    """Mail, keys, name servers, the names of an address; of four hundred addresses the first ones."""
    with dns_server(LARGE) as server:
        async with world(server.at) as here, connection(here) as stream:
            for name, entry in LARGE.items():
                ((kind, records),) = entry.items()
                answer = await ask_by_tcp(stream, query(name, kind))
                assert answer.rcode() == dns.rcode.NOERROR
                assert len(texts(answer)) == (32 if kind == "AAAA" else len(records))


async def test_a_costly_question_is_an_error_and_asked_of_nobody() -> None:
    """By UDP and by TCP; one label less is asked."""
    with dns_server({"*": {"A": [PUBLIC]}}) as server:
        async with world(server.at) as here, connection(here) as stream:
            costly = dns.message.make_query(dns.name.Name([b"a", *_LONGEST.labels]), "A")
            for answer in (await ask(here, costly), await ask_by_tcp(stream, costly)):
                assert (answer.rcode(), answer.question) == (dns.rcode.FORMERR, [])
            assert texts(await ask(here, dns.message.make_query(_LONGEST, "A", payload=PAYLOAD))) == [PUBLIC]
        assert len(server.queries()) == 1


async def test_replies_wait_for_the_time_of_whoever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has used it up meanwhile: its replies are not read, and are told when it has some again; another's are."""
    monkeypatch.setattr(answering, "DEADLINE_SECONDS", 15.0)
    read: list[bytes] = []

    def note(wire: bytes) -> dns.message.Message | None:
        read.append(wire)
        return read_reply(wire)

    monkeypatch.setattr(upstream, "read_reply", note)
    with dns_server({"*": {"A": [PUBLIC], "delay": 0.3}}) as server:
        async with world(server.at) as here:
            with datagrams(here) as sock:
                await sock.send(query("www.example.com").to_wire())
                assert await code(here, "localhost") == "NOERROR"  # so that the first one is on its way
                here.resolver._budget.take(A, trio.current_time(), 1.3)  # of 1.6
                assert texts(await ask(here, "www.example.com", B)) == [PUBLIC]
                assert len(read) == 1
                assert texts(dns.message.from_wire(await sock.recv(1000))) == [PUBLIC]
                assert len(read) == 2


# Sockets


@pytest.fixture(name="silent", scope="module")
def _silent() -> Iterator[list[DnsServer]]:
    """Servers that do not answer."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(dns_server({"*": {"fault": "drop"}})) for _ in range(3)]


async def most_descriptors(here: World, count: int) -> int:
    """How many more there are, at the most, while so many questions of a sandbox are out."""
    with datagrams(here) as sock:
        before = len(os.listdir("/proc/self/fd"))
        most = failed = 0
        for _ in range(count):
            await sock.send(query("www.example.com").to_wire())
        while failed < count:
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
            with trio.move_on_after(0.01):
                await sock.recv(1000)
                failed += 1
        return most


async def test_slow_servers_take_so_many_sockets_of_one_sandbox(
    silent: list[DnsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each server and question, as where there are enough of them."""
    monkeypatch.setattr(upstream, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(answering, "DEADLINE_SECONDS", 1.5)
    count = answering.EACH
    async with world(*(one.at for one in silent)) as here:
        assert 1 <= await most_descriptors(here, count) <= upstream.SOCKETS_EACH
    monkeypatch.setattr(upstream, "SOCKETS_EACH", 3 * count)
    async with world(*(one.at for one in silent)) as here:
        assert await most_descriptors(here, count) == 3 * count


async def test_all_sandboxes_have_so_many_sockets_and_each_has_its_part(
    silent: list[DnsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has fewer gets one of who has the most."""
    monkeypatch.setattr(upstream, "SOCKETS_MOST", 20)
    monkeypatch.setattr(answering, "DEADLINE_SECONDS", 15.0)
    table: Table = {"www.example.com": {"A": [PUBLIC]}, "*": {"fault": "drop"}}
    with dns_server(table) as server:
        async with world(server.at, silent[0].at) as here:
            with datagrams(here) as sock:
                for _ in range(40):
                    await sock.send(query("slow.example.com").to_wire())
                failed = [dns.message.from_wire(await sock.recv(1000)).rcode() for _ in range(20)]
                assert set(failed) == {dns.rcode.SERVFAIL}
                assert texts(await ask(here, "www.example.com", B)) == [PUBLIC]


async def test_who_has_no_socket_for_the_next_server_gives_up_an_earlier_one(
    silent: list[DnsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that questions come to the server that answers, however many there are at a time."""
    monkeypatch.setattr(upstream, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(upstream, "SOCKETS_EACH", 8)
    with dns_server({"*": {"A": [PUBLIC]}}) as server:
        async with world(silent[0].at, silent[1].at, server.at) as here:
            with datagrams(here) as sock:
                for turn in range(3):  # each time all of them are given back
                    for number in range(8):
                        await sock.send(query(f"{number}.{turn}.example.com").to_wire())
                    for _ in range(8):
                        assert texts(dns.message.from_wire(await sock.recv(1000))) == [PUBLIC]
