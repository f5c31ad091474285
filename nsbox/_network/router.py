"""The router of a supervisor: a network namespace that every sandbox with a network is connected to, and its way out.

What has to be cleaned up after a crash is nothing: the namespace goes with its last descriptor, and with it every veth
pair, address, route, rule and set; on the host there are the other end of such a pair, and a table of rules that its
socket owns.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from nsbox._errors import SetupError
from nsbox._network import admitted, messages, rules
from nsbox._network import nftables as nft
from nsbox._network.doors import CellDoor, RouterDoor
from nsbox._network.ground import Ground, lay
from nsbox._network.leftovers import Leftovers
from nsbox._network.policy import Policy
from nsbox._network.ports import Port, Traffic
from nsbox._network.rules import TABLE
from nsbox._network.wiring import Wiring

__all__ = ["Port", "Router", "Traffic"]

log = logging.getLogger("nsbox")

T = TypeVar("T")
Args = TypeVarTuple("Args")

_RETRY_SECONDS = 1.0
_MANY = 50
"""Namespaces that end in a second, with which others can be in the way."""


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
        self._wiring = Wiring(ground)
        self._changing = trio.Lock()
        self._ports: dict[str, Port] = {}
        self._detached: deque[float] = deque()
        self._closed = False
        self._leftovers = Leftovers()
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
            router._wiring.note_host()
        except BaseException:
            router.close()
            raise
        return router

    def close(self) -> None:
        """Remove all that is on the host, and close the door; idempotent. Ports are of no use afterwards."""
        if not self._closed:
            self._closed = True
            for port in set(self._ports.values()):
                port.is_attached = False
                port.routes.close()
                self._leave(port)
            self._ports.clear()
            self._leftovers.forget()
            self._ground.close()

    async def follow_host(self) -> None:
        """Keep up with the addresses of the host, until cancelled."""
        while True:
            try:
                async with self._changing:
                    self._wiring.note_host()
            except SetupError as exc:
                log.error("sandboxes may reach new addresses of the host for now: %s", exc)
                await trio.sleep(_RETRY_SECONDS)
            else:
                await self._ground.host.wait_for_news()

    async def forget_leftovers(self) -> None:
        """Have the host forget the connections of sandboxes that were detached, until cancelled."""
        await self._leftovers.follow()

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
                port = await self._run(self._wiring.attach, door, policy, place)
            except BaseException:
                self._ground.pool.give_back(place)
                raise
            if self._closed:  # while another thread was at it
                port.is_attached = False
                port.routes.close()
                raise SetupError("network", errno.ESHUTDOWN, "the router was closed meanwhile")
            self._ports[port.address4] = port
            if port.address6 is not None:
                self._ports[port.address6] = port
            return port

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
                    self._detached.append(time.monotonic())
                    for address in (port.address4, port.address6):
                        self._ports.pop(address or "", None)
                    self._leave(port)
                    self._wiring.detach(port)

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
            await self._run(self._wiring.change, self._attached(port), policy, forget_names)

    async def suspend(self, port: Port) -> None:
        """Let nothing through in either direction, silently; connections live on as long as the other side waits.

        Raises:
            SetupError: The kernel refused.
        """
        async with self._changing:
            if not self._attached(port).is_suspended:
                self._wiring.commit(TABLE.add("suspended", [nft.element(rules.key_of_interface(port.number))]))
                port.is_suspended = True

    async def resume(self, port: Port) -> None:
        """Undo `suspend`. Raises as it does."""
        async with self._changing:
            if self._attached(port).is_suspended:
                self._wiring.commit(TABLE.remove("suspended", [nft.element(rules.key_of_interface(port.number))]))
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
            self._wiring.count_again(port)
        port.refused_connections = refused_connections
        return Traffic(
            sent_bytes=bytes_in,
            received_bytes=bytes_out,
            sent_packets=packets_in,
            received_packets=packets_out,
            refused=refused,
            refused_connections=refused_connections,
        )

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
            parts, known = admitted.admit(port, addresses, time.monotonic())
            self._wiring.commit(*parts)
            port.names = known

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
                self._wiring.commit(*self._wiring.segments.joining(segment, port))
                self._wiring.segments.joined(segment, port)

    async def leave(self, segment: int, port: Port) -> None:
        """Undo `join`. Raises as it does: it is still in it then."""
        async with self._changing:
            if segment in port.segments:
                self._wiring.commit(*self._wiring.segments.leaving(port, (segment,)))
                self._wiring.segments.left(port, (segment,))

    async def cut(self, segment: int, port: Port) -> None:
        """Part a member from all others of a segment: packets get lost, at once, in both directions.

        Raises:
            SetupError: The kernel refused; it is as it was.
        """
        async with self._changing:
            if not self._attached(port).segments[segment]:
                self._wiring.commit(*self._wiring.segments.cutting(segment, port))
                port.segments[segment] = True

    async def mend(self, segment: int, port: Port) -> None:
        """Undo `cut`. Raises as it does."""
        async with self._changing:
            if self._attached(port).segments[segment]:
                self._wiring.commit(*self._wiring.segments.mending(segment, port))
                port.segments[segment] = False

    # ------------------------------------------------------------ inner

    def _leave(self, port: Port) -> None:
        """Note whose connections the host is to forget: where pasta is the way out, it has none of theirs."""
        way_out = self._ground.way_out
        if way_out is not None and not way_out.masquerades_inside:
            self._leftovers.add(*port.packed)

    async def _run(self, function: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        """Change interfaces: in this thread, as to have another one do it takes longer than the change (measured).

        Unless many namespaces are ending: for that long the kernel may keep the lock of all interfaces.
        """
        now = time.monotonic()
        while self._detached and self._detached[0] < now - 1:
            self._detached.popleft()
        if len(self._detached) < _MANY:
            return function(*args)
        return await trio.to_thread.run_sync(function, *args)

    def _attached(self, port: Port) -> Port:
        if not port.is_attached:
            raise SetupError("network", errno.ENOTCONN, "the sandbox is not connected any more")
        return port
