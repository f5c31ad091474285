"""DNS messages between a sandbox and the resolver (RFC 1035, EDNS: RFC 6891). Both directions are bounded."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

LARGEST_QUERY = 1024
"""Bytes. A question has 271 at most; the rest is for options."""

MOST_LABELS = 40
"""Of a name: below ip6.arpa there are 34. The library writes one in a time that grows with the square: 0.9 ms with 40,
3 ms with 120 (measured), and does so several times for each question."""

PAYLOAD = 1232
"""Bytes of an answer by UDP, at most, whatever the program says: no path that IPv6 may take makes fragments of it."""

LARGEST_ANSWER = 65_535
"""By TCP: what the length in front can say."""

_LEAST_PAYLOAD = 512
_LONGEST_LABEL = 63
_HEADER = struct.Struct("!HHHHHH")
_OPTION_HEADER = struct.Struct("!BHHIH")  # of the record OPT: the root, type, payload, flags, length of its options
_OPT = 41
_QR, _OPCODE, _RD, _RA = 0x8000, 0x7800, 0x0100, 0x0080
_PLAIN = re.compile(rb"[!-\-/-\[\]-~]+")


def plain_name(name: dns.name.Name) -> str | None:
    r"""In lower case, without the final dot; the root is "".

    None where a label has a dot, a backslash, a NUL or anything but printable ASCII. No host has such a name, and
    servers on the way that handle names as text take it for another one, by which it would get around the policy.
    """
    labels = name.labels[:-1]
    if not all(_PLAIN.fullmatch(label) for label in labels):
        return None
    return b".".join(labels).decode("ascii").lower()


def shown_name(name: dns.name.Name) -> str:
    """For people, whatever is in it."""
    plain = plain_name(name)
    return name.to_text(omit_final_dot=True) if plain is None else plain or "."


def read_query(wire: bytes) -> dns.message.Message | bytes | None:
    """A message from a sandbox.

    Returns:
        What it asks, with exactly one question; or an error to answer at once; or None where nothing is answered, be
        it that nobody could be meant, or that two programs which answer each other would never end.
    """
    if len(wire) < _HEADER.size:
        return None
    _, flags, questions, answers, authority, additional = _HEADER.unpack_from(wire)
    if flags & _QR:
        return None
    if flags & _OPCODE:
        return error(wire, dns.rcode.NOTIMP)
    end = _end_of_question(wire)
    # What else a query may have is its OPT. More would only have to be read.
    if questions != 1 or answers or authority or additional > 1 or len(wire) > LARGEST_QUERY or end is None:
        return error(wire, dns.rcode.FORMERR)
    known = _without_options(wire, end) if additional else wire
    if known is None:
        return error(wire, dns.rcode.FORMERR)
    try:
        query = dns.message.from_wire(known)
    except (dns.exception.DNSException, ValueError):
        return error(wire, dns.rcode.FORMERR)
    return query if query.edns <= 0 else write_answer(query, dns.rcode.BADVERS, (), _LEAST_PAYLOAD)


def _end_of_question(wire: bytes) -> int | None:
    """Where it ends, if the message goes on so far; None: its name is compressed, or has more labels than any."""
    place, labels = _HEADER.size, 0
    while place < len(wire) and (size := wire[place]):
        labels += 1
        if size > _LONGEST_LABEL or labels > MOST_LABELS:
            return None
        place += 1 + size
    return place + 5


def _without_options(wire: bytes, start: int) -> bytes | None:
    """A query whose OPT has none: nothing depends on them, and each takes time. None: it is something else."""
    if len(wire) < start + _OPTION_HEADER.size:
        return None
    root, kind, payload, flags, size = _OPTION_HEADER.unpack_from(wire, start)
    if root or kind != _OPT or start + _OPTION_HEADER.size + size != len(wire):
        return None
    return wire[:start] + _OPTION_HEADER.pack(root, kind, payload, flags, 0)


def error(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer with the header alone: of a message that cannot be read, no question can be repeated."""
    number, flags = _HEADER.unpack_from(wire)[:2]
    return _HEADER.pack(number, _QR | _RA | flags & (_OPCODE | _RD) | rcode, 0, 0, 0, 0)


def datagram_limit(query: dns.message.Message) -> int:
    """Bytes of an answer that whoever asked takes by UDP."""
    return min(max(query.payload, _LEAST_PAYLOAD), PAYLOAD) if query.edns >= 0 else _LEAST_PAYLOAD


def write_answer(
    query: dns.message.Message, rcode: dns.rcode.Rcode, records: Sequence[dns.rrset.RRset], limit: int
) -> bytes:
    """An answer; where it has more than `limit` bytes an empty one that says so, and is asked for again by TCP."""
    answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD, pad=0)
    answer.set_rcode(rcode)
    answer.answer = list(records)
    try:
        return answer.to_wire(max_size=limit)
    except dns.exception.TooBig:
        answer.answer = []
        answer.flags |= dns.flags.TC
        return answer.to_wire(max_size=limit)
