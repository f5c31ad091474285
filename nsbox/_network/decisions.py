"""What a question is answered with, and what of a server's answer a program is told. All of it is pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rrset

from nsbox._network.names import Names, is_loopback_name, is_nowhere, reverse_network
from nsbox._network.queries import plain_name

LEAST_SECONDS = 60.0
"""How long an address is admitted beyond the time that the name is good for. A program resolves first and connects
then, perhaps to one address after the other; and many answers are good for a few seconds, or for none."""

LONGEST_SECONDS = 3600
"""How long a program may keep an answer, whatever its owner says: as long is an address admitted that may be
somebody else's tomorrow."""

MOST_ADDRESSES = 32
"""Of one answer, the first ones. Each is an element of a set in the kernel, and its owner may write thousands."""

_PEER_SECONDS = 1  # peers come and go, and asking again is cheap
_LOOPBACK = ("127.0.0.1", "::1")
_LONGEST_CHAIN = 16  # what other resolvers follow is 8 to 16

_T = dns.rdatatype.RdataType
_FORWARDED = frozenset({
    _T.A, _T.AAAA, _T.CAA, _T.CERT, _T.CNAME, _T.DNAME, _T.DNSKEY, _T.DS, _T.HINFO, _T.LOC, _T.MX, _T.NAPTR, _T.NS,
    _T.OPENPGPKEY, _T.PTR, _T.SMIMEA, _T.SOA, _T.SPF, _T.SRV, _T.SSHFP, _T.TLSA, _T.TXT, _T.URI,
})  # fmt: skip
"""What is asked for outside. None of it has addresses but the first two, so that no other is a way around `admit`.
Left out are the types that serve tunnels more than programs (NULL, private ones), and those about the server."""

_HINTS = frozenset({_T.SVCB, _T.HTTPS})
"""They carry addresses, parameters, and names of other resolvers (RFC 9460, 9462). Programs without an answer to them
ask for A and AAAA, which they have to do anyway where the record has no addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program is told.

    Attributes:
        rcode: RFC 1035, 4.1.1.
        records: In the order in which aliases lead to them.
        admitted: Addresses that it can then connect to, each with the seconds it is good for.
        refused: Whether this is the policy's answer, not the DNS's.
    """

    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    records: tuple[dns.rrset.RRset, ...] = ()
    admitted: tuple[tuple[str, float], ...] = ()
    refused: bool = False


REFUSED = Answer(rcode=dns.rcode.REFUSED, refused=True)
FAILED = Answer(rcode=dns.rcode.SERVFAIL)
_NO_DATA = Answer()
_HIDDEN = Answer(refused=True)
_NO_NAME = Answer(rcode=dns.rcode.NXDOMAIN)


def decide(question: dns.rrset.RRset, names: Names) -> Answer | None:
    """What a question is answered with without asking anybody; None: a server has to be asked."""
    name, kind = plain_name(question.name), question.rdtype
    if name is None or question.rdclass != dns.rdataclass.IN or dns.rdatatype.is_metatype(kind):
        return REFUSED  # ANY (RFC 8482) and zone transfers are among the last
    local = _LOOPBACK if is_loopback_name(name) else names.hosts(name)
    if local is not None:
        return _local(question, local)
    if is_nowhere(name) or _is_private(name, names):
        return _NO_NAME
    if not names.permits(name) or kind not in _FORWARDED | _HINTS:
        return REFUSED
    return _NO_DATA if kind in _HINTS else None


def sift(question: dns.rrset.RRset, reply: dns.message.Message, names: Names) -> Answer:
    """What of a server's answer to a question that may be asked a program is told.

    That is the chain of aliases, and at its end what was asked for. Nothing else: what a server adds is for caches.
    """
    found = {(one.name, one.rdtype): one for one in reply.answer if one.rdclass == dns.rdataclass.IN}
    chain = _chain(question, found)
    if len(chain) > _LONGEST_CHAIN:
        return FAILED
    targets = [_target(alias) for alias in chain]
    if any((plain := plain_name(one)) is None or names.blocks(plain) for one in targets):
        return REFUSED
    kind = question.rdtype
    last = None if kind == _T.CNAME else found.get((targets[-1] if targets else question.name, kind))
    if last is None:
        return Answer(rcode=reply.rcode(), records=tuple(_kept(alias, alias) for alias in chain))
    told: Sequence[dns.rdata.Rdata] = list(last)
    admitted: tuple[tuple[str, float], ...] = ()
    if kind in {_T.A, _T.AAAA}:
        told = [one for one in last if not names.hides(_address(one))][:MOST_ADDRESSES]
        if not told:
            return _HIDDEN
        if names.allowed is not None:
            seconds = min(last.ttl, LONGEST_SECONDS) + LEAST_SECONDS
            admitted = tuple((_address(one), seconds) for one in told)
    records = (*(_kept(alias, alias) for alias in chain), _kept(last, told))
    return Answer(rcode=reply.rcode(), records=records, admitted=admitted)


def _local(question: dns.rrset.RRset, addresses: Iterable[str]) -> Answer:
    """Those of the family that was asked for; nothing for any other type."""
    kind = question.rdtype
    wanted = [one for one in addresses if kind == (_T.AAAA if ":" in one else _T.A)]
    if not wanted:
        return _NO_DATA
    return Answer(records=(dns.rrset.from_text(question.name, _PEER_SECONDS, dns.rdataclass.IN, kind, *wanted),))


def _is_private(name: str, names: Names) -> bool:
    """Whether a name is about addresses that the sandbox cannot reach: who has them is not its business (RFC 6303).

    A range that is blocked in part exists: with NXDOMAIN the rest of it would be none, too (RFC 8020).
    """
    network = reverse_network(name)
    return network is not None and names.hides(str(network[0])) and names.hides(str(network[-1]))


Found = dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset]


def _chain(question: dns.rrset.RRset, found: Found) -> list[dns.rrset.RRset]:
    """The aliases from the name on, one more than may be where there is no end; who asks for an alias gets one."""
    chain: list[dns.rrset.RRset] = []
    name = question.name
    while (alias := found.get((name, _T.CNAME))) is not None and len(chain) <= _LONGEST_CHAIN:
        chain.append(alias)
        if question.rdtype == _T.CNAME:
            break
        name = _target(alias)
    return chain


def _target(alias: dns.rrset.RRset) -> dns.name.Name:
    record = alias[0]  # never a second one: the library keeps the last of them
    assert isinstance(record, dns.rdtypes.ANY.CNAME.CNAME)
    return record.target


def _address(record: dns.rdata.Rdata) -> str:
    assert isinstance(record, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA)
    return str(record.address)


def _kept(given: dns.rrset.RRset, records: Iterable[dns.rdata.Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(given.name, min(given.ttl, LONGEST_SECONDS), list(records))
