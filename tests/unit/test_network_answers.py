"""What a question is answered with, and what of a server's answer a program is told."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from nsbox._config.networks import PRIVATE_NETWORKS
from nsbox._network.decisions import LEAST_SECONDS, LONGEST_SECONDS, MOST_ADDRESSES, Answer, decide, sift
from nsbox._network.names import Names
from nsbox._network.queries import (
    plain_name,
    shown_name,
)
from nsbox._network.upstream import read_reply

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

PRIVATE = [ipaddress.ip_network(one) for one in PRIVATE_NETWORKS]
PEERS = {"db": ("10.200.0.2", "fd00::2"), "old": ("10.200.0.3",), "gone": ()}
PUBLIC = "93.184.216.34"


def is_private(address: str) -> bool:
    """By the ranges that are blocked unless a configuration says otherwise."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in one for one in PRIVATE if one.version == parsed.version)


async def admit_nothing(_: Sequence[tuple[str, float]]) -> None:
    """What is to be admitted is in the answer."""


def names(blocked: tuple[str, ...] = (), allowed: tuple[str, ...] | None = None, *, private: bool = False) -> Names:
    """Of a sandbox; `private`: it may reach private ranges."""
    return Names(
        blocked=blocked, allowed=allowed, hosts=PEERS.get, admit=admit_nothing, refused=lambda _: None,
        is_blocked_address=(lambda _: False) if private else is_private,
    )  # fmt: skip


def query(
    name: str = "www.example.com", kind: str = "A", *, number: int = 4660, edns: int = -1, payload: int = 1232
) -> dns.message.Message:
    """A question."""
    return dns.message.make_query(name, kind, id=number, use_edns=edns, payload=payload)


def question(name: str = "www.example.com", kind: str = "A", rdclass: str = "IN") -> dns.rrset.RRset:
    """The one of such a query."""
    return dns.message.make_query(name, kind, rdclass).question[0]


def told(*records: str, name: str = "www.example.com", kind: str = "A", rcode: str = "NOERROR",
         names: Names) -> Answer:  # fmt: skip
    """What of a server's records, as in a zone file, a program is told."""
    asked = query(name, kind)
    reply = dns.message.make_response(asked)
    reply.set_rcode(dns.rcode.from_text(rcode))
    for text in records:
        owner, ttl, form, *rest = text.split(maxsplit=3)
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", form, *rest))
    read = read_reply(reply.to_wire(max_size=65_535))
    assert read is not None
    return sift(asked.question[0], read, names)


def texts(answer: Answer) -> list[str]:
    """Its records, one a line."""
    return [line for rrset in answer.records for line in rrset.to_text().splitlines()]


# Before anybody is asked


@pytest.mark.parametrize(
    "name",
    ["example.com", "EXAMPLE.com.", "eXaMpLe.CoM"],
)
def test_an_allowed_name_is_asked_for_in_any_case(name: str) -> None:
    """And its neighbours are refused, which is said."""
    policy = names(allowed=("example.com",))
    assert decide(question(name), policy) is None
    assert decide(question(name, "AAAA"), policy) is None
    for other in ("www." + name, "x" + name, name.removesuffix(".") + ".org", "com", "."):
        refused = decide(question(other), policy)
        assert refused is not None, other
        assert (refused.rcode, refused.refused) == (dns.rcode.REFUSED, True), other


def test_a_blocked_name_is_refused_and_others_are_not() -> None:
    """In any case, and below it where the pattern says so."""
    policy = names(blocked=("example.com", "*.example.org"))
    for name in ("example.com", "EXAMPLE.COM", "a.example.org", "A.B.EXAMPLE.ORG"):
        refused = decide(question(name), policy)
        assert refused is not None, name
        assert refused.rcode == dns.rcode.REFUSED, name
    for name in ("www.example.com", "example.org", "example.net"):
        assert decide(question(name), policy) is None, name


