"""The rules of the router: a table of its own in its own namespace, in which every sandbox has a chain.

::

    prerouting   a packet with few hops left, or with options of IPv4: drop
                 a sandbox' packet that has not the sandbox' address: drop; to a sandbox, or the resolver: no connection
    forward      from a suspended sandbox: drop
                 of a connection of TCP that was reset: drop
                 from a sandbox: its chain c<number>
                 to a sandbox: accept what belongs to a connection that its chain accepted; drop
    forwarded    to a suspended sandbox: drop
    input        from a sandbox to the resolver: accept, up to a rate; drop
    c<number>    to a sandbox: accept what its segments allow (p<number>), or refuse
                 to nobody: refuse
                 to a blocked address, another resolver, a port that is not allowed: refuse
                 of a connection that was accepted before: accept
                 to an address that no allowed name has: refuse; one connection too many (k<number>): refuse
                 to the outside: mark the connection, accept
    output       with pasta: of the router's own, drop all that leads outside
    postrouting  with pasta: masquerade

A connection's mark is the number of the sandbox, and no number is used twice: who is given the address of a sandbox
that is gone does not get its connections. What was blocked is refused before established connections are accepted, so
that a narrower policy ends them.

What is there before the first sandbox is in `foundation`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from nsbox._network import nftables as nft
from nsbox._network import packets
from nsbox._network.netlink import Template
from nsbox._network.nftables import Expression, Meta, Type, Verdict
from nsbox._network.packets import DESTINATION, SANDBOXES, SOURCE, UPLINK_KEY
from nsbox._network.policy import Policy, address_ranges, port_ranges

TABLE = nft.Table("nsbox")
MOST_CONNECTIONS = 2**32 - 1

_NUMBER, _OTHER = "99999999", "88888888"
_MARK, _LIMIT = 0xDEC0DE42, 0xFEEDF00D
OWN4, OWN6 = IPv4Address("161.178.195.212"), IPv6Address("fd5a:a5c3:3c96:6987:781e:e1d2:2d4b:b48f")
PLACES = {
    "number": _NUMBER.encode(),
    "other": _OTHER.encode(),
    "mark": struct.pack("=I", _MARK),
    "limit": struct.pack(">I", _LIMIT),
    "own4": OWN4.packed,
    "own6": OWN6.packed,
}
"""What stands in templates for what each sandbox has of its own."""
_REFUSED_SECONDS = 60.0


def digits(number: int) -> bytes:
    """A number as it is in the names of interfaces, chains and sets: of one length always."""
    return b"%08d" % number


def interface(number: int) -> str:
    """The router's end of a sandbox' veth pair."""
    return f"v{number:08d}"


def key_of_interface(number: int) -> bytes:
    """Its name as the key of a set (IFNAMSIZ)."""
    return interface(number).encode().ljust(16, b"\0")


def mark_of(number: int) -> bytes:
    """What the connections of a sandbox are marked with."""
    return struct.pack("=I", number)


def _refuse() -> list[Expression]:
    return [nft.count(f"r{_NUMBER}"), nft.verdict(Verdict.GOTO, "refuse")]


# What each sandbox has.


@dataclass(frozen=True, slots=True)
class Form:
    """What of a policy decides which rules there are; the rest is in their places, and in sets."""

    access: bool
    blocks_host: bool
    has_ports: bool
    by_name: bool
    limited: bool

    @classmethod
    def of(cls, policy: Policy) -> Form:
        """The form of a policy's rules."""
        return cls(
            policy.access,
            policy.blocks_host,
            policy.allowed_ports is not None,
            policy.by_name,
            policy.connections_limit is not None,
        )


@cache
def opened(form: Form, *, ipv6: bool) -> Template:
    """All of a sandbox."""
    made = [TABLE.counter(f"r{_NUMBER}"), TABLE.counter(f"l{_NUMBER}"), TABLE.chain(f"c{_NUMBER}")]
    if form.by_name:
        made += _names()
    if form.limited:
        made += [TABLE.chain(f"k{_NUMBER}"), *_limit()]
    return Template(b"".join((*made, *_rules(form), *_elements(TABLE.add, f"c{_NUMBER}", ipv6=ipv6))), PLACES)


