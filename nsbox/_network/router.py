"""The router of a supervisor: a network namespace that every sandbox with a network is connected to, and its way out.

What has to be cleaned up after a crash is nothing: the namespace goes with its last descriptor, and with it every veth
pair, address, route, rule and set; on the host there are the other end of such a pair, and a table of rules that its
socket owns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

import trio

from nsbox._errors import SetupError
from nsbox._network import messages, ports, rules
from nsbox._network import nftables as nft
from nsbox._network.connections import Connection, connections_of, forget
from nsbox._network.doors import CellDoor, RouterDoor
from nsbox._network.ground import Ground, lay, needs_kernel
from nsbox._network.netlink import Netlink
from nsbox._network.policy import Policy, address_ranges, contains, port_ranges
from nsbox._network.ports import CELL_INDEX, Port, Traffic
from nsbox._network.rules import MOST_CONNECTIONS, TABLE, Form
from nsbox._network.shared import Segments, SharedSets

__all__ = ["Port", "Router", "Traffic"]

_MOST_NAMES = 4096
"""Addresses that one sandbox may have learnt by name at a time; the one that ends first makes room."""
_SHORTEST_NAME = 1.0
"""Seconds: an answer that may not be kept at all has to be good for one connection."""


class Router:
    """See the module; made by `open`. All methods are for the thread of trio.

    Attributes:
        dns_udp: A UDP socket that is bound to what sandboxes take for their resolver.
        dns_tcp: A TCP socket, the same.
        description: What sandboxes are connected by, for people.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._routes, self._filters = ground.routes, ground.filters
        self._numbers = itertools.count(1)
        self._changing = trio.Lock()
        self._ports: dict[str, Port] = {}
        self._shared = SharedSets()
        self._segments = Segments()
        self._host = self._host_now = frozenset[bytes]()
        self._closed = False
        self.dns_udp, self.dns_tcp = ground.door.dns_udp, ground.door.dns_tcp
        self.description = ground.description

    @classmethod
    async def open(cls, door: RouterDoor, *, as_root: bool) -> Router:
        """Make the router of a network namespace that has nothing but a loopback.

        Args:
            door: To the namespace; closed by `close`, and where this fails.
            as_root: Go out through the host's own network namespace; else by pasta.

        Raises:
            UnsupportedHostError: The host lacks something; with the remedy.
            SetupError: The kernel refused a step. In both cases nothing is left behind.
        """
        router = cls(lay(door, as_root=as_root))
        try:
            router._commit(*router._new_addresses_of_host(first=True))
            router._note_addresses_of_host()
        except BaseException:
            router.close()
            raise
        return router

    def close(self) -> None:
        """Remove all that is on the host, and close the door; idempotent. Ports are of no use afterwards."""
        if not self._closed:
            self._closed = True
            for port in self._ports.values():
                port.is_attached = False
                port.routes.close()
            self._ports.clear()
            self._ground.close()

    # ------------------------------------------------------------ ports

    async def attach(self, door: CellDoor, policy: Policy) -> Port:
        """Connect a sandbox. Not cancelled once it has begun: about 2 ms.

        Args:
            door: To its network namespace, which has nothing but a loopback; stays the caller's.
            policy: What it may reach.

        Raises:
            SetupError: The kernel refused a step, or there is no free address. Nothing is left behind.
            UnsupportedHostError: The kernel has no veth or no token buckets, or there is no way out of the host.
        """
        async with self._changing:
            if policy.access:
                await self._ground.find_way_out()
            place = self._ground.pool.take()
            try:
                return await trio.to_thread.run_sync(self._attach, door, policy, place)
            except BaseException:
                self._ground.pool.give_back(place)
                raise

    def _attach(self, door: CellDoor, policy: Policy, place: int) -> Port:
        pool, ipv6 = self._ground.pool, self._ground.ipv6
        number, (shared, sets) = next(self._numbers), self._shared.wanted(policy)
        port = Port(
            number=number,
            place=place,
            packed4=pool.packed4(place),
            packed6=pool.packed6(place) if ipv6 else None,
            policy=policy,
            shared=shared,
            routes=door.routes.dup(),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(port.routes.close)
            opened = rules.opened(Form.of(policy), ipv6=ipv6).fill(port.values(limit=_limit(policy)))
            self._commit(*self._new_addresses_of_host(), *sets, opened)
            self._note_addresses_of_host()
            self._shared.use(policy, shared)
            undo.callback(self._take_out, port)
            self._plug(port, door, undo)
            if _reaches_host(policy):
                self._ground.admit_to_host(*_packed(port))
            undo.pop_all()
        self._ports[port.address4] = port
        if port.address6 is not None:
            self._ports[port.address6] = port
        return port

    def _plug(self, port: Port, door: CellDoor, undo: contextlib.ExitStack) -> None:
        ground, mbps = self._ground, port.policy.bandwidth_mbps
        limited = mbps is not None
        values = port.values(namespace=struct.pack("=I", door.namespace))
        if mbps is not None:
            values |= messages.rate_values(mbps, ground.mtu)
        here = ports.router_end(ipv6=ground.ipv6, limited=limited)
        there = ports.cell_end(
            ground.pool.range6 if ground.ipv6 else None, egress6=ground.egress6, limited=limited
        )  # fmt: skip
        with needs_kernel("veth or the queue tbf", "veth sch_tbf", also=()):
            self._routes.do(ports.pair(ground.mtu).fill(values))
            undo.callback(self._routes.do, messages.remove_link(port.index))
            self._routes.do(here.fill(values))
            Netlink(port.routes).do(there.fill(values))

    def _take_out(self, port: Port) -> None:
        """All rules, sets and elements of a port, in one transaction."""
        numbers = tuple(port.segments)
        suspended = [TABLE.remove("suspended", [nft.element(rules.key_of_interface(port.number))])]
        self._commit(
            *(suspended if port.is_suspended else []),
            *self._segments.leaving(port, numbers),
            rules.closed(Form.of(port.policy), ipv6=self._ground.ipv6).fill(port.values()),
            *self._shared.unwanted(port.policy),
        )
        self._segments.left(port, numbers)
        self._shared.drop(port.policy)

    async def detach(self, port: Port) -> None:
        """Take a port's rules, sets and addresses away; its veth pair goes with the sandbox' namespace. Idempotent.

        What the sandbox still sends is refused for a minute: a socket whose program is gone keeps the namespace until
        it is answered or has tried for long. Not cancelled once it has begun.

        Raises:
            SetupError: The kernel refused; what is left goes with the router.
        """
        if port.is_attached:
            async with self._changing:
                if port.is_attached:
                    await trio.to_thread.run_sync(self._detach, port)

    def _detach(self, port: Port) -> None:
        port.is_attached = False
        for address in (port.address4, port.address6):
            self._ports.pop(address or "", None)
        port.routes.close()
        self._take_out(port)
        if _reaches_host(port.policy):
            self._ground.bar_from_host(*_packed(port))
        self._ground.pool.give_back(port.place)

    async def change(self, port: Port, policy: Policy, *, forget_names: bool = False) -> None:
        """Give a port another policy, all at once. Not cancelled once it has begun.

        What is connected to where the new policy forbids ends; a limit of connections refuses new ones only.

        Args:
            port: Which.
            policy: The new one.
            forget_names: What `admit` was told is not known any more: fewer names are allowed than before.

        Raises:
            SetupError: The kernel refused; the old policy holds.
            UnsupportedHostError: There is no way out of the host; the same.
        """
        async with self._changing:
            self._attached(port)
            if policy.access:
                await self._ground.find_way_out()
            await trio.to_thread.run_sync(self._change, self._attached(port), policy, forget_names)

    def _change(self, port: Port, policy: Policy, forget_names: bool) -> None:
        before = port.policy
        forgets = policy.by_name and (forget_names or not before.by_name)
        uncounted = port.uncounted
        if policy.connections_limit is None:
            uncounted = 0
        elif policy.connections_limit != before.connections_limit:
            uncounted = sum(one.is_open for one in connections_of(self._filters, port.number))
        shared, sets = self._shared.wanted(policy)
        values = port.values(other=rules.digits(shared), limit=_limit(policy, uncounted))
        old, new = Form.of(before), Form.of(policy)
        with contextlib.ExitStack() as undo:
            self._change_bandwidth(port, policy, undo)
            if _reaches_host(policy) and not _reaches_host(before):
                self._ground.admit_to_host(*_packed(port))
                undo.callback(self._ground.bar_from_host, *_packed(port))
            self._commit(
                *sets,
                rules.names(made=True).fill(values) if new.by_name and not old.by_name else b"",
                *([TABLE.empty_set(f"names{version}_{port.number:08d}") for version in (4, 6)]
                  if forgets and old.by_name else []),
                *_change_of_limit(before, policy, values),
                rules.changed(new).fill(values),
                rules.limit(made=False, changed=True).fill(values) if old.limited and not new.limited else b"",
                rules.names(made=False).fill(values) if old.by_name and not new.by_name else b"",
                *(self._shared.unwanted(before) if shared != port.shared else []),
            )  # fmt: skip
            undo.pop_all()
        self._shared.use(policy, shared)
        self._shared.drop(before)
        port.policy, port.shared, port.uncounted = policy, shared, uncounted
        if forgets or not policy.by_name:
            port.names.clear()
        if _reaches_host(before) and not _reaches_host(policy):
            self._ground.bar_from_host(*_packed(port))
        self._end_what_is_forbidden(port, before, forgets=forgets)

    def _change_bandwidth(self, port: Port, policy: Policy, undo: contextlib.ExitStack) -> None:
        before, after = port.policy.bandwidth_mbps, policy.bandwidth_mbps
        if before == after:
            return
        for netlink, index in ((self._routes, None), (Netlink(port.routes), CELL_INDEX)):
            self._shape(port, netlink, index, after)
            undo.callback(self._shape, port, netlink, index, before)

    def _shape(self, port: Port, netlink: Netlink, index: int | None, mbps: float | None) -> None:
        values = port.values()
        if mbps is not None:
            values |= messages.rate_values(mbps, self._ground.mtu)
        with needs_kernel("the queue tbf", "sch_tbf", also=()):
            netlink.do(ports.bandwidth(index, limited=mbps is not None).fill(values))

    def _end_what_is_forbidden(self, port: Port, before: Policy, *, forgets: bool) -> None:
        """The rules refuse what the sandbox sends; this ends what it is only sent."""
        policy, known = port.policy, set(port.names)
        same = dataclasses.replace(policy, bandwidth_mbps=before.bandwidth_mbps,
                                   connections_limit=before.connections_limit) == before  # fmt: skip
        if same and not forgets:
            return

        def is_forbidden(one: Connection) -> bool:
            address = int.from_bytes(one.target, "big")
            return (
                not policy.access
                or contains(address_ranges(policy.blocked_networks, 4 if len(one.target) == 4 else 6), address)
                or (policy.blocks_host and one.target in self._host)
                or (policy.allowed_ports is not None and not (
                    one.has_port and contains(port_ranges(policy.allowed_ports), one.port)))
                or (forgets and one.target not in known)
            )  # fmt: skip

        forget(self._filters, connections_of(self._filters, port.number), is_forbidden)

    async def suspend(self, port: Port) -> None:
        """Let nothing through in either direction, silently; connections live on as long as the other side waits.

        Raises:
            SetupError: The kernel refused.
        """
        async with self._changing:
            if not self._attached(port).is_suspended:
                self._commit(TABLE.add("suspended", [nft.element(rules.key_of_interface(port.number))]))
                port.is_suspended = True

    async def resume(self, port: Port) -> None:
        """Undo `suspend`. Raises as it does."""
        async with self._changing:
            if self._attached(port).is_suspended:
                self._commit(TABLE.remove("suspended", [nft.element(rules.key_of_interface(port.number))]))
                port.is_suspended = False

    # ------------------------------------------------------------ what is known of a port

    def port_of(self, address: str) -> Port | None:
        """The port whose address that is; None: nobody's."""
        return self._ports.get(address)

    def count(self, port: Port) -> Traffic:
        """What has passed. Two questions to the kernel, 0.05 ms.

        Raises:
            SetupError: The kernel refused; the sandbox may be gone.
        """
        packets_in, packets_out, bytes_in, bytes_out = messages.traffic_in(
            self._routes.ask(messages.ask_traffic(port.index))[0]
        )
        counters = (TABLE.ask_counter(f"{one}{port.number:08d}") for one in "rl")
        refused, refused_connections = (nft.counted(answer)[1] for answer in self._filters.ask(*counters))
        if port.uncounted and refused_connections > port.refused_connections and not self._changing.locked():
            self._count_again(port)
        port.refused_connections = refused_connections
        return Traffic(
            sent_bytes=bytes_in,
            received_bytes=bytes_out,
            sent_packets=packets_in,
            received_packets=packets_out,
            refused=refused,
            refused_connections=refused_connections,
        )

    def _count_again(self, port: Port) -> None:
        """A limit counts what is connected after it was set; what there was before is subtracted from it.

        The kernel cannot tell when one of those ends. So they are counted when somebody was refused because of them.
        """
        uncounted = sum(one.is_open for one in connections_of(self._filters, port.number))
        values = port.values(limit=_limit(port.policy, uncounted))
        self._commit(rules.limit(made=True, changed=True).fill(values))
        port.uncounted = uncounted

    # ------------------------------------------------------------ names

    async def admit(self, port: Port, addresses: Iterable[tuple[str, float]]) -> None:
        """Let a sandbox that may reach allowed names only reach these addresses; what is connected later stays so.

        Args:
            port: Which. Nothing is done for one that may reach any name, or is gone.
            addresses: With the seconds that each is good for; it is never shortened.

        Raises:
            SetupError: The kernel refused.
        """
        async with self._changing:
            if not port.is_attached or not port.policy.by_name:
                return
            now = time.monotonic()
            wanted: dict[bytes, float] = {}
            for text, seconds in addresses:
                packed, until = ip_address(text).packed, now + max(seconds, _SHORTEST_NAME)
                if until > max(port.names.get(packed, 0.0), wanted.get(packed, 0.0)):
                    wanted[packed] = until
            parts = []
            for one in self._surplus(port, wanted, now):
                parts += [*_name(port, one, TABLE.add, 1.0), *_name(port, one, TABLE.remove)]
            for one, until in wanted.items():
                # To add what is there changes nothing, and to remove what is not fails; all three are one transaction
                add = tuple(_name(port, one, TABLE.add, until - now))
                parts += [*add, *_name(port, one, TABLE.remove), *add]
            self._commit(*parts)
            port.names |= wanted

    @staticmethod
    def _surplus(port: Port, wanted: dict[bytes, float], now: float) -> list[bytes]:
        """Forget what has ended, and as much of the rest as has no room; returns the latter."""
        for one in [one for one, until in port.names.items() if until <= now]:
            del port.names[one]
        count = len(port.names.keys() | wanted.keys()) - _MOST_NAMES
        surplus = sorted(port.names.keys() - wanted.keys(), key=port.names.__getitem__)[: max(count, 0)]
        for one in surplus:
            del port.names[one]
        return surplus

    # ------------------------------------------------------------ segments

    async def join(self, segment: int, port: Port) -> None:
        """Let a sandbox reach all others in a segment, and be reached by them, whatever their policies.

        Args:
            segment: A number of the caller's; the first to join makes the segment, the last to leave ends it.
            port: Which; nothing is done where it is in it already.

        Raises:
            SetupError: The kernel refused; it is not in it.
        """
        async with self._changing:
            if segment not in self._attached(port).segments:
                self._commit(*self._segments.joining(segment, port))
                self._segments.joined(segment, port)

    async def leave(self, segment: int, port: Port) -> None:
        """Undo `join`. Raises as it does: it is still in it then."""
        async with self._changing:
            if segment in port.segments:
                self._commit(*self._segments.leaving(port, (segment,)))
                self._segments.left(port, (segment,))

    async def cut(self, segment: int, port: Port) -> None:
        """Part a member from all others of a segment: packets get lost, at once, in both directions.

        Raises:
            SetupError: The kernel refused; it is as it was.
        """
        async with self._changing:
            if not self._attached(port).segments[segment]:
                self._commit(*self._segments.cutting(segment, port))
                port.segments[segment] = True

    async def mend(self, segment: int, port: Port) -> None:
        """Undo `cut`. Raises as it does."""
        async with self._changing:
            if self._attached(port).segments[segment]:
                self._commit(*self._segments.mending(segment, port))
                port.segments[segment] = False

    # ------------------------------------------------------------ inner

    def _attached(self, port: Port) -> Port:
        if not port.is_attached:
            raise SetupError("network", errno.ENOTCONN, "the sandbox is not connected any more")
        return port

    def _commit(self, *parts: bytes) -> None:
        self._filters.commit(*parts)

    def _new_addresses_of_host(self, *, first: bool = False) -> Iterator[bytes]:
        """The host's addresses may have changed; whoever may not reach the host does not reach the new ones either."""
        self._host_now = self._host
        if first or self._ground.host.have_changed():
            self._host_now = self._ground.host.read()
            for one in self._host_now - self._host:
                yield TABLE.add(f"host{_version(one)}", [nft.element(one)])
            for one in self._host - self._host_now:
                yield TABLE.remove(f"host{_version(one)}", [nft.element(one)])

    def _note_addresses_of_host(self) -> None:
        self._host = self._host_now


def _reaches_host(policy: Policy) -> bool:
    return policy.access and not policy.blocks_host


def _version(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _packed(port: Port) -> list[bytes]:
    return [port.packed4] if port.packed6 is None else [port.packed4, port.packed6]


def _limit(policy: Policy, uncounted: int = 0) -> bytes:
    return struct.pack(">I", min(max(0, (policy.connections_limit or 0) - uncounted), MOST_CONNECTIONS))


def _name(
    port: Port, address: bytes, do: Callable[[str, list[bytes]], bytes], seconds: float | None = None
) -> Iterator[bytes]:
    yield do(f"names{_version(address)}_{port.number:08d}", [nft.element(address, seconds=seconds)])


def _change_of_limit(before: Policy, policy: Policy, values: dict[str, bytes]) -> Iterator[bytes]:
    if policy.connections_limit is not None and policy.connections_limit != before.connections_limit:
        changed = before.connections_limit is not None
        yield rules.limit(made=True, changed=changed).fill(values)
