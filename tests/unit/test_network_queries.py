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
    MOST_LABELS,
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


def test_a_question_with_more_labels_than_any_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would take its time; a name of the way from addresses to names is one, and so is a service below."""
    least = dns.message.make_query(f"_a._b.{'0.' * 32}ip6.arpa", "PTR").to_wire()
    most = dns.message.make_query("a." * MOST_LABELS, "A").to_wire()
    assert isinstance(read_query(least), dns.message.Message)
    assert isinstance(read_query(most), dns.message.Message)
    options: list[dns.edns.Option] = [dns.edns.ECSOption("0.0.0.0", 0)] * 90  # noqa: S104  # the empty one
    costly = dns.message.make_query(dns.name.Name([b"a"] * 110 + [b"localhost", b""]), "A", options=options).to_wire()
    assert len(costly) <= LARGEST_QUERY
    monkeypatch.setattr(dns.message, "from_wire", None)
    with pytest.raises(TypeError):
        read_query(most)
    more = dns.message.make_query("a." * (MOST_LABELS + 1), "A").to_wire()
    refusals = [read_query(one) for one in (more, costly)]
    monkeypatch.undo()
    assert [header(one)[1] for one in refusals] == ["FORMERR", "FORMERR"]


def test_the_options_of_a_query_are_not_read() -> None:
    """Good or bad, one or ninety: what it says of versions and sizes is. What is in the OPT's place is nothing else."""
    unspecified = dns.edns.ECSOption("0.0.0.0", 0)  # noqa: S104
    for option, count in ((unspecified, 90), (dns.edns.GenericOption(dns.edns.OptionType(8), b"bad"), 1)):
        asked = dns.message.make_query("www.example.com", "A", payload=900, options=[option] * count)
        found = read_query(asked.to_wire())
        assert isinstance(found, dns.message.Message)
        assert (found.edns, found.payload, found.options, datagram_limit(found)) == (0, 900, (), 900)
        assert dns.message.from_wire(write_answer(found, dns.rcode.NOERROR, (), 512)).question == asked.question
    wire = query(edns=0).to_wire()
    record = dns.rrset.from_text("www.example.com.", 60, "IN", "A", "192.0.2.1")
    other = query()
    other.additional = [record]
    for bad in (wire[:-1], wire + b"x", wire[:-2] + b"\0\4", wire[:-11] + b"\1a" + wire[-11:], other.to_wire()):
        assert header(read_query(bad))[1] == "FORMERR"


def test_of_a_reply_is_read_what_the_question_is_about() -> None:
    """Aliases and records of its type; what is broken behind them does no harm."""
    asked = query()
    reply = dns.message.make_response(asked)
    records = {
        "CNAME": "cdn.example.net.", "A": "192.0.2.1", "TXT": '"text"', "HTTPS": "1 . alpn=h2",
    }  # fmt: skip
    reply.answer = [dns.rrset.from_text("www.example.com.", 2**31 - 1, "IN", *one) for one in records.items()]
    reply.authority = [dns.rrset.from_text("example.com.", 60, "IN", "NS", "ns.example.com.")]
    wire = reply.to_wire()
    late = wire.replace(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")
    for whole, seconds in ((wire, 2**31 - 1), (wire[:-3], 2**31 - 1), (late, 0)):
        read = read_reply(whole)
        assert read is not None
        assert [dns.rdatatype.to_text(one.rdtype) for one in read.answer] == ["CNAME", "A"]
        assert {one.ttl for one in read.answer} == {seconds}
        assert read.authority == []


def test_a_code_of_a_reply_may_be_in_its_opt() -> None:
    """RFC 6891, 6.1.3: without its upper bits BADVERS would be NOERROR."""
    reply = dns.message.make_response(query(edns=0))
    reply.authority = [dns.rrset.from_text("example.com.", 60, "IN", "NS", "ns.example.com.")]
    reply.set_rcode(dns.rcode.BADVERS)
    read = read_reply(reply.to_wire())
    assert read is not None
    assert read.rcode() == dns.rcode.BADVERS


def test_a_reply_with_more_than_one_question_is_none() -> None:
    """Each would be read."""
    wire = dns.message.make_response(query()).to_wire()
    assert is_reply(query(), wire)
    assert not is_reply(query(), wire[:4] + b"\0\2" + wire[6:] + wire[12:])


def test_the_resolver_knows_the_largest_query_without_the_library() -> None:
    """It has the number twice."""
    assert resolver._LARGEST_QUERY == LARGEST_QUERY
