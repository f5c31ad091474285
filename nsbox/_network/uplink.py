"""The router's way out as root: a veth pair to the host, which forwards and masquerades by a table of its own.

The table is owned by a socket of this process (NFT_TABLE_F_OWNER): it ends with it, and nobody else can change it. No
other table of the host's is read or written. The pair ends with the router's namespace.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network import messages, packets
from nsbox._network import nftables as nft
from nsbox._network.addresses import GATEWAY6, AddressPool
from nsbox._network.messages import FAR, NEAR, End
from nsbox._network.netlink import DUMP, Netlink, attributes, message
from nsbox._network.nftables import IPV4, Meta, Type, Verdict
from nsbox._network.packets import UPLINK

_GETCHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_INPUT, _FORWARD, _POSTROUTING = 1, 2, 4  # NF_INET_*
_ROUTER, _HOST = 1, 2
"""Places in the range: the router's end, and whom it sends to. The host is given no address."""
_FAR6 = IPv6Address("fe80::2")
_DEFAULT4, _DEFAULT6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
_counter = itertools.count(1)


def require_forwarding() -> None:
    """Whether the host forwards at all; that is the host's to decide, and never changed here.

    Raises:
        UnsupportedHostError: It does not.
    """
    if not _is_on("/proc/sys/net/ipv4/ip_forward"):
        raise UnsupportedHostError(
            "the host does not forward packets, which a sandbox with network.access='egress' needs",
            ("network_egress",),
            ("sysctl -w net.ipv4.ip_forward=1",),
        )


def forwards_ipv6() -> bool:
    """Whether the host forwards IPv6."""
    return _is_on("/proc/sys/net/ipv6/conf/all/forwarding")


def tables_in_the_way() -> list[str]:
    """Tables of nftables that drop what the host forwards unless a rule of theirs accepts it, as Docker's does.

    They are the host's, and left as they are. Those of iptables-legacy cannot be seen here.

    Raises:
        SetupError: The kernel does not tell.
    """
    with _open_filters() as sock:
        try:
            answers = Netlink(sock).ask(message(_GETCHAIN, DUMP, "list the host's chains", bytes(4)))
        except SetupError as exc:
            if exc.errno != errno.EPERM:
                raise
            return []  # there will be no way out then, and private networks need none
    found = (_table_that_drops(answer) for answer in answers)
    return sorted({name for name in found if name is not None and not name.startswith("nsbox-")})


def _table_that_drops(answer: bytes) -> str | None:
    """Of a chain: NFTA_CHAIN_TABLE, where its NFTA_HOOK_HOOKNUM is for what is forwarded, and its policy NF_DROP."""
    found = attributes(answer[4:])
    hook, policy = attributes(found.get(4, b"")).get(1), found.get(5)
    if answer[0] not in (nft.INET, IPV4) or hook != struct.pack(">I", _FORWARD) or policy != bytes(4):
        return None
    return found[1].rstrip(b"\0").decode(errors="replace")


def _open_filters() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)  # NETLINK_NETFILTER
    except OSError as exc:
        raise SetupError("network", exc.errno or errno.EIO, "cannot speak with nf_tables") from exc


