"""What is done in the kernel for one port: its rules, its veth pair, and what changes of them.

Nothing here waits for anybody but the kernel; the router sees to it that one thing is done at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
import sys
import time
from collections.abc import Iterator

from nsbox._network import messages, ports, rules
from nsbox._network import nftables as nft
from nsbox._network.connections import Connection, connections_of, forget, forget_all
from nsbox._network.doors import CellDoor
from nsbox._network.ground import Ground, needs_kernel
from nsbox._network.netlink import Netlink
from nsbox._network.policy import Policy, Ranges, contains
from nsbox._network.ports import CELL_INDEX, Port
from nsbox._network.rules import MOST_CONNECTIONS, TABLE, Form
from nsbox._network.shared import Segments, SharedSets, rules_of_host

_LOOKS, _LOOK_SECONDS = 100, 0.000_2
"""For how long an interface is waited for."""


class Wiring:
    """Of a router.

    Args:
        ground: What it has.

    Attributes:
        segments: Which ports are in which.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._routes, self._filters = ground.routes, ground.filters
        self._numbers = itertools.count(1)
        self._shared = SharedSets()
        self._host: dict[int, Ranges] = {4: (), 6: ()}
        self._host_is_known = False
        self.segments = Segments()

    def commit(self, *parts: bytes) -> None:
        """Carry out messages about rules, all or none."""
        self._filters.commit(*parts)

    def note_host(self) -> None:
        """Learn the host's addresses, if they have changed: who may not reach the host does not reach new ones either.

        Raises:
            SetupError: The kernel refused; the next call tries again.
        """
        self._host_is_known &= not self._ground.host.have_changed()
        if not self._host_is_known:
            host = self._ground.host.read()
            self.commit(*rules_of_host(host))
            self._host, self._host_is_known = host, True

    def attach(self, door: CellDoor, policy: Policy, place: int) -> Port:
        """Make a port; see `Router.attach`.

        Args:
            door: To the sandbox.
            policy: What it may reach.
            place: Of its addresses.
        """
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
            self.note_host()
            opened = rules.opened(Form.of(policy), ipv6=ipv6).fill(port.values(limit=_limit(policy)))
            self.commit(*sets, opened)
            self._shared.use(policy, shared)
            undo.callback(self.take_out, port)
            self._plug(port, door, undo)
            if _reaches_host(policy):
                self._ground.admit_to_host(*port.packed)
            undo.pop_all()
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
        self._wait_until_up(port)

    def _wait_until_up(self, port: Port) -> None:
        """What the router's end sends before is lost: an answer to the first packet, of one sandbox in a hundred."""
        for _ in range(_LOOKS):
            if messages.is_up(self._routes.ask(messages.ask_state(port.index))[0]):
                return
            time.sleep(_LOOK_SECONDS)  # only before Linux 6.8, where the answer comes too early

    def take_out(self, port: Port) -> None:
        """Remove all rules, sets and elements of a port, in one transaction."""
        numbers = tuple(port.segments)
        suspended = [TABLE.remove("suspended", [nft.element(rules.key_of_interface(port.number))])]
        self.commit(
            *(suspended if port.is_suspended else []),
            *self.segments.leaving(port, numbers),
            rules.closed(Form.of(port.policy), ipv6=self._ground.ipv6).fill(port.values()),
            *self._shared.unwanted(port.policy),
        )
        self.segments.left(port, numbers)
        self._shared.drop(port.policy)

    def detach(self, port: Port) -> None:
        """End a port; see `Router.detach`."""
        port.is_attached = False
        port.routes.close()
        self.take_out(port)
        if _reaches_host(port.policy):
            self._ground.bar_from_host(*port.packed)
        self._ground.pool.give_back(port.place)
        forget_all(self._filters, port.number)

    def change(self, port: Port, policy: Policy, forget_names: bool) -> None:
        """Have another policy hold for a port; see `Router.change`."""
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
                self._ground.admit_to_host(*port.packed)
                undo.callback(self._ground.bar_from_host, *port.packed)
            self.commit(
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
            self._ground.bar_from_host(*port.packed)
        self._end_what_is_forbidden(port, before, forgets=forgets)

    def _change_bandwidth(self, port: Port, policy: Policy, undo: contextlib.ExitStack) -> None:
        before, after = port.policy.bandwidth_mbps, policy.bandwidth_mbps
        if before == after:
            return
        old = new = port.queue
        if before is not None and after is not None and self._burst(after) < self._burst(before):
            new = 3 - old  # what waits is lost, see `messages.shaped`
        for netlink, index in ((self._routes, None), (Netlink(port.routes), CELL_INDEX)):
            self._shape(port, netlink, index, after, new)
            undo.callback(self._shape, port, netlink, index, before, old)
        port.queue = new
        undo.callback(setattr, port, "queue", old)

    def _burst(self, mbps: float) -> int:
        return int.from_bytes(messages.rate_values(mbps, self._ground.mtu)["burst"], sys.byteorder)

    def _shape(self, port: Port, netlink: Netlink, index: int | None, mbps: float | None, queue: int) -> None:
        values = port.values(handle=struct.pack("=I", queue << 16))
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
            return (
                policy.forbids(one.target, one.port if one.has_port else None)
                or (policy.blocks_host and self._is_host(one.target))
                or (forgets and one.target not in known)
            )

        forget(self._filters, connections_of(self._filters, port.number), is_forbidden)

    def count_again(self, port: Port) -> None:
        """A limit counts what is connected after it was set; what there was before is subtracted from it.

        The kernel cannot tell when one of those ends. So they are counted when somebody was refused because of them.
        """
        uncounted = sum(one.is_open for one in connections_of(self._filters, port.number))
        values = port.values(limit=_limit(port.policy, uncounted))
        self.commit(rules.limit(made=True, changed=True).fill(values))
        port.uncounted = uncounted

    def _is_host(self, target: bytes) -> bool:
        return contains(self._host[4 if len(target) == 4 else 6], int.from_bytes(target, "big"))


def _reaches_host(policy: Policy) -> bool:
    return policy.access and not policy.blocks_host


def _limit(policy: Policy, uncounted: int = 0) -> bytes:
    return struct.pack(">I", min(max(0, (policy.connections_limit or 0) - uncounted), MOST_CONNECTIONS))


def _change_of_limit(before: Policy, policy: Policy, values: dict[str, bytes]) -> Iterator[bytes]:
    if policy.connections_limit is not None and policy.connections_limit != before.connections_limit:
        changed = before.connections_limit is not None
        yield rules.limit(made=True, changed=changed).fill(values)
