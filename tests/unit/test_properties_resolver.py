"""Any bytes of a program or of a server are answered or dropped; no answer has what policy keeps from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from anything import examples
from hypothesis import given
from hypothesis import strategies as st

from nsbox._config.networks import PRIVATE_NETWORKS
from nsbox._network.decisions import MOST_ADDRESSES, Answer, decide, sift
from nsbox._network.names import Names, reverse_network
from nsbox._network.queries import LARGEST_ANSWER, datagram_limit, plain_name, read_query, write_answer
from nsbox._network.upstream import is_reply, name_servers, read_reply

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

PRIVATE = [ipaddress.ip_network(one) for one in PRIVATE_NETWORKS]

LABELS = st.sampled_from([b"www", b"WWW", b"example", b"com", b"a.b", b"\0", b"\xff", b"x" * 63]) | st.binary(
    min_size=1, max_size=9
)
POOL = ["www.example.com.", "WWW.Example.COM.", "a.example.com.", "b.example.org.", "c.example.net.", "."]
NAMES = st.sampled_from(POOL).map(dns.name.from_text) | st.lists(LABELS, max_size=3).map(
    lambda labels: dns.name.Name((*labels, b""))
)
KINDS = st.sampled_from(["A", "AAAA", "CNAME", "TXT", "MX", "ANY", "HTTPS", "PTR"]).map(
    dns.rdatatype.from_text
) | st.integers(0, 65_535).map(dns.rdatatype.RdataType.make)
ADDRESSES = {
    "A": st.ip_addresses(v=4).map(str) | st.sampled_from(["8.8.8.8", "10.0.0.1", "127.0.0.1", "169.254.169.254"]),
    "AAAA": st.ip_addresses(v=6).map(str) | st.sampled_from(["2606:4700::1", "::1", "::ffff:8.8.8.8", "fd00::1"]),
}
PATTERNS = st.lists(
    st.sampled_from(["www.example.com", "*.example.com", "b.example.org", "*.org", "c.example.net"]), max_size=3
).map(tuple)


def is_private(address: str) -> bool:
    """By the ranges of the default."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in one for one in PRIVATE if one.version == parsed.version)


async def admit_nothing(_: Sequence[tuple[str, float]]) -> None:
    """What is to be admitted is in the answer."""


POLICIES = st.builds(
    lambda blocked, allowed: Names(
        blocked=blocked, allowed=allowed, hosts={"db": ("10.0.0.1",)}.get, admit=admit_nothing,
        refused=lambda _: None, is_blocked_address=is_private,
    ),
    PATTERNS, st.none() | PATTERNS,
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> dns.rrset.RRset:
    """One or more of one name and type."""
    kind = draw(st.sampled_from(["A", "AAAA", "CNAME", "TXT"]))
    count = draw(st.integers(1, 40 if kind == "A" else 3))
    texts = {
        "CNAME": NAMES.map(dns.name.Name.to_text), "TXT": st.sampled_from(['"x"', f'"{"y" * 250}"']), **ADDRESSES,
    }  # fmt: skip
    given_ = draw(st.lists(texts[kind], min_size=count, max_size=count))
    ttl = draw(st.sampled_from([0, 1, 60, 3601, 2**31 - 1]))
    return dns.rrset.from_text(draw(NAMES), ttl, "IN", kind, *given_)


@st.composite
def mutated(draw: st.DrawFn, wire: bytes) -> bytes:
    """Bytes, with some changed, and perhaps an end that is missing, or one more."""
    changed = bytearray(wire)
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(wire) - 1), st.integers(0, 255)), max_size=4)):
        changed[place] = value
    return bytes(changed[: draw(st.just(len(changed)) | st.integers(0, len(changed)))]) + draw(st.binary(max_size=3))


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Of programs, good and bad."""
    edns = draw(st.sampled_from([-1, 0, 0, 1]))
    payload = draw(st.integers(0, 65_535))
    wire = dns.message.make_query(draw(NAMES), draw(KINDS), use_edns=edns, payload=payload).to_wire()
    return draw(st.just(wire) | mutated(wire) | st.binary(max_size=60))


@examples(400)
@given(queries(), POLICIES)
def test_any_bytes_of_a_program_are_answered_or_dropped(wire: bytes, policy: Names) -> None:
    """An answer has the query's number and says that it is one; what is asked outside is what policy permits."""
    query = read_query(wire)
    if query is None:
        assert len(wire) < 12 or wire[2] & 0x80
        return
    if isinstance(query, bytes):
        assert query[:2] == wire[:2]
        assert query[2] & 0x80
        assert dns.message.from_wire(query).rcode() != dns.rcode.NOERROR
        return
    question = query.question[0]
    answer = decide(question, policy)
    name = plain_name(question.name)
    if answer is None:
        assert name is not None
        assert policy.permits(name)
        return
    assert not answer.admitted
    for limit in (datagram_limit(query), LARGEST_ANSWER):
        sent = write_answer(query, answer.rcode, answer.records, limit)
        assert len(sent) <= limit
        assert query.is_response(dns.message.from_wire(sent))


