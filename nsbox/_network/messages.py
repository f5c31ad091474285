"""Messages about interfaces, addresses, routes, neighbours and queues (rtnetlink(7)); pyroute2 encodes them.

All neighbours are known beforehand and permanent: nothing is asked by ARP or neighbour discovery, and no address is
probed for duplicates.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from nsbox._network.netlink import (
    CREATE,
    DUMP,
    EXCLUSIVE,
    REPLACE,
    REQUEST,
    attribute,
    attributes,
    message,
    number_of_step,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NEAR, FAR = "02:6e:73:62:6f:01", "02:6e:73:62:6f:02"
"""The hardware addresses of the two ends of every veth pair, locally administered: near is the router's of one that
leads to a sandbox, and the host's of the one that leads outside."""

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18  # RTM_*
_NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 20, 22, 24, 26
_NEWNEIGH, _NEWQDISC, _DELQDISC, _GETNETCONF, _GETSTATS = 28, 36, 37, 82, 94
_UP, _NOARP = 1, 0x80  # IFF_*
_OPERSTATE = 16  # IFLA_OPERSTATE
_PERMANENT = 0x80  # NUD_PERMANENT
_NODAD = 0x02  # IFA_F_NODAD
_ONLINK = 4  # RTNH_F_ONLINK
_UNICAST, _LOCAL, _BROADCAST, _ANYCAST = 1, 2, 3, 4  # RTN_*
_MAIN, _STATIC = 254, 4  # RT_TABLE_MAIN, RTPROT_STATIC
_UNIVERSE, _LINK = 0, 253  # RT_SCOPE_*
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_STATS_LINK_64 = 1  # IFLA_STATS_LINK_64


class _Link(ifinfmsg):  # type: ignore[misc]  # pyroute2 is not typed
    """With the settings of IPv4 and IPv6 as the kernel takes them; pyroute2 has them as the kernel reports them."""

    class af_spec(nla):  # type: ignore[misc]  # noqa: N801  # pyroute2 finds it by this name
        """IFLA_AF_SPEC."""

        nla_map = ((AF_INET, "AF_INET", "inet"), (AF_INET6, "AF_INET6", "inet6"))

        class inet(nla):  # type: ignore[misc]  # noqa: N801
            """Of IPv4: single settings by their number, as in /proc/sys/net/ipv4/conf."""

            nla_map = ((1, "IFLA_INET_CONF", "conf"),)

            class conf(nla):  # type: ignore[misc]  # noqa: N801
                """IPV4_DEVCONF_*."""

                nla_map = ((1, "FORWARDING", "uint32"), (8, "RP_FILTER", "uint32"))

        class inet6(nla):  # type: ignore[misc]  # noqa: N801
            """Of IPv6."""

            nla_map = ((8, "IFLA_INET6_ADDR_GEN_MODE", "uint8"),)


class _Queue(tcmsg):  # type: ignore[misc]
    """With the options of a token bucket that need no table of rates."""

    nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "options"))

    class options(nla):  # type: ignore[misc]  # noqa: N801
        """TCA_TBF_*."""

        nla_map = (
            (1, "TCA_TBF_PARMS", "cdata"),
            (4, "TCA_TBF_RATE64", "uint64"),
            (6, "TCA_TBF_BURST", "uint32"),
        )


def _encode(
    one: Any, kind: int, flags: int, step: str, attrs: list[tuple[str, Any]], /, **fields: int
) -> bytes:  # fmt: skip
    one.update(fields)
    one["attrs"] = attrs
    one["header"]["type"] = kind
    one["header"]["flags"] = REQUEST | flags
    one["header"]["sequence_number"] = number_of_step(step)
    one.encode()
    return bytes(one.data)


