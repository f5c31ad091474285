"""Messages of DNS, as they come from sandboxes and from servers, and go to sandboxes."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from nsbox._network import resolver
from nsbox._network.queries import (
    LARGEST_ANSWER,
    LARGEST_QUERY,
    PAYLOAD,
    datagram_limit,
    read_query,
    write_answer,
)
from nsbox._network.upstream import is_reply, read_reply

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough


def query(
    name: str = "www.example.com", kind: str = "A", *, number: int = 4660, edns: int = -1, payload: int = 1232
) -> dns.message.Message:
    """A question."""
    return dns.message.make_query(name, kind, id=number, use_edns=edns, payload=payload)


def header(wire: bytes | dns.message.Message | None) -> tuple[int, str, int]:
    """Number, code and count of questions of an error."""
    assert isinstance(wire, bytes)
    answer = dns.message.from_wire(wire)
    assert answer.flags & dns.flags.QR
    return answer.id, dns.rcode.to_text(answer.rcode()), len(answer.question)


def test_what_is_no_query_is_dropped_or_an_error() -> None:
    """Each with the number that it had."""
    wire = query().to_wire()
    assert isinstance(read_query(wire), dns.message.Message)
    assert read_query(b"") is None
    assert read_query(wire[:11]) is None
    assert read_query(dns.message.make_response(query()).to_wire()) is None
    for count in (0, 2, 65_535):
        assert header(read_query(wire[:4] + struct.pack("!H", count) + wire[6:])) == (4660, "FORMERR", 0)
    for opcode in range(1, 16):
        changed = wire[:2] + bytes((wire[2] | opcode << 3,)) + wire[3:]
        found = read_query(changed)
        assert isinstance(found, bytes)
        assert found[:4] == struct.pack("!HH", 4660, 0x8180 | opcode << 11 | dns.rcode.NOTIMP)
    for place in (6, 8):
        assert header(read_query(wire[:place] + b"\0\1" + wire[place + 2 :])) == (4660, "FORMERR", 0)
    assert header(read_query(wire[:10] + b"\0\2" + wire[12:])) == (4660, "FORMERR", 0)
    assert header(read_query(wire[:-1])) == (4660, "FORMERR", 0)
    assert header(read_query(wire + b"x")) == (4660, "FORMERR", 0)
    assert header(read_query(wire + bytes(LARGEST_QUERY))) == (4660, "FORMERR", 0)
    assert header(read_query(wire[:12] + b"\xc0\x0c" + wire[-4:])) == (4660, "FORMERR", 0)


def test_a_later_version_of_edns_is_not_spoken() -> None:
    """RFC 6891, 6.1.3: BADVERS, with the question and the version that is."""
    asked = query(edns=1)
    wire = read_query(asked.to_wire())
    assert isinstance(wire, bytes)
    answer = dns.message.from_wire(wire)
    assert (answer.rcode(), answer.edns, answer.question) == (dns.rcode.BADVERS, 0, asked.question)


@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (100, 512), (800, 800), (65_535, PAYLOAD)])
def test_an_answer_by_udp_is_as_long_as_the_program_takes_and_the_path(payload: int | None, limit: int) -> None:
    """What does not fit is empty, and says that it is cut; by TCP it is whole."""
    asked = query() if payload is None else query(edns=0, payload=payload)
    assert datagram_limit(asked) == limit
    records = dns.rrset.from_text("www.example.com.", 60, "IN", "TXT", *(f'"{i:0250}"' for i in range(8)))
    cut = write_answer(asked, dns.rcode.NOERROR, (records,), datagram_limit(asked))
    assert len(cut) <= limit
    answer = dns.message.from_wire(cut)
    assert answer.flags & dns.flags.TC
    assert (answer.answer, answer.question, answer.edns >= 0) == ([], asked.question, payload is not None)
    whole = dns.message.from_wire(write_answer(asked, dns.rcode.NOERROR, (records,), LARGEST_ANSWER))
    assert not whole.flags & dns.flags.TC
    assert whole.answer == [records]
    one = dns.rrset.from_text("www.example.com.", 60, "IN", "TXT", f'"{0:0250}"')
    assert not dns.message.from_wire(write_answer(asked, dns.rcode.NOERROR, (one,), limit)).flags & dns.flags.TC


def test_an_answer_repeats_the_question_as_it_was_and_no_option() -> None:
    """Programs compare them, some with the case of the letters; recursion is available, nothing is authentic."""
    options: list[dns.edns.Option] = [
        dns.edns.GenericOption(dns.edns.OptionType(number), bytes(8)) for number in (3, 8, 10, 12)
    ]
    asked = dns.message.make_query("wWw.eXample.com", "A", use_edns=0, options=options, want_dnssec=True)
    answer = dns.message.from_wire(write_answer(asked, dns.rcode.REFUSED, (), 512))
    assert answer.question[0].name.to_text() == "wWw.eXample.com."
    assert (answer.id, answer.rcode(), answer.options) == (asked.id, dns.rcode.REFUSED, ())
    assert dns.flags.to_text(answer.flags) == "QR RD RA"


def test_only_what_answers_the_query_is_its_answer() -> None:
    """Its number, its question, and the bit that says so; a failure need not repeat the question."""
    asked = query()
    answer = dns.message.make_response(asked)
    assert is_reply(asked, answer.to_wire())
    shouted = answer.to_wire().replace(b"\3www", b"\3WWW")
    assert is_reply(asked, shouted)
    wire = answer.to_wire()
    assert not is_reply(asked, bytes((wire[0] ^ 1,)) + wire[1:])
    assert not is_reply(asked, asked.to_wire())
    for other in (query("www.example.org", number=asked.id), query(kind="AAAA", number=asked.id)):
        assert not is_reply(asked, dns.message.make_response(other).to_wire())
    for broken in (b"", wire[:11], wire[:20], wire[:2] + bytes(range(100))):
        assert not is_reply(asked, broken)
    answer.question = []
    assert not is_reply(asked, answer.to_wire())
    answer.set_rcode(dns.rcode.SERVFAIL)
    assert is_reply(asked, answer.to_wire())
    assert read_reply(wire[:-1]) is None


def test_the_resolver_knows_the_largest_query_without_the_library() -> None:
    """It has the number twice."""
    assert resolver._LARGEST_QUERY == LARGEST_QUERY
