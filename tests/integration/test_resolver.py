"""The resolver with real sockets and real servers: what is asked, what is told, and what servers may do."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import trio
from dnsserver import DnsServer, dns_server
from resolving import PUBLIC, TABLE, V6, A, B, ask, ask_by_tcp, code, connection, datagrams, query, texts, world

from nsbox._network import answering, upstream


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[DnsServer]:
    """With the table, for tests that do not count what it is asked."""
    with dns_server(TABLE) as server:
        yield server


# What is answered


async def test_what_may_be_asked_is_asked_and_nothing_of_the_program_goes_out() -> None:
    """Not its letters' case, its options, its number nor its wish for signatures: each would carry data."""
    options: list[dns.edns.Option] = [dns.edns.GenericOption(dns.edns.OptionType(10), b"12345678")]
    with dns_server(TABLE) as server:
        async with world(server.at) as here:
            asked = dns.message.make_query("wWw.Example.COM", "A", use_edns=0, options=options, want_dnssec=True)
            asked.flags |= dns.flags.CD | dns.flags.AD
            answer = await ask(here, asked)
            assert texts(answer) == [PUBLIC]
            assert answer.question[0].name.to_text() == "wWw.Example.COM."
            assert answer.answer[0].ttl == 30
            assert dns.flags.to_text(answer.flags) == "QR RD RA"
            assert texts(await ask(here, query("www.example.com", "AAAA"))) == [V6]
            assert texts(await ask(here, query("mail.example.com", "MX"))) == ["10 mx.example.com."]
            assert texts(await ask(here, query("www.example.com", "HTTPS"))) == []
            assert await code(here, "missing.example.com") == "NXDOMAIN"
            assert (await ask(here, query("mail.example.com"))).answer == []
            assert here.a.refused == []
            assert here.a.admitted == []  # everything may be connected to
        plain = {"transport": "udp", "flags": "RD", "edns": 0, "options": []}
        assert server.queries() == [
            {"name": "www.example.com", "type": "A", **plain},
            {"name": "www.example.com", "type": "AAAA", **plain},
            {"name": "mail.example.com", "type": "MX", **plain},
            {"name": "missing.example.com", "type": "A", **plain},
            {"name": "mail.example.com", "type": "A", **plain},
        ]


async def test_what_is_refused_is_told_and_asked_of_nobody() -> None:
    """By both lists, by type and by class; each sandbox by its own policy."""
    with dns_server(TABLE) as server:
        async with world(server.at) as here:
            here.a.names = replace(here.a.names, allowed=("*.example.com",), blocked=("mail.example.com",))
            for name in ("www.example.org", "example.com", "MAIL.example.com."):
                assert await code(here, name) == "REFUSED"
            assert await code(here, query("www.example.com", "ANY")) == "REFUSED"
            assert await code(here, query("www.example.com", "AXFR")) == "REFUSED"
            assert here.a.refused == [
                "www.example.org", "example.com", "mail.example.com", "www.example.com", "www.example.com",
            ]  # fmt: skip
            assert await code(here, "www.example.org", B) == "NOERROR"
            assert here.sandboxes[B].refused == []
            for name in ("db", "localhost"):
                assert len(texts(await ask(here, name))) == 1
            assert await code(here, query("1.0.0.10.in-addr.arpa", "PTR")) == "NXDOMAIN"
            assert len(here.a.refused) == 5
        assert [one["name"] for one in server.queries()] == ["www.example.org"]


async def test_an_address_is_admitted_before_the_program_knows_it(server: DnsServer) -> None:
    """With its aliases' end, for a minute beyond its time; what cannot be admitted is not told."""
    reached, go = trio.Event(), trio.Event()
    async with world(server.at) as here:

        async def admit(addresses: Sequence[tuple[str, float]]) -> None:
            reached.set()
            await go.wait()
            await here.a.admit(addresses)

        here.a.names = replace(here.a.names, allowed=("alias.example.com", "*.example.com"), admit=admit)
        with datagrams(here) as sock:
            await sock.send(query("alias.example.com").to_wire())
            await reached.wait()
            assert texts(await ask(here, "localhost")) == ["127.0.0.1"]  # others do not wait for it
            with pytest.raises(BlockingIOError):
                sock._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined]
            go.set()
            answer = dns.message.from_wire(await sock.recv(65_535))
        assert texts(answer) == [PUBLIC, "cdn.example.net."]
        assert here.a.admitted == [(PUBLIC, 65.0)]
        assert texts(await ask(here, "XN--Bcher-KVA.example.com")) == [PUBLIC]