def _family(address: Address | Network) -> int:
    return AF_INET if address.version == 4 else AF_INET6


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair.

    Attributes:
        name: Of the interface.
        index: Of the interface; 0: the kernel chooses.
        hardware: Its hardware address.
    """

    name: str
    index: int
    hardware: str


def pair(here: End, there: End, namespace: int, mtu: int) -> bytes:
    """A veth pair between the socket's namespace and another one, both ends down.

    Args:
        here: The end in the namespace of the socket that this is sent by.
        there: The other end.
        namespace: A descriptor of the other namespace.
        mtu: Of both.
    """

    def end(one: End) -> list[tuple[str, Any]]:
        # One queue: else there are as many as processors, which costs memory and time
        return [("IFLA_IFNAME", one.name), ("IFLA_ADDRESS", one.hardware), ("IFLA_MTU", mtu),
                ("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]  # fmt: skip

    peer = {"index": there.index, "attrs": [*end(there), ("IFLA_NET_NS_FD", namespace)]}
    veth = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    attrs = [*end(here), ("IFLA_LINKINFO", {"attrs": veth})]
    return _encode(_Link(), _NEWLINK, CREATE | EXCLUSIVE, "make a veth pair", attrs, index=here.index)


def prepare(index: int, *, forwards: bool, ipv6: bool) -> bytes:
    """Set up an interface before it goes up: no address of its own making, and whether its packets are forwarded."""
    inner: list[tuple[str, Any]] = []
    if forwards:
        inner.append(("AF_INET", {"attrs": [("IFLA_INET_CONF", {"attrs": [("FORWARDING", 1), ("RP_FILTER", 0)]})]}))
    if ipv6:
        inner.append(("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]}))  # IN6_ADDR_GEN_MODE_NONE
    if not inner:
        return b""
    return _encode(_Link(), _NEWLINK, 0, "set up an interface", [("IFLA_AF_SPEC", {"attrs": inner})], index=index)


def up(index: int, *, asks: bool = True, **attrs: int) -> bytes:
    """Switch an interface on.

    Args:
        index: Which.
        asks: Whether it asks for neighbours that nobody has named (IFF_NOARP).
        **attrs: What else to set, such as IFLA_MTU.
    """
    flags = _UP if asks else _UP | _NOARP
    return _encode(_Link(), _NEWLINK, 0, "switch an interface on", list(attrs.items()), index=index, flags=flags,
                   change=flags)  # fmt: skip


def remove_link(index: int = 0, name: str = "") -> bytes:
    """Remove an interface, and the other end of its pair.

    Args:
        index: Of the interface; 0: the one of that name.
        name: The same.
    """
    attrs = [] if index else [("IFLA_IFNAME", name)]
    return _encode(_Link(), _DELLINK, 0, "remove an interface", attrs, index=index)


def address(index: int, own: Address) -> bytes:
    """Give an interface an address, and no network around it."""
    text = str(own)
    attrs = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)] if own.version == 4 else [("IFA_ADDRESS", text)]
    return _encode(ifaddrmsg(), _NEWADDR, CREATE | REPLACE, "give an interface its address", attrs,
                   family=_family(own), prefixlen=own.max_prefixlen, index=index, flags=_NODAD)  # fmt: skip


def neighbour(index: int, other: Address, hardware: str) -> bytes:
    """Who has an address behind an interface, for ever."""
    attrs = [("NDA_DST", str(other)), ("NDA_LLADDR", hardware)]
    return _encode(ndmsg(), _NEWNEIGH, CREATE | REPLACE, "name a neighbour", attrs, family=_family(other),
                   ifindex=index, state=_PERMANENT)  # fmt: skip


def route(
    index: int,
    target: Network,
    via: Address | None = None,
    *,
    source: Address | None = None,
    priority: int = 0,
    replaces: bool = False,
) -> bytes:
    """Send what is for `target` through an interface.

    Args:
        index: Of the interface.
        target: A single address, a network, or all there is.
        via: To this neighbour, which need not be in any network of ours.
        source: With this address, where the sender chose none.
        priority: One with a smaller number goes before it.
        replaces: Whether there may be one already, through an interface that is about to vanish.
    """
    attrs: list[tuple[str, Any]] = [("RTA_OIF", index)]
    if target.prefixlen:
        attrs.append(("RTA_DST", str(target.network_address)))
    if via is not None:
        attrs.append(("RTA_GATEWAY", str(via)))
    if source is not None:
        attrs.append(("RTA_PREFSRC", str(source)))
    if priority:
        attrs.append(("RTA_PRIORITY", priority))
    scope = _UNIVERSE if via is not None or target.version == 6 else _LINK
    how = CREATE | (REPLACE if replaces else EXCLUSIVE)
    return _encode(rtmsg(), _NEWROUTE, how, "make a route", attrs, family=_family(target),
                   dst_len=target.prefixlen, table=_MAIN, proto=_STATIC, scope=scope, type=_UNICAST,
                   flags=_ONLINK if via is not None else 0)  # fmt: skip


RATE_PLACES = {
    "rate": struct.pack("=I", 0xDEC0DE01),
    "rate64": struct.pack("=Q", 0xDEC0DE02_DEC0DE03),
    "burst": struct.pack("=I", 0xDEC0DE04),
    "queue": struct.pack("=I", 0xDEC0DE05),
}
"""What `shaped` has for `rate_values`, in templates."""
HANDLE = 0xDEC0DE06
"""The same for the handle of the queue."""


def shaped(index: int) -> bytes:
    """Let an interface send at a rate only: a token bucket (tc-tbf(8)); `rate_values` are for its places.

    One with another handle takes the place of what is there. One with the same is changed, and keeps the segments that
    wait in it: one that is larger than what may be sent at once now is never sent, and nothing behind it (tbf_dequeue).
    """
    rate, burst, queue = (struct.unpack("=I", RATE_PLACES[name])[0] for name in ("rate", "burst", "queue"))
    # struct tc_tbf_qopt; linklayer 1 is Ethernet: without it the kernel wants a table of rates
    parms = struct.pack("=BBHhHI12xIII", 0, 1, 0, 0, 0, rate, queue, 0, 0)
    options = [
        ("TCA_TBF_PARMS", parms),
        ("TCA_TBF_RATE64", struct.unpack("=Q", RATE_PLACES["rate64"])[0]),
        ("TCA_TBF_BURST", burst),
    ]
    return _encode(_Queue(), _NEWQDISC, CREATE | REPLACE, "limit the bandwidth",
                   [("TCA_KIND", "tbf"), ("TCA_OPTIONS", {"attrs": options})], index=index, handle=HANDLE,
                   parent=_ROOT)  # fmt: skip


def rate_values(mbps: float, mtu: int) -> dict[str, bytes]:
    """A rate, what may be sent at once, and what may wait.

    Args:
        mbps: Megabits a second, headers included.
        mtu: Of the interface: what may be sent at once has to be more than one packet, which else would be dropped.
    """
    rate = min(max(1, round(mbps * 125_000)), _FASTEST)
    # 10 ms, in which a busy host's timers come; and the segments of one packet that the kernel has not cut yet
    burst = min(max(mtu + 64, _SEGMENTS, rate // 100), 1 << 30)
    queue = max(16 * (mtu + 64), min(rate // 5, 1 << 24))  # it is the kernel's memory, not the sandbox'
    return {
        "rate": struct.pack("=I", min(rate, 2**32 - 1)),
        "rate64": struct.pack("=Q", rate),
        "burst": struct.pack("=I", burst),
        "queue": struct.pack("=I", queue),
    }


_SEGMENTS = 72 << 10
"""Bytes: 64 KiB in segments of 1500, with a header for each."""
_FASTEST = 1 << 40
"""Bytes a second; no host is faster, and the kernel's arithmetic is still exact."""