def check(question: dns.rrset.RRset, answer: Answer, policy: Names) -> None:
    """What holds for whatever a server says."""
    addresses = []
    name = question.name
    for rrset in answer.records:
        assert rrset.name == name  # each leads to the next
        assert rrset.ttl <= 3600
        for one in rrset:
            if rrset.rdtype == dns.rdatatype.CNAME:
                name = one.target
                plain = plain_name(name)
                assert plain is not None
                assert not policy.blocks(plain)
            elif rrset.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
                addresses.append(one.address)
    assert not any(map(is_private, addresses))
    assert len(addresses) <= MOST_ADDRESSES
    if policy.allowed is not None:
        assert addresses == [address for address, _ in answer.admitted]
    assert all(60 <= seconds <= 3660 for _, seconds in answer.admitted)


@examples(400)
@given(st.data(), POLICIES, st.lists(records(), max_size=5), st.sampled_from(["A", "AAAA", "CNAME", "TXT"]))
def test_whatever_a_server_says_is_told_without_what_is_kept_from_the_program(
    data: st.DataObject, policy: Names, said: list[dns.rrset.RRset], kind: str
) -> None:
    """Every chain is one, every address may be reached and is admitted; what cannot be read is no answer."""
    query = dns.message.make_query("www.example.com", kind)
    reply = dns.message.make_response(query)
    reply.answer = said
    reply.set_rcode(data.draw(st.sampled_from([dns.rcode.NOERROR, dns.rcode.NXDOMAIN])))
    right = reply.to_wire(max_size=65_535)
    wire = data.draw(st.just(right) | mutated(right))
    if not is_reply(query, wire) or (read := read_reply(wire)) is None:
        assert wire != right
        return
    answer = sift(query.question[0], read, policy)
    check(query.question[0], answer, policy)
    sent = dns.message.from_wire(write_answer(query, answer.rcode, answer.records, 512))
    assert query.is_response(sent)
    assert bool(sent.answer) == (bool(answer.records) and not sent.flags & dns.flags.TC)


@examples(300)
@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_none(wire: bytes) -> None:
    """Of a server, or of who pretends to be one."""
    query = dns.message.make_query("www.example.com", "A")
    assert not is_reply(query, wire)
    read_reply(wire)


@examples(300)
@given(st.lists(st.sampled_from([*"0123456789abcdefx", "255", "10", "ip6", "arpa", "in-addr", ""]), max_size=40))
def test_any_name_is_about_a_range_or_none(labels: list[str]) -> None:
    """However it goes on."""
    found = reverse_network(".".join(labels))
    assert found is None or labels[-1] == "arpa"


@examples(200)
@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["nameserver", " ", "\n", "8.8.8.8", "::1", "%", "#"])).map("".join)
)
def test_any_configuration_of_the_host_has_servers(config: str) -> None:
    """One at least, and three at most."""
    assert 1 <= len(name_servers(config)) <= 3