@pytest.mark.parametrize("kind", ["ANY", "AXFR", "IXFR", "MAILB", "TSIG", "TKEY", "OPT", "NULL", "TYPE65280", "TYPE0"])
def test_types_that_are_about_servers_or_for_tunnels_are_refused(kind: str) -> None:
    """Of every name, even of a peer's."""
    for name in ("www.example.com", "db", "localhost"):
        answer = decide(question(name, kind), names())
        assert answer is not None
        if kind in {"NULL", "TYPE65280", "TYPE0"} and name != "www.example.com":
            assert (answer.rcode, answer.records) == (dns.rcode.NOERROR, ())
        else:
            assert (answer.rcode, answer.refused) == (dns.rcode.REFUSED, True)


@pytest.mark.parametrize("kind", ["TXT", "MX", "SRV", "NS", "SOA", "CAA", "PTR", "CNAME", "TLSA", "DNSKEY"])
def test_other_types_are_asked_for_where_the_name_may_be(kind: str) -> None:
    """They are subject to the same lists."""
    policy = names(allowed=("*.example.com",))
    assert decide(question("www.example.com", kind), policy) is None
    refused = decide(question("www.example.org", kind), policy)
    assert refused is not None
    assert refused.rcode == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB"])
def test_records_with_hints_are_empty(kind: str) -> None:
    """Their addresses are in A and AAAA, too; a name that is refused is refused for them."""
    policy = names(allowed=("www.example.com",))
    assert decide(question("www.example.com", kind), policy) == Answer()
    refused = decide(question("_dns.resolver.arpa", kind), policy)
    assert refused is not None
    assert refused.rcode == dns.rcode.REFUSED


