"""What a router has before it has sandboxes: a range of addresses and rules; and its way out, once one is wanted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, summarize_address_range

from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network import foundation, messages, pasta, uplink
from nsbox._network.addresses import (
    GATEWAY,
    AddressPool,
    HostAddresses,
    choose_range,
    open_register,
    private6,
)
from nsbox._network.connections import connections_of
from nsbox._network.doors import RouterDoor
from nsbox._network.messages import FAR, NEAR, End
from nsbox._network.netlink import Netlink
from nsbox._network.pasta import PastaUplink
from nsbox._network.uplink import HostUplink

log = logging.getLogger("nsbox")

_LOOPBACK = 1
"""Index of lo; it is the first interface of every network namespace."""
_NOWHERE, _BEYOND = End("nowhere", 998, NEAR), End("nowhere-", 999, FAR)
"""Their indexes are below those of sandboxes' interfaces, and above any that the kernel gives."""
_RESOLVER = 3
"""Place in the range: the router's own address for IPv6, where errors come from."""
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOENT)
"""How the kernel says that it has not what a message is about."""


@contextlib.contextmanager
def needs_kernel(what: str, module: str, *, also: tuple[int, ...] = (errno.EINVAL,)) -> Iterator[None]:
    """Tell a part of the kernel that is missing from any other error.

    Args:
        what: The part, for people.
        module: What it is called.
        also: What else the kernel says then: the messages are right where it has the part.
    """
    try:
        yield
    except SetupError as exc:
        if exc.errno not in (*_UNSUPPORTED, *also):
            raise
        raise UnsupportedHostError(
            f"this kernel lacks {what}, which a network in a sandbox needs: {exc.strerror}",
            ("nf_tables",),
            (f"modprobe {module}, or a kernel that has it",),
        ) from exc


@contextlib.contextmanager
def _needs_right() -> Iterator[None]:
    """Root of a container may lack the right to change the network that it sees."""
    try:
        yield
    except SetupError as exc:
        if exc.errno != errno.EPERM:
            raise
        raise UnsupportedHostError(
            "root may not change the network here, which a sandbox with network.access='egress' needs",
            ("network_egress",),
            ("give the container CAP_NET_ADMIN, such as by docker run --cap-add NET_ADMIN",),
        ) from exc


@dataclass(slots=True, kw_only=True)
class Ground:
    """See the module; made by `lay`.

    Attributes:
        door: The router's namespace.
        routes: Its interfaces, addresses and routes.
        filters: Its rules.
        host: The host's addresses.
        pool: The addresses of sandboxes.
        mtu: Of every interface.
        ipv6: Whether sandboxes have IPv6 at all.
        egress6: Whether it leads outside, where there is a way.
        description: For people.
        way_out: The uplink; None: nobody has wanted one.
    """

    door: RouterDoor
    routes: Netlink
    filters: Netlink
    host: HostAddresses
    pool: AddressPool
    mtu: int
    ipv6: bool
    egress6: bool
    description: str
    way_out: HostUplink | PastaUplink | None = None
    _as_root: bool
    _default4: bool
    _stack: contextlib.ExitStack

    async def find_way_out(self) -> None:
        """Open the uplink, if there is none that works: somebody may have killed pasta.

        Raises:
            UnsupportedHostError: The host lacks something; with the remedy.
            SetupError: The kernel refused a step. Nothing of an attempt is left.
        """
        if self.way_out is not None:
            try:
                self.way_out.check()
            except SetupError as exc:
                log.warning("the way out of sandboxes has ended, and is opened anew: %s", exc)
                self.way_out.close()
                self.way_out = None
            else:
                return
        if self._as_root:
            uplink.require_forwarding()
            with _needs_right(), needs_kernel("veth or nf_tables with owned tables (Linux 5.12)", "veth nf_tables"):
                self.way_out = HostUplink(
                    self.host.netlink, self.routes, self.door.namespace, self.pool, ipv6=self.egress6
                )
            self._stack.callback(self.way_out.close)
            for table in uplink.tables_in_the_way():
                log.warning("sandboxes reach nothing unless the host's table %s accepts what it forwards for them: "
                            'iifname "nsbox*" accept, oifname "nsbox*" accept', table)  # fmt: skip
        else:
            program = pasta.find_pasta()
            if not self._default4:
                raise UnsupportedHostError(
                    "pasta needs an IPv4 default route on the host", ("network_egress",), ("ip route add default …",)
                )
            self.way_out = await PastaUplink.open(program, self.door, self.routes, self.pool, ipv6=self.egress6)
            self._stack.callback(self.way_out.close)

    def admit_to_host(self, *addresses: bytes) -> None:
        """Let what comes from these addresses reach the host itself, where the way out leads through it."""
        if self.way_out is not None:
            self.way_out.admit_to_host(*addresses)

    def bar_from_host(self, *addresses: bytes) -> None:
        """Take that back."""
        if self.way_out is not None:
            self.way_out.bar_from_host(*addresses)

    def close(self) -> None:
        """Remove all of it from the host, and close the door; idempotent."""
        self._stack.close()


