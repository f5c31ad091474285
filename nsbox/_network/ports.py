"""What connects one sandbox: a veth pair, the same settings for every one but for some places in the messages."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Network, IPv6Network

from nsbox._network import messages, rules
from nsbox._network.addresses import GATEWAY, GATEWAY6
from nsbox._network.messages import FAR, NEAR, RATE_PLACES, End
from nsbox._network.netlink import Template
from nsbox._network.policy import Policy
from nsbox._network.rules import OWN4, OWN6

CELL_INDEX = 1000
"""Of the sandbox' interface: high, because some kernels make tunnels of their own in every network namespace."""
CELL_NAME = "eth0"
_FIRST_INDEX = 1000
_INDEX, _NAMESPACE = 0x5EC0DE06, 0x5EC0DE07
_PLACES = {
    "index": struct.pack("=i", _INDEX),
    "namespace": struct.pack("=I", _NAMESPACE),
    "handle": struct.pack("=I", messages.HANDLE),
    **{name: rules.PLACES[name] for name in ("number", "own4", "own6")},
    **RATE_PLACES,
}
_DEFAULT4, _DEFAULT6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")


@dataclass(slots=True, eq=False)
class Port:
    """A sandbox' connection to the router, made by `Router.attach`. To be looked at only.

    Attributes:
        number: Which no other port of this router has or had.
        place: Of its addresses in the range.
        packed4: Its address, as keys of sets have it.
        packed6: Its IPv6 address; None: there is no IPv6.
        policy: What it may reach.
        shared: The number of the sets that it shares.
        routes: A netlink socket in its namespace.
        is_suspended: Whether nothing gets through in either direction.
        is_attached: Whether it still is.
        uncounted: Connections that its limit does not count, and is lower for.
        refused_connections: As last counted.
        names: Until when each address is known, by the monotonic clock.
        segments: In which it is, and whether it is cut off there.
        queue: The number of the token buckets at both ends, 1 or 2; others that take their place have the other.
        address4: Its address.
        address6: Its IPv6 address.
    """

    number: int
    place: int
    packed4: bytes
    packed6: bytes | None
    policy: Policy
    shared: int
    routes: socket.socket
    is_suspended: bool = False
    is_attached: bool = True
    uncounted: int = 0
    refused_connections: int = 0
    names: dict[bytes, float] = field(default_factory=dict)
    segments: dict[int, bool] = field(default_factory=dict)
    queue: int = 1
    address4: str = field(init=False)
    address6: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.address4 = socket.inet_ntop(socket.AF_INET, self.packed4)
        self.address6 = None if self.packed6 is None else socket.inet_ntop(socket.AF_INET6, self.packed6)

    @property
    def packed(self) -> tuple[bytes, ...]:
        """Its addresses, as keys of sets have them."""
        return (self.packed4,) if self.packed6 is None else (self.packed4, self.packed6)

    @property
    def index(self) -> int:
        """Of the interface in the router."""
        return _FIRST_INDEX + self.number

    def values(self, **more: bytes) -> dict[str, bytes]:
        """What is in the places of messages about it."""
        found = {
            "number": rules.digits(self.number),
            "mark": rules.mark_of(self.number),
            "other": rules.digits(self.shared),
            "index": struct.pack("=i", self.index),
            "own4": self.packed4,
            "own6": self.packed6 or bytes(16),
            "handle": struct.pack("=I", self.queue << 16),
        }
        return found | more


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What has passed through a port, seen from the sandbox, since it was attached.

    Attributes:
        sent_bytes: With headers; what was refused afterwards as well.
        received_bytes: With headers.
        sent_packets: A large segment that the kernel has not cut up yet is one.
        received_packets: The same.
        refused: Packets that the policy refused; of a connection that was refused at once it is one.
        refused_connections: Refused because of `connections_limit`.
        connections: Open at the moment; None: not counted.
    """

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    refused: int
    refused_connections: int
    connections: int | None = None


@cache
def pair(mtu: int) -> Template:
    """The message that makes the veth pair. By itself: where there is such an interface, it is somebody else's."""
    here = End(f"v{rules.PLACES['number'].decode()}", _INDEX, NEAR)
    return Template(messages.pair(here, End(CELL_NAME, CELL_INDEX, FAR), _NAMESPACE, mtu), _PLACES)


@cache
def router_end(*, ipv6: bool, limited: bool) -> Template:
    """The messages in the router: the way to the sandbox."""
    parts = [
        messages.prepare(_INDEX, forwards=True, ipv6=ipv6),
        messages.up(_INDEX),
        messages.neighbour(_INDEX, OWN4, FAR),
        messages.route(_INDEX, IPv4Network(OWN4), replaces=True),
    ]
    if ipv6:
        parts += [messages.neighbour(_INDEX, OWN6, FAR), messages.route(_INDEX, IPv6Network(OWN6), replaces=True)]
    if limited:
        parts.append(messages.shaped(_INDEX))
    return Template(b"".join(parts), _PLACES)


@cache
def cell_end(range6: IPv6Network | None, *, egress6: bool, limited: bool) -> Template:
    """The messages in the sandbox: its addresses, and the way out.

    Args:
        range6: Where other sandboxes are; None: there is no IPv6.
        egress6: Whether IPv6 leads outside.
        limited: Whether it may send at a rate only.
    """
    parts = [
        messages.prepare(CELL_INDEX, forwards=False, ipv6=range6 is not None),
        # Those asked for are in a table that has 1024 of the whole machine, and are not given up for 3 s
        messages.up(CELL_INDEX, asks=False),
        messages.address(CELL_INDEX, OWN4),
        messages.neighbour(CELL_INDEX, GATEWAY, NEAR),
        messages.route(CELL_INDEX, _DEFAULT4, GATEWAY),
    ]
    if range6 is not None:
        parts += [
            messages.address(CELL_INDEX, OWN6),
            messages.neighbour(CELL_INDEX, GATEWAY6, NEAR),
            messages.route(CELL_INDEX, _DEFAULT6 if egress6 else range6, GATEWAY6),
        ]
    if limited:
        parts.append(messages.shaped(CELL_INDEX))
    return Template(b"".join(parts), _PLACES)


@cache
def bandwidth(index: int | None, *, limited: bool) -> Template:
    """Another limit of the bandwidth, or none.

    Args:
        index: Of the interface; None: the router's end.
        limited: Whether there is one.
    """
    make = messages.shaped if limited else messages.unshaped
    return Template(make(_INDEX if index is None else index), _PLACES)