def unshaped(index: int) -> bytes:
    """As fast as it goes, again."""
    return _encode(_Queue(), _DELQDISC, 0, "lift the limit of the bandwidth", [], index=index, parent=_ROOT)


# Questions.


def ask_link(name: str) -> bytes:
    """The answer is for `index_of_link`."""
    return _encode(_Link(), _GETLINK, 0, f"find interface {name}", [("IFLA_IFNAME", name)])


def ask_state(index: int) -> bytes:
    """The answer is for `is_up`. Before it answers, the kernel's link watch has run (Linux 6.8)."""
    return message(_GETLINK, 0, "read the state of an interface", struct.pack("=B3xi8x", 0, index))


def is_up(answer: bytes) -> bool:
    """Whether what an interface sends arrives (RFC 2863, ifOperStatus): some time after its other end has gone up."""
    return attributes(answer[16:]).get(_OPERSTATE) == b"\6"  # IF_OPER_UP


def index_of_link(answer: bytes) -> int:
    """The index of an interface that was asked for."""
    return int(struct.unpack_from("=i", answer, 4)[0])


def ask_addresses() -> bytes:
    """The answers are for `address_in`."""
    return message(_GETADDR, DUMP, "read the host's addresses", bytes(8))


def address_in(answer: bytes) -> bytes:
    """The packed address of an interface: IFA_LOCAL where there is one, or else IFA_ADDRESS."""
    found = attributes(answer[8:])
    return found.get(2) or found.get(1, b"")


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the host's.

    Attributes:
        target: Where to; a default route has the prefix length 0.
        unicast: Whether it leads to somebody else.
        own: Whether it leads to the host itself.
    """

    target: Network
    unicast: bool
    own: bool


def ask_routes(family: int) -> bytes:
    """The answers are for `route_in`."""
    return message(_GETROUTE, DUMP, "read the host's routes", struct.pack("=B11x", family))


def route_in(answer: bytes) -> Route | None:
    """A route; None: one of another kind than of IPv4 and IPv6."""
    family, length, kind = answer[0], answer[1], answer[7]
    if family not in (AF_INET, AF_INET6):
        return None
    size = 4 if family == AF_INET else 16
    packed = attributes(answer[12:]).get(1, b"").ljust(size, b"\0")
    target: Network = IPv4Network((packed, length)) if family == AF_INET else IPv6Network((packed, length))
    return Route(target, kind == _UNICAST, kind in (_LOCAL, _BROADCAST, _ANYCAST))


def ask_traffic(index: int) -> bytes:
    """The answer is for `traffic_in`."""
    return message(_GETSTATS, 0, "read the traffic", struct.pack("=B3xiI", 0, index, 1 << (_STATS_LINK_64 - 1)))


def traffic_in(answer: bytes) -> tuple[int, int, int, int]:
    """Packets received and sent, bytes received and sent, by the interface (struct rtnl_link_stats64)."""
    packets_in, packets_out, bytes_in, bytes_out = struct.unpack_from("=4Q", attributes(answer[12:])[_STATS_LINK_64])
    return packets_in, packets_out, bytes_in, bytes_out


def ask_forwarding6() -> bytes:
    """The answer is for `forwarding_in`."""
    everywhere = attribute(1, struct.pack("=i", -1))  # NETCONFA_IFINDEX: NETCONFA_IFINDEX_ALL
    return message(_GETNETCONF, 0, "ask whether IPv6 is forwarded", struct.pack("=B3x", AF_INET6), everywhere)


def forwarding_in(answer: bytes) -> bool:
    """Whether packets are forwarded (NETCONFA_FORWARDING)."""
    return attributes(answer[4:]).get(2, bytes(4)) != bytes(4)