@pytest.mark.parametrize("rdclass", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(rdclass: str) -> None:
    """Such as version.bind."""
    answer = decide(question("version.bind", "TXT", rdclass), names())
    assert answer is not None
    assert answer.rcode == dns.rcode.REFUSED


@pytest.mark.parametrize(
    "labels", [(b"www.example", b"com"), (b"a\0", b"example", b"com"), (b"b\xc3\xbccher", b"example", b"com"),
               (b"a\\", b"example", b"com"), (b"a b", b"example", b"com")]
)  # fmt: skip
def test_a_name_that_another_program_could_read_otherwise_is_refused(labels: tuple[bytes, ...]) -> None:
    """With all names allowed, too; and as somebody's alias."""
    odd = dns.name.Name((*labels, b""))
    assert plain_name(odd) is None
    assert shown_name(odd).isascii()
    asked = dns.rrset.RRset(odd, 1, 1)  # type: ignore[arg-type]
    answer = decide(asked, names())
    assert answer is not None
    assert (answer.rcode, answer.refused) == (dns.rcode.REFUSED, True)
    alias = told(f"www.example.com. 60 CNAME {odd.to_text()}", f"{odd.to_text()} 60 A {PUBLIC}", names=names())
    assert alias.rcode == dns.rcode.REFUSED


def test_peers_go_before_everything_else() -> None:
    """By their family, for a second; nothing of other types; even where nothing is allowed."""
    for policy in (names(), names(allowed=()), names(blocked=("db",))):
        answer = decide(question("DB"), policy)
        assert answer is not None
        assert texts(answer) == ["DB. 1 IN A 10.200.0.2"]
        answer = decide(question("db", "AAAA"), policy)
        assert answer is not None
        assert texts(answer) == ["db. 1 IN AAAA fd00::2"]
        for name, kind in (("db", "TXT"), ("db", "HTTPS"), ("db", "CNAME"), ("old", "AAAA"), ("gone", "A")):
            assert decide(question(name, kind), policy) == Answer()


def test_localhost_is_told_at_once() -> None:
    """And what is below it; RFC 6761."""
    for name in ("localhost", "LOCALHOST.", "a.localhost"):
        for kind, address in (("A", "127.0.0.1"), ("AAAA", "::1")):
            answer = decide(question(name, kind), names(allowed=()))
            assert answer is not None
            assert [line.split()[-1] for line in texts(answer)] == [address]
        assert decide(question(name, "MX"), names()) == Answer()


@pytest.mark.parametrize(
    "name",
    ["1.0.0.10.in-addr.arpa", "168.192.in-addr.arpa", "254.169.254.169.in-addr.arpa", "1.0.0.127.in-addr.arpa",
     ".".join(reversed("fd000000000000000000000000000001")) + ".ip6.arpa", "d.f.ip6.arpa", "x.invalid", "x.onion"],
)  # fmt: skip
def test_whose_a_private_address_is_nobody_is_asked(name: str) -> None:
    """It does not exist, nor do names that are none of the DNS; where private ranges may be reached it is asked for."""
    for kind in ("PTR", "SOA", "TXT"):
        answer = decide(question(name, kind), names())
        assert answer is not None
        assert (answer.rcode, answer.refused) == (dns.rcode.NXDOMAIN, False)
    if name.endswith("arpa"):
        assert decide(question(name, "PTR"), names(private=True)) is None


def test_whose_a_public_address_is_may_be_asked() -> None:
    """By the lists, as for any name; so may a range that is private in part."""
    assert decide(question("8.8.8.8.in-addr.arpa", "PTR"), names()) is None
    assert decide(question("172.in-addr.arpa", "SOA"), names()) is None
    assert decide(question("1.0.0.2.ip6.arpa", "NS"), names()) is None
    refused = decide(question("8.8.8.8.in-addr.arpa", "PTR"), names(allowed=("example.com",)))
    assert refused is not None
    assert refused.rcode == dns.rcode.REFUSED


# What a server says


def test_the_chain_and_its_end_are_told_and_nothing_else() -> None:
    """Records of other names are dropped: they are for caches, and often somebody's try."""
    answer = told(
        "other.example.com. 60 A 8.8.4.4",
        "cdn.example.net. 20 CNAME Edge.example.org.",
        "www.example.com. 60 CNAME cdn.example.net.",
        f"edge.example.org. 30 A {PUBLIC}",
        "www.example.com. 60 TXT x",
        names=names(),
    )
    assert texts(answer) == [
        "www.example.com. 60 IN CNAME cdn.example.net.",
        "cdn.example.net. 20 IN CNAME Edge.example.org.",
        f"Edge.example.org. 30 IN A {PUBLIC}",
    ]
    assert answer.admitted == ()


def test_an_allowed_name_has_the_addresses_of_its_aliases_admitted() -> None:
    """For a minute longer than they are good for, whatever names lie between; and for no longer than an hour."""
    policy = names(allowed=("www.example.com",))
    chain = ("www.example.com. 60 CNAME cdn.example.net.", f"cdn.example.net. 30 A {PUBLIC}")
    answer = told(*chain, names=policy)
    assert answer.admitted == ((PUBLIC, 30 + LEAST_SECONDS),)
    assert told(f"www.example.com. 0 A {PUBLIC}", names=policy).admitted == ((PUBLIC, LEAST_SECONDS),)
    long = told(f"www.example.com. 1000000 A {PUBLIC}", names=policy)
    assert long.admitted == ((PUBLIC, LONGEST_SECONDS + LEAST_SECONDS),)
    assert texts(long) == [f"www.example.com. {LONGEST_SECONDS} IN A {PUBLIC}"]
    assert told(*chain, names=names()).admitted == ()


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "CNAME"])
def test_a_chain_that_passes_a_blocked_name_is_refused(kind: str) -> None:
    """At any station, for any type."""
    end = {"A": PUBLIC, "AAAA": "2606:4700::1", "TXT": "x", "CNAME": "c."}[kind]
    chain = (
        "www.example.com. 60 CNAME A.example.net.", "a.example.net. 60 CNAME b.example.org.",
        f"b.example.org. 60 {kind} {end}",
    )  # fmt: skip
    assert told(*chain, kind=kind, names=names(blocked=("c.example.org",))).rcode == dns.rcode.NOERROR
    for blocked in ("a.example.net", "*.example.org", "b.example.org"):
        answer = told(*chain, kind=kind, names=names(blocked=(blocked,)))
        if kind == "CNAME" and blocked != "a.example.net":
            assert texts(answer) == ["www.example.com. 60 IN CNAME A.example.net."]  # that was all it asked for
        else:
            assert (answer.rcode, answer.refused, answer.records) == (dns.rcode.REFUSED, True, ())