def _elements(
    do: Callable[[str, list[bytes]], bytes], chain: str, *, ipv6: bool, seconds: float | None = None
) -> list[bytes]:
    """What leads from the sandbox' interface to its chain, and what tells that a packet is its own."""
    key = f"v{_NUMBER}".encode().ljust(16, b"\0")
    own = [("own4", OWN4.packed), *([("own6", OWN6.packed)] if ipv6 else [])]
    return [
        do("cells", [nft.element(key, verdict=(Verdict.GOTO, chain), seconds=seconds)]),
        *(do(name, [nft.element(key + address, seconds=seconds)]) for name, address in own),
        *([] if seconds else [do("flows", [nft.element(key + PLACES["mark"])])]),
    ]


@cache
def changed(form: Form) -> Template:
    """Other rules in the chain of a sandbox."""
    return Template(b"".join((TABLE.empty_chain(f"c{_NUMBER}"), *_rules(form))), PLACES)


@cache
def closed(form: Form, *, ipv6: bool) -> Template:
    """What `opened` made, removed. What the sandbox still sends is refused for a while, which ends by itself."""
    chain = f"c{_NUMBER}"
    gone = [
        *_elements(TABLE.remove, chain, ipv6=ipv6),
        *_elements(TABLE.add, "refuse", ipv6=ipv6, seconds=_REFUSED_SECONDS),
        TABLE.remove_chain(chain),
    ]
    if form.limited:
        gone.append(TABLE.remove_chain(f"k{_NUMBER}"))
    if form.by_name:
        gone += [TABLE.remove_set(f"names{version}_{_NUMBER}") for version in (4, 6)]
    return Template(b"".join((*gone, *(TABLE.remove_counter(f"{one}{_NUMBER}") for one in "rl"))), PLACES)


@cache
def names(*, made: bool) -> Template:
    """The sets of addresses that a sandbox learnt by name."""
    gone = [TABLE.remove_set(f"names{version}_{_NUMBER}") for version in (4, 6)]
    return Template(b"".join(_names() if made else gone), PLACES)


@cache
def limit(*, made: bool, changed: bool) -> Template:
    """The chain that counts connections: made, changed, or removed. It forgets what it counted with every change."""
    chain = f"k{_NUMBER}"
    if not made:
        return Template(TABLE.remove_chain(chain), PLACES)
    return Template(b"".join((TABLE.empty_chain(chain) if changed else TABLE.chain(chain), *_limit())), PLACES)


def _names() -> list[bytes]:
    return [TABLE.set(f"names4_{_NUMBER}", Type.IPV4, timeouts=True),
            TABLE.set(f"names6_{_NUMBER}", Type.IPV6, timeouts=True)]  # fmt: skip


def _limit() -> list[bytes]:
    over = nft.more_connections_than(_LIMIT)
    return [TABLE.rule(f"k{_NUMBER}", over, nft.count(f"l{_NUMBER}"), nft.verdict(Verdict.GOTO, "refuse"))]


def _rules(form: Form) -> Iterator[bytes]:
    def rule(*expressions: Expression) -> bytes:
        return TABLE.rule(f"c{_NUMBER}", *expressions)

    yield rule(*packets.going_to(SANDBOXES), nft.verdict(Verdict.JUMP, "between"))
    yield rule(nft.meta(Meta.OIFNAME), nft.different(UPLINK_KEY), *_refuse())
    if form.access:
        yield from (rule(*_blocked(version, f"blocked{version}_{_OTHER}")) for version in (4, 6))
        if form.blocks_host:
            yield from (rule(*_blocked(version, f"host{version}")) for version in (4, 6))
        to_port = [nft.meta(Meta.L4PROTO), nft.within("carriers"), nft.transport(2, 2)]
        yield rule(*to_port, nft.within("resolvers"), *_refuse())
        passing = "carriers" if form.has_ports else "protocols"
        yield rule(nft.meta(Meta.L4PROTO), nft.within(passing, inverted=True), *_refuse())
        if form.has_ports:
            yield rule(nft.transport(2, 2), nft.within(f"ports_{_OTHER}", inverted=True), *_refuse())
        yield rule(*nft.state(nft.NO_CONNECTION), nft.verdict(Verdict.DROP))
        yield rule(nft.connection_mark(), nft.equal(PLACES["mark"]), nft.verdict(Verdict.ACCEPT))
        if form.by_name:
            for version in (4, 6):
                unknown = nft.within(f"names{version}_{_NUMBER}", inverted=True)
                yield rule(*packets.address(version, DESTINATION), unknown, *_refuse())
        if form.limited:
            yield rule(nft.verdict(Verdict.JUMP, f"k{_NUMBER}"))
        yield rule(*packets.going_to(UPLINK_KEY), *nft.mark_connection(PLACES["mark"]), nft.verdict(Verdict.ACCEPT))
    yield rule(*_refuse())


