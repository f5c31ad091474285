"""The rules that are there once, before the first sandbox: the table, its sets, and what holds for all of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from nsbox._network import nftables as nft
from nsbox._network import pace, packets
from nsbox._network.addresses import GATEWAY
from nsbox._network.nftables import Meta, Type, Verdict
from nsbox._network.packets import (
    DESTINATION,
    ICMP,
    ICMPV6,
    SANDBOXES,
    SOURCE,
    TCP,
    UDP,
    UPLINK_KEY,
    address,
    coming_from,
    going_to,
    protocol,
)
from nsbox._network.rules import TABLE

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = 0, 1, 2, 3, 4  # NF_INET_*
_RAW, _FILTER, _SOURCE_NAT = -300, 0, 100  # NF_IP_PRI_*
_TO_RESOLVER = [*address(4, DESTINATION), nft.equal(GATEWAY.packed)]


def made(range4: IPv4Network, range6: IPv6Network, *, masquerades: bool) -> list[bytes]:
    """The table, without a sandbox.

    Args:
        range4: Where the sandboxes' addresses are from.
        range6: The same, for IPv6.
        masquerades: Whether all sandboxes share the address of the uplink.
    """
    chains = [TABLE.chain(name) for name in ("between", "refuse")]
    chains += [
        TABLE.base_chain("prerouting", _PREROUTING, _RAW),
        TABLE.base_chain("forward", _FORWARD, _FILTER, drop=True),
        TABLE.base_chain("forwarded", _FORWARD, _FILTER + 1),
        TABLE.base_chain("input", _INPUT, _FILTER, drop=True),
        TABLE.base_chain("output", _OUTPUT, _RAW),
    ]
    return [
        *TABLE.make_anew(),  # an attempt to open the router may have failed before
        *_sets(),
        *chains,
        *_before_routing(range4, range6),
        *_filters(),
        # Does this kernel have what comes later, and not for every sandbox?
        TABLE.chain("probe"),
        TABLE.rule("probe", nft.more_connections_than(1), nft.verdict(Verdict.DROP)),
        TABLE.remove_chain("probe"),
        *(_shared_address() if masquerades else ()),
    ]


def _sets() -> Iterator[bytes]:
    table = TABLE
    yield table.set("cells", Type.NAME, verdicts=True, timeouts=True)
    yield table.set("peers", Type.NAME, verdicts=True)
    yield table.set("suspended", Type.NAME)
    yield table.set("own4", Type.NAME, Type.IPV4, timeouts=True)
    yield table.set("own6", Type.NAME, Type.IPV6, timeouts=True)
    yield table.set("flows", Type.NAME, Type.MARK)
    yield from (table.set(f"host{n}", kind, intervals=True) for n, kind in ((4, Type.IPV4), (6, Type.IPV6)))
    yield table.set("protocols", Type.PROTOCOL)
    yield table.add("protocols", [nft.element(bytes([one])) for one in (ICMP, TCP, UDP, ICMPV6)])
    yield table.set("carriers", Type.PROTOCOL)
    yield table.add("carriers", [nft.element(bytes([one])) for one in (TCP, UDP)])
    yield table.set("resolvers", Type.PORT)
    yield table.add("resolvers", [nft.element(struct.pack(">H", port)) for port in (53, 853)])
    yield pace.buckets(table, "asking")


def _before_routing(range4: IPv4Network, range6: IPv6Network) -> Iterator[bytes]:
    """Before connections are known (-200): what is dropped here is believed by nobody."""
    drop, theirs = nft.verdict(Verdict.DROP), coming_from(SANDBOXES)
    # The next machine forwards what is sandboxes', too: it is the host, whose connections are to end with the router's
    for interface, hops in ((SANDBOXES, 2), (UPLINK_KEY, 1)):
        for packet in packets.going_nowhere(hops):
            yield TABLE.rule("prerouting", *coming_from(interface), *packet, drop)
    for version, target in ((4, range4), (6, range6)):
        foreign = [nft.meta(Meta.IIFNAME), nft.within(f"own{version}", inverted=True)]
        yield TABLE.rule("prerouting", *theirs, *address(version, SOURCE, 4), *foreign, drop)
        inside = [nft.masked(target.netmask.packed), nft.equal(target.network_address.packed)]
        yield TABLE.rule("prerouting", *theirs, *address(version, DESTINATION), *inside, nft.untracked())
    yield TABLE.rule("prerouting", *theirs, *_TO_RESOLVER, nft.untracked())
    from_resolver = [*address(4, SOURCE), nft.equal(GATEWAY.packed)]
    yield TABLE.rule("output", *going_to(SANDBOXES), *from_resolver, nft.untracked())


def _filters() -> Iterator[bytes]:
    rule, drop, accept, theirs = TABLE.rule, nft.verdict(Verdict.DROP), nft.verdict(Verdict.ACCEPT), SANDBOXES
    suspended = nft.within("suspended")
    yield rule("forward", nft.meta(Meta.IIFNAME), suspended, drop)
    # A reset is believed to end a connection, and it counts no more: so it has, even if somebody did not take the reset
    # (a filter of a socket's, IP_MINTTL), or if it begins anew (the kernel lets the SYN pass, and learns by the answer)
    yield rule("forward", *packets.without_reset(), *nft.state(nft.ESTABLISHED), *nft.ending(), drop)
    yield rule("forward", nft.meta(Meta.IIFNAME), nft.by_map("cells"))
    known = [nft.connection_mark(4), nft.meta(Meta.OIFNAME), nft.within("flows")]
    yield rule("forward", *nft.state(nft.ESTABLISHED_OR_RELATED), *known, accept)
    # After the rest, so that who may not speak to it is refused like anywhere else, and does not learn of it
    yield rule("forwarded", nft.meta(Meta.OIFNAME), suspended, drop)
    yield rule("input", *coming_from(b"lo".ljust(16, b"\0")), accept)
    yield rule("input", nft.meta(Meta.IIFNAME), suspended, drop)
    yield rule("input", *coming_from(theirs), *pace.too_fast("asking"), drop)
    port = [nft.transport(2, 2), nft.equal(struct.pack(">H", 53))]
    for one in (TCP, UDP):
        yield rule("input", *coming_from(theirs), *_TO_RESOLVER, *protocol(one), *port, accept)
    yield rule("input", *nft.state(nft.ESTABLISHED_OR_RELATED), accept)
    yield rule("input", *coming_from(theirs), nft.verdict(Verdict.GOTO, "refuse"))
    yield rule("between", nft.meta(Meta.IIFNAME), nft.by_map("peers"))
    # Over a veth pair the answer comes while connect(2) has its socket: a reset waits, an error of ICMP is lost
    yield rule("refuse", *protocol(TCP), nft.reset())
    yield rule("refuse", nft.unreachable(3))


def _shared_address() -> Iterator[bytes]:
    """What there is with pasta."""
    yield TABLE.base_chain("postrouting", _POSTROUTING, _SOURCE_NAT, kind="nat")
    for end in packets.masquerade():
        yield TABLE.rule("postrouting", *going_to(UPLINK_KEY), *end)
    # Where a server refuses, pasta of 2023 sends a reset without ACK, which nobody believes (RFC 9293, 3.10.7.3)
    acknowledged = [nft.transport(12, 2), nft.masked(b"\xff\xef", b"\x00\x10"), nft.write_transport(12, 2)]
    yield TABLE.rule("prerouting", *coming_from(UPLINK_KEY), *packets.only_reset(), *acknowledged)
    # From whom pasta of 2023 hears last, to that one it answers, all: `::` too, as which the kernel joins groups
    yield TABLE.rule("output", *going_to(UPLINK_KEY), nft.verdict(Verdict.DROP))