async def test_an_address_that_cannot_be_admitted_is_not_told(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The query fails, with the reason in the log, and the next one works."""

    async def fail(_: Sequence[tuple[str, float]]) -> None:
        raise OSError(28, "the set is full")

    async with world(server.at) as here:
        right = here.a.names
        here.a.names = replace(right, allowed=("www.example.com",), admit=fail)
        with caplog.at_level(logging.ERROR, logger="nsbox"):
            assert await code(here, "www.example.com") == "SERVFAIL"
        assert "the set is full" in caplog.text
        here.a.names = replace(right, allowed=("www.example.com",))
        assert texts(await ask(here, "www.example.com")) == [PUBLIC]


async def test_a_chain_through_a_blocked_name_is_refused(server: DnsServer) -> None:
    """The name that was asked for is told, and its addresses are not."""
    async with world(server.at) as here:
        assert texts(await ask(here, "alias.example.com")) == [PUBLIC, "cdn.example.net."]
        here.a.names = replace(here.a.names, blocked=("*.example.net",))
        answer = await ask(here, "alias.example.com")
        assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])
        assert here.a.refused == ["alias.example.com"]


async def test_a_name_that_comes_to_private_addresses_has_none(server: DnsServer) -> None:
    """Public at first, then the loopback's, then both: only the public ones are told, and admitted."""
    async with world(server.at) as here:
        here.a.names = replace(here.a.names, allowed=("bind.example.com",))
        for found, refused in (([PUBLIC], 0), ([], 1), ([PUBLIC], 1)):
            answer = await ask(here, "bind.example.com")
            assert (answer.rcode(), texts(answer)) == (dns.rcode.NOERROR, found)
            assert len(here.a.refused) == refused
        assert [address for address, _ in here.a.admitted] == [PUBLIC, PUBLIC]


async def test_a_policy_that_changes_while_a_server_is_asked_is_the_one_that_counts() -> None:
    """What is refused now is not told; whoever is gone by then is told nothing."""
    table = {"*": {"A": [PUBLIC], "delay": 0.3}}
    with dns_server(table) as server:
        async with world(server.at) as here:
            here.a.names = replace(here.a.names, allowed=("www.example.com",))

            async def ask_meanwhile(change: Callable[[], None]) -> trio.socket.SocketType:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind((A, 0))
                sock.connect(here.address)
                wrapped = trio.socket.from_stdlib_socket(sock)
                await wrapped.send(query("www.example.com").to_wire())
                await ask(here, "localhost")  # so that the first one is on its way
                change()
                return wrapped

            def narrow() -> None:
                here.a.names = replace(here.a.names, allowed=())

            with await ask_meanwhile(narrow) as sock:
                answer = dns.message.from_wire(await sock.recv(1000))
            assert (answer.rcode(), here.a.admitted) == (dns.rcode.REFUSED, [])
            assert here.a.refused == ["www.example.com"]
            here.a.names = replace(here.a.names, allowed=None)
            gone = here.a
            with await ask_meanwhile(lambda: here.sandboxes.__delitem__(A)) as sock:
                assert texts(await ask(here, "other.example.com", B)) == [PUBLIC]  # it takes as long
                with pytest.raises(BlockingIOError):
                    sock._sock.recv(1)  # type: ignore[attr-defined]
            assert gone.admitted == []


# Long answers


async def test_what_is_too_long_is_cut_by_udp_and_whole_by_tcp(server: DnsServer) -> None:
    """For each as much as it says that it takes; between the resolver and the server likewise."""
    async with world(server.at) as here:
        for name, payload in (("many", 65_535), ("long", 1232), ("long", None), ("many", None)):
            kind = "A" if name == "many" else "TXT"
            asked = query(f"{name}.example.com", kind, payload=payload)
            answer = await ask(here, asked)
            if (name, payload) == ("many", 65_535):  # thirty-two of them, which fit
                assert len(texts(answer)) == 32
                continue
            assert bool(answer.flags & dns.flags.TC) is (name == "long" or payload is None)
            async with connection(here) as stream:
                whole = await ask_by_tcp(stream, asked)
            assert not whole.flags & dns.flags.TC
            assert len(texts(whole)) == (32 if name == "many" else 20)


async def test_an_answer_that_is_longer_than_any_should_be_fails(server: DnsServer) -> None:
    """To read 50 KB would keep everybody waiting; 5 KB are read."""
    async with world(server.at) as here, connection(here) as stream:
        assert (await ask_by_tcp(stream, query("huge.example.com", "TXT"))).rcode() == dns.rcode.SERVFAIL
        assert len(texts(await ask_by_tcp(stream, query("long.example.com", "TXT")))) == 20


# Servers that fail


@pytest.mark.parametrize("fault", ["wrong-id", "wrong-question", "garbage", "echo", "drop"])
async def test_an_answer_to_something_else_is_none(
    fault: str, server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for the right one, for a bounded time."""
    monkeypatch.setattr(answering, "DEADLINE_SECONDS", 0.5)
    async with world(server.at) as here:
        assert await code(here, f"{fault}.example.com") == "SERVFAIL"
        assert texts(await ask(here, "www.example.com")) == [PUBLIC]


async def test_the_right_answer_is_found_among_wrong_ones(server: DnsServer) -> None:
    """Whoever guesses wrong does not keep it from coming."""
    async with world(server.at) as here:
        assert texts(await ask(here, "then-right.example.com")) == [PUBLIC]


@pytest.mark.parametrize("fault", ["servfail", "refused", "early-end"])
async def test_a_server_that_fails_is_a_failure_at_once(fault: str, server: DnsServer) -> None:
    """A server's own REFUSED, too: it is not the policy's."""
    async with world(server.at) as here:
        assert await code(here, f"{fault}.example.com") == "SERVFAIL"
        assert here.a.refused == []


@pytest.mark.parametrize("name", ["truncate", "always-tc", "no-edns", "lost"])
async def test_what_servers_do_is_coped_with(name: str, server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is cut in the middle of a record, one that does not know EDNS, a datagram that is lost."""
    monkeypatch.setattr(upstream, "RESEND_SECONDS", 0.2)
    async with world(server.at) as here:
        assert texts(await ask(here, f"{name}.example.com")) == [PUBLIC]


async def test_the_next_server_is_asked_where_one_fails_or_is_slow(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, silent, failing, out of reach; and who answered last is asked first."""
    monkeypatch.setattr(upstream, "PATIENCE_SECONDS", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        closed = sock.getsockname()
    for table in ({"*": {"fault": "drop"}}, {"*": {"fault": "servfail"}}, {"*": {"fault": "refused"}}):
        with dns_server(table) as bad:
            async with world(closed, bad.at, server.at) as here:
                for _ in range(3):
                    assert texts(await ask(here, "www.example.com")) == [PUBLIC]
            assert len(bad.queries()) == 1
    async with world(closed) as here:
        assert await code(here, "www.example.com") == "SERVFAIL"
    async with world() as here:
        assert await code(here, "www.example.com") == "SERVFAIL"


async def test_a_slow_server_may_still_answer_when_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience with it ends; its socket does not."""
    monkeypatch.setattr(upstream, "PATIENCE_SECONDS", 0.1)
    with dns_server({"*": {"A": [PUBLIC], "delay": 0.5}}) as slow, dns_server({"*": {"fault": "drop"}}) as silent:
        async with world(slow.at, silent.at) as here:
            assert texts(await ask(here, "www.example.com")) == [PUBLIC]
        assert len(silent.queries()) == 1


@pytest.mark.needs_ipv6
async def test_a_server_may_have_an_address_of_ipv6() -> None:
    """By UDP and by TCP."""
    with dns_server(TABLE, "::1") as server:
        async with world(server.at) as here:
            assert texts(await ask(here, "www.example.com")) == [PUBLIC]
            assert texts(await ask(here, "truncate.example.com")) == [PUBLIC]
        assert [one["transport"] for one in server.queries()] == ["udp", "udp", "tcp"]


def test_the_hosts_servers_are_read_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced, and missing for a moment."""
    config = tmp_path / "resolv.conf"
    monkeypatch.setattr(upstream, "_CONFIG", str(config))
    assert upstream.Upstream()._in_order() == [("127.0.0.1", 53)]
    config.write_text("nameserver 192.0.2.1\n")
    found = upstream.Upstream()
    assert found._in_order() == [("192.0.2.1", 53)]
    (tmp_path / "new").write_text("nameserver 192.0.2.2\n")
    (tmp_path / "new").replace(config)
    assert found._in_order() == [("192.0.2.2", 53)]
    config.unlink()
    assert found._in_order() == [("192.0.2.2", 53)]
    assert upstream.Upstream([("192.0.2.3", 5353)])._in_order() == [("192.0.2.3", 5353)]
