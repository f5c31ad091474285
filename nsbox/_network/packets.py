"""Parts of rules that tell packets apart, or change where they seem to come from."""

from __future__ import annotations

from collections.abc import Iterator

from nsbox._network import nftables as nft
from nsbox._network.nftables import IPV4, IPV6, Expression, Meta

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58  # IPPROTO_*
SOURCE, DESTINATION = 0, 1
UPLINK = "uplink"
"""The interface of the router that leads outside."""
UPLINK_KEY = UPLINK.encode().ljust(16, b"\0")
SANDBOXES = b"v"
"""What the names of all interfaces begin with that lead to sandboxes."""
_OUTER_PORTS = (32768, 60999)
"""Where the kernel takes a port from for who has chosen none (net.ipv4.ip_local_port_range): no service waits there."""
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


def version(number: int) -> list[Expression]:
    """Go on with packets of one version of IP."""
    return [nft.meta(Meta.NFPROTO), nft.equal(bytes([IPV4 if number == 4 else IPV6]))]


def address(number: int, side: int, register: int = 0) -> list[Expression]:
    """Go on with packets of one version of IP, and load an address."""
    if number == 4:
        return [*version(4), nft.network(16 if side == DESTINATION else 12, 4, register)]
    return [*version(6), nft.network(24 if side == DESTINATION else 8, 16, register)]


def protocol(number: int) -> list[Expression]:
    """Go on with packets of one protocol."""
    return [nft.meta(Meta.L4PROTO), nft.equal(bytes([number]))]


def coming_from(name: bytes) -> list[Expression]:
    """Go on with what comes by an interface whose name begins so."""
    return [nft.meta(Meta.IIFNAME), nft.equal(name)]


def going_to(name: bytes) -> list[Expression]:
    """Go on with what leaves by an interface whose name begins so."""
    return [nft.meta(Meta.OIFNAME), nft.equal(name)]


def going_nowhere(hops: int) -> Iterator[list[Expression]]:
    """Packets that somebody behind the first so many machines never gets; conntrack would believe them.

    It comes before routing, which drops what has no hop left, and before options of IPv4, which it does not follow.

    Args:
        hops: How many machines forward them from here on, at least.
    """
    fewest = bytes([hops + 1])
    yield [*version(4), nft.network(8, 1), nft.less(fewest)]
    yield [*version(6), nft.network(7, 1), nft.less(fewest)]
    yield [*version(4), nft.network(0, 1), nft.different(b"\x45")]


def without_reset() -> list[Expression]:
    """Go on with segments of TCP that reset nothing."""
    return [*protocol(TCP), nft.transport(13, 1), nft.masked(bytes([_RST])), nft.equal(b"\0")]


def only_reset() -> list[Expression]:
    """Go on with segments of TCP that reset, and acknowledge nothing."""
    flags = bytes([_FIN | _SYN | _RST | _ACK])
    return [*protocol(TCP), nft.transport(13, 1), nft.masked(flags), nft.equal(bytes([_RST]))]


def masquerade() -> Iterator[list[Expression]]:
    """The ends of rules that give connections the address of the interface that they leave by.

    A program chooses its port, and what is sent to the outer one is not the host's: so that is never a service's.
    """
    for one in (TCP, UDP):
        yield [*protocol(one), *nft.masquerade(_OUTER_PORTS)]
    yield nft.masquerade()