def _is_on(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() != "0"
    except FileNotFoundError:  # no IPv6 at all
        return False


class HostUplink:
    """The veth pair and the table.

    Args:
        routes: The host's routes.
        router: The router's.
        namespace: The router's network namespace.
        pool: The range of addresses.
        ipv6: Whether IPv6 leads outside as well.

    Raises:
        SetupError: The kernel refused; nothing is left.
        UnsupportedHostError: It has not what the table needs; nothing is left.
    """

    mtu = 1500
    masquerades_inside = False

    def __init__(self, routes: Netlink, router: Netlink, namespace: int, pool: AddressPool, *, ipv6: bool) -> None:
        number = next(_counter)
        self.name = f"nsbox{os.getpid()}-{number}"[:15]
        self._table = nft.Table(f"nsbox-{os.getpid()}-{number}")
        self._routes = routes
        self._index, self._is_made = 0, False
        self._socket = _open_filters()
        self._filters = Netlink(self._socket)
        try:
            self._filters.commit(*self._rules(pool))
            self._connect(router, namespace, pool, ipv6=ipv6)
        except BaseException:
            self.close()
            raise

    def _connect(self, router: Netlink, namespace: int, pool: AddressPool, *, ipv6: bool) -> None:
        self._routes.do(messages.pair(End(self.name, 0, NEAR), End(UPLINK, 0, FAR), namespace, self.mtu))
        self._is_made = True
        self._index = index = messages.index_of_link(self._routes.ask(messages.ask_link(self.name))[0])
        inner = messages.index_of_link(router.ask(messages.ask_link(UPLINK))[0])
        own, other = pool.own4(_ROUTER), pool.own4(_HOST)
        near = [
            messages.prepare(index, forwards=True, ipv6=ipv6),
            messages.up(index),
            messages.neighbour(index, own, FAR),
            messages.route(index, pool.range4, own),
        ]
        far = [
            messages.prepare(inner, forwards=True, ipv6=ipv6),
            messages.up(inner),
            messages.address(inner, own),
            messages.neighbour(inner, other, NEAR),
            messages.route(inner, _DEFAULT4, other, source=own),
        ]
        if ipv6:
            near += [messages.neighbour(index, _FAR6, FAR), messages.route(index, pool.range6, _FAR6)]
            far += [
                messages.address(inner, pool.own6(_ROUTER)),
                messages.neighbour(inner, GATEWAY6, NEAR),
                messages.route(inner, _DEFAULT6, GATEWAY6),
            ]
        self._routes.do(*near)
        router.do(*far)

    def _rules(self, pool: AddressPool) -> list[bytes]:
        table, rule = self._table, self._table.rule
        drop, accept = nft.verdict(Verdict.DROP), nft.verdict(Verdict.ACCEPT)
        key = self.name.encode().ljust(16, b"\0")
        ours = [nft.meta(Meta.IIFNAME), nft.equal(key)]
        towards = [nft.meta(Meta.OIFNAME), nft.equal(key)]
        elsewhere = [nft.meta(Meta.OIFNAME), nft.different(key)]
        source4, source6 = packets.address(4, packets.SOURCE), packets.address(6, packets.SOURCE)
        inside4 = [nft.masked(pool.range4.netmask.packed), nft.equal(pool.range4.network_address.packed)]
        inside6 = [nft.masked(pool.range6.netmask.packed), nft.equal(pool.range6.network_address.packed)]
        return [
            table.make(owned=True),
            table.set("may_reach_host4", Type.IPV4),
            table.set("may_reach_host6", Type.IPV6),
            table.base_chain("input", _INPUT, 0),
            table.base_chain("forward", _FORWARD, 0),
            table.base_chain("postrouting", _POSTROUTING, 100, kind="nat"),
            rule("input", *ours, *source4, nft.within("may_reach_host4"), accept),
            rule("input", *ours, *source6, nft.within("may_reach_host6"), accept),
            rule("input", *ours, drop),
            rule("forward", *nft.state(nft.ESTABLISHED_OR_RELATED), *towards, accept),
            rule("forward", *towards, drop),
            *(rule("postrouting", *source4, *inside4, *elsewhere, *end) for end in packets.masquerade()),
            *(rule("postrouting", *source6, *inside6, *elsewhere, *end) for end in packets.masquerade()),
        ]

    def admit_to_host(self, *addresses: bytes) -> None:
        """Let what comes from these addresses reach the host itself."""
        self._filters.commit(*(self._table.add(_set_of(one), [nft.element(one)]) for one in addresses))

    def bar_from_host(self, *addresses: bytes) -> None:
        """Take that back."""
        self._filters.commit(*(self._table.remove(_set_of(one), [nft.element(one)]) for one in addresses))

    def check(self) -> None:
        """Nothing of it can end before `close`."""

    def close(self) -> None:
        """Remove both; idempotent."""
        self._socket.close()
        if self._is_made:
            with contextlib.suppress(SetupError):  # ENODEV: the router's namespace was first
                self._routes.do(messages.remove_link(self._index, self.name))
            self._is_made = False


def _set_of(address: bytes) -> str:
    return "may_reach_host4" if len(address) == 4 else "may_reach_host6"