def test_a_circle_of_aliases_fails() -> None:
    """So does a chain that is longer than anybody's."""
    circle = ("www.example.com. 60 CNAME b.example.com.", "b.example.com. 60 CNAME www.example.com.")
    assert told(*circle, names=names()).rcode == dns.rcode.SERVFAIL
    assert told("www.example.com. 60 CNAME www.example.com.", names=names()).rcode == dns.rcode.SERVFAIL
    for length, rcode in ((16, dns.rcode.NOERROR), (17, dns.rcode.SERVFAIL)):
        chain = [f"n{i}.example.com. 60 CNAME n{i + 1}.example.com." for i in range(length)]
        answer = told(*chain, f"n{length}.example.com. 60 A {PUBLIC}", name="n0.example.com", names=names())
        assert answer.rcode == rcode


@pytest.mark.parametrize(
    ("kind", "hidden", "shown"),
    [
        ("A", ("10.0.0.1", "127.0.0.1", "169.254.169.254", "0.0.0.0", "100.100.100.200"), PUBLIC),  # noqa: S104
        (
            "AAAA",
            ("::1", "::", "fe80::1", "fd00::1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:a00:1::"),
            "2606:4700::1",
        ),
    ],
)
def test_addresses_that_cannot_be_reached_are_not_told(kind: str, hidden: tuple[str, ...], shown: str) -> None:
    """What is left is; where nothing is left it is the policy's doing."""
    policy = names(allowed=("www.example.com",))
    for one in hidden:
        alone = told(f"www.example.com. 60 {kind} {one}", kind=kind, names=policy)
        assert (alone.rcode, alone.refused, alone.records, alone.admitted) == (dns.rcode.NOERROR, True, (), ()), one
    lines = [f"www.example.com. 60 {kind} {one}" for one in hidden]
    some = told(*lines, f"www.example.com. 60 {kind} {shown}", kind=kind, names=policy)
    assert texts(some) == [f"www.example.com. 60 IN {kind} {shown}"]
    assert [address for address, _ in some.admitted] == [shown]
    assert not some.refused


def test_private_addresses_are_told_where_they_may_be_reached() -> None:
    """A configuration without blocked networks."""
    answer = told("www.example.com. 60 A 10.0.0.1", names=names(private=True))
    assert texts(answer) == ["www.example.com. 60 IN A 10.0.0.1"]


def test_no_more_addresses_are_told_than_are_admitted() -> None:
    """The first ones, of a thousand."""
    policy = names(allowed=("www.example.com",))
    answer = told(*(f"www.example.com. 60 A 8.8.{i // 256}.{i % 256}" for i in range(1000)), names=policy)
    assert len(answer.admitted) == MOST_ADDRESSES
    assert [line.split()[-1] for line in texts(answer)] == [address for address, _ in answer.admitted]


def test_what_does_not_exist_does_not_exist_for_the_program() -> None:
    """NXDOMAIN and an empty answer are told, with the aliases that lead there."""
    assert told(rcode="NXDOMAIN", names=names()) == Answer(rcode=dns.rcode.NXDOMAIN)
    assert told(names=names()) == Answer()
    chain = told("www.example.com. 60 CNAME gone.example.com.", rcode="NXDOMAIN", names=names())
    assert (chain.rcode, texts(chain)) == (
        dns.rcode.NXDOMAIN, ["www.example.com. 60 IN CNAME gone.example.com."],
    )  # fmt: skip