def lay(door: RouterDoor, *, as_root: bool) -> Ground:
    """Make it, without a way out.

    Raises:
        UnsupportedHostError: The kernel lacks something; with the remedy.
        SetupError: The kernel refused a step. Nothing is left on the host in either case; the door is closed.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(door.close)
        routes, filters = Netlink(door.routes), Netlink(door.filters)
        host = HostAddresses()
        stack.callback(host.close)
        pool, default4, default6 = _choose_addresses(host, stack, as_root=as_root)
        ipv6 = _forwards_ipv6(routes)
        egress6, lacking6 = _egress_of_ipv6(ipv6=ipv6, default=default6, as_root=as_root)
        with needs_kernel("nf_tables with its connection tracking, NAT, reject and connlimit", "nf_tables"):
            filters.commit(*foundation.made(pool.range4, pool.range6, masquerades=not as_root))
        with needs_kernel("nf_conntrack_netlink", "nf_conntrack_netlink"):
            connections_of(filters, 0)
        mtu = (HostUplink if as_root else PastaUplink).mtu
        with needs_kernel("veth", "veth", also=()):
            _set_up(routes, door, pool, mtu=mtu, ipv6=ipv6)
        through = "veth pairs and nftables" if as_root else "veth pairs, nftables and pasta"
        in_the_way = "".join(f"; the host's table {name} drops what it does not accept" for name in
                             (uplink.tables_in_the_way() if as_root else ()))  # fmt: skip
        return Ground(
            door=door,
            routes=routes,
            filters=filters,
            host=host,
            pool=pool,
            mtu=mtu,
            ipv6=ipv6,
            egress6=egress6,
            description=f"{through}; IPv6: {lacking6 or 'as IPv4'}{in_the_way}",
            _as_root=as_root,
            _default4=default4,
            _stack=stack.pop_all(),
        )


def _choose_addresses(
    host: HostAddresses, stack: contextlib.ExitStack, *, as_root: bool
) -> tuple[AddressPool, bool, bool]:
    """The range, and whether the host has default routes of IPv4 and of IPv6."""
    found = [messages.route_in(answer) for answer in host.netlink.ask(messages.ask_routes(socket.AF_UNSPEC))]
    known = [route for route in found if route is not None]
    defaults = {route.target.version for route in known if route.unicast and not route.target.prefixlen}
    used = [route.target for route in known if isinstance(route.target, IPv4Network) and route.target.prefixlen]
    for first, last in host.read()[4]:
        used += summarize_address_range(IPv4Address(first), IPv4Address(last))
    register = None
    if as_root:  # else nobody but pasta sees the addresses
        register = open_register()
        stack.callback(os.close, register)
    return AddressPool(choose_range(used, register), private6()), 4 in defaults, 6 in defaults


def _forwards_ipv6(routes: Netlink) -> bool:
    """Whether the router can do anything with IPv6: the launcher switched that on where the kernel has it."""
    try:
        answers = routes.ask(messages.ask_forwarding6())
    except SetupError as exc:
        if exc.errno not in (*_UNSUPPORTED, errno.EINVAL, errno.ENODEV):
            raise
        return False
    return any(map(messages.forwarding_in, answers))


def _egress_of_ipv6(*, ipv6: bool, default: bool, as_root: bool) -> tuple[bool, str]:
    """Whether IPv6 leads outside, and why not."""
    if not ipv6:
        return False, "none, as the router cannot forward it"
    if not default:
        return False, "between sandboxes only, as the host has no default route for it"
    if as_root and not uplink.forwards_ipv6():
        return False, "between sandboxes only, as net.ipv6.conf.all.forwarding of the host is 0"
    return True, ""


def _set_up(routes: Netlink, door: RouterDoor, pool: AddressPool, *, mtu: int, ipv6: bool) -> None:
    """The router's own address, its resolver's sockets, and a way for addresses that are nobody's: to the rules.

    Those refuse it as they do what is for another sandbox, so that nobody learns whether there is one. IPv6 knows no
    route over a loopback that is none to itself: it leads into a veth pair, which nothing ever leaves.
    """
    try:
        routes.do(messages.pair(_NOWHERE, _BEYOND, door.namespace, mtu))
    except SetupError as exc:
        if exc.errno != errno.EEXIST:  # it is there already where an attempt to open the router has failed
            raise
    nowhere, both = _NOWHERE.index, (_NOWHERE.index, _BEYOND.index)
    parts = [
        messages.up(_LOOPBACK),
        messages.address(_LOOPBACK, GATEWAY),
        *(messages.prepare(index, forwards=True, ipv6=ipv6) for index in both),
        *(messages.up(index, asks=False) for index in both),
        messages.route(nowhere, pool.range4, replaces=True),
        messages.route(nowhere, IPv4Network("0.0.0.0/0"), priority=1 << 16, replaces=True),
    ]
    if ipv6:
        parts += [
            messages.address(_LOOPBACK, pool.own6(_RESOLVER)),
            messages.route(nowhere, pool.range6, replaces=True),
        ]
    routes.do(*parts)
    try:
        door.dns_tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (door.dns_udp, door.dns_tcp):
            sock.bind((str(GATEWAY), 53))
    except OSError as exc:
        raise SetupError("network", exc.errno or errno.EIO, f"cannot bind the resolver: {exc.strerror}") from exc