def _blocked(version: int, name: str) -> list[Expression]:
    return [*packets.address(version, DESTINATION), nft.within(name), *_refuse()]


# What sandboxes with equal policies share.


def shared_sets(number: int, policy: Policy) -> list[bytes]:
    """The sets of blocked networks and allowed ports, with their elements."""
    made = []
    for version, kind, length in ((4, Type.IPV4, 4), (6, Type.IPV6, 16)):
        name = f"blocked{version}_{number:08d}"
        ranges = address_ranges(policy.blocked_networks, version)
        made += [TABLE.set(name, kind, intervals=True), *intervals(name, ranges, length)]
    if policy.allowed_ports is not None:
        name = f"ports_{number:08d}"
        made += [TABLE.set(name, Type.PORT, intervals=True), *intervals(name, port_ranges(policy.allowed_ports), 2)]
    return made


def intervals(name: str, ranges: tuple[tuple[int, int], ...], length: int) -> list[bytes]:
    """Put ranges of keys into a set that takes them."""
    return [TABLE.add(name, [nft.interval(first, last, length) for first, last in ranges])] if ranges else []


def without_shared_sets(number: int, policy: Policy) -> list[bytes]:
    """Remove what `shared_sets` made; no rule may use them any more."""
    names = [f"blocked4_{number:08d}", f"blocked6_{number:08d}"]
    if policy.allowed_ports is not None:
        names.append(f"ports_{number:08d}")
    return [TABLE.remove_set(name) for name in names]


# Segments.


@cache
def segment(*, made: bool) -> Template:
    """The sets of a segment: all its members, and those that are not cut off."""
    kinds = [(kind, version) for kind in ("all", "linked") for version in (4, 6)]
    parts = [
        TABLE.set(f"{kind}{version}_{_OTHER}", Type.IPV4 if version == 4 else Type.IPV6)
        if made
        else TABLE.remove_set(f"{kind}{version}_{_OTHER}")
        for kind, version in kinds
    ]
    return Template(b"".join(parts), PLACES)


@cache
def peers(what: str) -> Template:
    """The chain of a sandbox that is in segments: "made", "emptied" or "removed"."""
    chain = f"p{_NUMBER}"
    parts = {"made": TABLE.chain, "emptied": TABLE.empty_chain, "removed": TABLE.remove_chain}
    return Template(parts[what](chain), PLACES)


@cache
def linked() -> Template:
    """Two members that are not cut off: accept."""
    return _both("linked", Verdict.ACCEPT)


@cache
def parted() -> Template:
    """Two members, one of which is cut off: drop, as a broken cable would."""
    return _both("all", Verdict.DROP)


def _both(kind: str, verdict: Verdict) -> Template:
    rules = [
        TABLE.rule(
            f"p{_NUMBER}",
            *packets.address(version, SOURCE),
            nft.within(f"{kind}{version}_{_OTHER}"),
            nft.network(16 if version == 4 else 24, 4 if version == 4 else 16),
            nft.within(f"{kind}{version}_{_OTHER}"),
            nft.verdict(verdict),
        )
        for version in (4, 6)
    ]
    return Template(b"".join(rules), PLACES)
