"""The network of a sandbox beside its loopback: a port of the supervisor's router, and what holds for it.

A sandbox that has access to nothing, and is in no private network, has no port, and no time is taken for it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from nsbox._config import NetworkAllocation
from nsbox._config.networks import HOST
from nsbox._config.validation import instance_of
from nsbox._core.part import Part
from nsbox._errors import SandboxError
from nsbox._events import DomainRefused
from nsbox._network.names import Names
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.networking import Networking
from nsbox._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore
    from nsbox._core.segment import Member
    from nsbox._network.policy import Policy
    from nsbox._network.router import Port, Router, Traffic

log = logging.getLogger("nsbox")

_TOLD_SECONDS = 10.0
_MOST_TOLD = 100
"""Refused names that are told of in that time: a program can ask for as many as it likes."""


class SandboxNetwork(Part):
    """The network of one sandbox. For who holds `changing`, but for what the resolver asks.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._networking: Networking | None = None
        self._names: Names | None = None
        self._told: set[str] = set()
        self._told_since = float("-inf")
        self.allocation = core.config.resources.network
        self.memberships: list[Member] = []
        """Of private networks, in the order in which it was connected."""
        self.port: Port | None = None

    @property
    def wanted(self) -> bool:
        """Whether it needs a port."""
        return self.allocation.access == "egress" or bool(self.memberships)

    @property
    def description(self) -> str:
        """For `isolation`."""
        if self.port is None:
            return "loopback only"
        reach = "egress" if self.allocation.access == "egress" else "private networks only"
        return f"{reach}: {self._router().description}"

    def _router(self) -> Router:
        """For where there is a port: it has ended only where the supervisor has."""
        assert self._networking is not None
        assert self._networking.router is not None
        return self._networking.router

    def is_attached(self) -> bool:
        """Whether there is a port, of a router that lives."""
        return self.port is not None and self._networking is not None and self._networking.router is not None

    # ------------------------------------------------------------ the sandbox's life

    async def attach(self, supervisor: Supervisor, cell: Cell) -> None:
        """Connect new processes, in every private network that it is in, too.

        Not cancelled: it takes some milliseconds, the first time with pasta some 0.1 s.

        Raises:
            UnsupportedHostError: The host lacks something; with the remedy.
            SetupError: The kernel refused, or there is no address left. It has no port.
            NetworkError: The launcher or PID 1 died.
        """
        with trio.CancelScope(shield=True):
            await self.detach()
            router = await supervisor.networking.open()
            door = await cell.open_door()
            try:
                port = await router.attach(door, self._make_policy())
            finally:
                door.close()
            self._networking, self.port = supervisor.networking, port
            try:
                for member in self.memberships:
                    await self._join(member)
            except BaseException:
                await self.detach()
                raise
            self._answer(self._make_names())

    async def renew(self, supervisor: Supervisor, cell: Cell) -> None:
        """The processes of before are gone, and there are new ones. As `attach`, where it is wanted."""
        if self.wanted:
            await self.attach(supervisor, cell)
        else:
            await self.detach()

    async def detach(self) -> None:
        """No port any more; also where there is none. Not cancelled. What the kernel refuses is logged."""
        networking, port = self._networking, self.port
        self._networking = self.port = None
        if networking is None or port is None:
            return
        with trio.CancelScope(shield=True):
            try:
                await networking.detach(port)
            except SandboxError as exc:  # it goes with the router; the sandbox is to end all the same
                log.warning("%s: its port of the router was not removed: %s", self._core.id, exc)

    async def freeze(self, cell: Cell) -> None:
        """Freeze the sandbox, of which nothing answers then: every packet is dropped, silently.

        Raises:
            SetupError: The kernel refused; it is as it was.
            NetworkError: The launcher or PID 1 died.
        """
        if self.port is None:
            await cell.freeze()
            return
        await self._silence()
        try:
            await cell.freeze()
        except BaseException:
            await self._undo(self._unsilence)
            raise

    async def thaw(self, cell: Cell) -> None:
        """Let everything go on. Raises as `freeze`."""
        if self.port is None:
            await cell.thaw()
            return
        await self._unsilence()
        try:
            await cell.thaw()
        except BaseException:
            await self._undo(self._silence)
            raise

    async def _silence(self) -> None:
        if self.port is not None and self.is_attached():
            with trio.CancelScope(shield=True):
                await self._router().suspend(self.port)

    async def _unsilence(self) -> None:
        if self.port is not None and self.is_attached():
            with trio.CancelScope(shield=True):
                await self._router().resume(self.port)

    async def _undo(self, step: Callable[[], Awaitable[None]]) -> None:
        """After a freeze or a thaw that failed, which the caller is told of anyway."""
        try:
            await step()
        except SandboxError as exc:
            log.warning("%s: its network is not as it was: %s", self._core.id, exc)

    async def end(self) -> None:
        for member in tuple(self.memberships):
            member.segment.forget(member)
        self.memberships.clear()

    # ------------------------------------------------------------ what holds for it

    async def update(self, allocation: NetworkAllocation) -> None:
        """See `AsyncSandbox.update_network`."""
        instance_of("allocation", allocation, NetworkAllocation)
        core = self._core
        async with core.changing:
            core.machine.require(*ACTIVE, SandboxStatus.SUSPENDED, action="change the network of")
            before, self.allocation = self.allocation, allocation
            try:
                await self._apply(before)
            except BaseException:
                self.allocation = before
                raise
            resources = dataclasses.replace(core.config.resources, network=allocation)
            core.config = dataclasses.replace(core.config, resources=resources)

    async def _apply(self, before: NetworkAllocation) -> None:
        with trio.CancelScope(shield=True):
            if self.port is not None and self.is_attached():
                names = self._names
                # First: what the resolver admits by the old rules from here on is not admitted any more
                self._answer(self._make_names())
                try:
                    fewer = _allows_fewer_names(before, self.allocation)
                    await self._router().change(self.port, self._make_policy(), forget_names=fewer)
                except BaseException:
                    self._answer(names)
                    raise
            elif self.wanted:
                await self._attach_living()

    def _answer(self, names: Names | None) -> None:
        """Have the resolver ask these from now on."""
        assert self._networking is not None
        assert self.port is not None
        assert names is not None
        self._names = names
        self._networking.answer(self.port, names)

    async def _attach_living(self) -> None:
        await self.attach(*self._core.living())
        if self._core.status is SandboxStatus.SUSPENDED:
            try:
                await self._silence()
            except BaseException:
                await self.detach()
                raise

    def _make_policy(self) -> Policy:
        from nsbox._network.policy import Policy  # noqa: PLC0415  # few sandboxes need it

        return Policy.of(self.allocation)

    def count(self) -> Traffic | None:
        """What has passed since it was connected; None: it never was. One message to the kernel, and its answer.

        Raises:
            OSError: The kernel refused.
        """
        return self._router().count(self.port) if self.port is not None and self.is_attached() else None

    # ------------------------------------------------------------ private networks

    async def join(self, member: Member) -> None:
        """Be in a private network. Not cancelled.

        Raises:
            SandboxError: As `attach`; it is not in it.
        """
        self.memberships.append(member)
        with trio.CancelScope(shield=True):
            try:
                if self.is_attached():
                    await self._join(member)
                else:
                    await self._attach_living()
            except BaseException:
                self.memberships.remove(member)
                raise

    async def _join(self, member: Member) -> None:
        assert self.port is not None
        router = self._router()
        await router.join(member.segment.number, self.port)
        if member.cut:
            await router.cut(member.segment.number, self.port)

    async def leave(self, member: Member) -> None:
        """Be in it no more. Not cancelled.

        Raises:
            SetupError: The kernel refused; it is still in it.
        """
        with trio.CancelScope(shield=True):
            if self.is_attached():
                assert self.port is not None
                await self._router().leave(member.segment.number, self.port)
        self.memberships.remove(member)

    async def set_cut(self, member: Member, cut: bool) -> None:
        """Part it from all others there, or not any more. Not cancelled.

        Raises:
            SetupError: The kernel refused; it is as it was.
        """
        with trio.CancelScope(shield=True):
            if self.is_attached():
                assert self.port is not None
                router = self._router()
                await (router.cut if cut else router.mend)(member.segment.number, self.port)
        member.cut = cut

    # ------------------------------------------------------------ what the resolver asks

    def _make_names(self) -> Names:
        allocation, router, port = self.allocation, self._router(), self.port
        assert port is not None
        allowed: Sequence[str] | None = allocation.allowed_domains if allocation.access == "egress" else ()
        blocked = tuple(ipaddress.ip_network(one) for one in allocation.blocked_networks if one != HOST)

        def is_blocked_address(text: str) -> bool:
            address = ipaddress.ip_address(text)
            return any(address.version == one.version and address in one for one in blocked)

        async def admit(addresses: Sequence[tuple[str, float]]) -> None:
            if self._names is names:  # else the query is from before a change, which has forgotten such addresses
                await router.admit(port, addresses)

        names = Names(
            blocked=tuple(allocation.blocked_domains),
            allowed=None if allowed is None else tuple(allowed),
            hosts=self._find_host,
            admit=admit,
            refused=self._note_refused,
            is_blocked_address=is_blocked_address,
        )
        return names

    def _find_host(self, name: str) -> Sequence[str] | None:
        """The addresses of a member of one of its private networks; None: there is none of that name.

        Args:
            name: That of the member, or with a dot and the network's name behind it.
        """
        label, _, network = name.lower().rstrip(".").partition(".")
        for member in self.memberships:
            if network in ("", member.segment.name):
                found = member.segment.find(label)
                if found is not None:  # it may have just lost its processes
                    return found.core.network._addresses(self._networking)
        return None

    def _addresses(self, networking: Networking | None) -> Sequence[str]:
        """Where those find it that have ports of this router; () while it has none of it."""
        if self.port is None or self._networking is not networking:
            return ()
        return [one for one in (self.port.address4, self.port.address6) if one is not None]

    def _note_refused(self, name: str) -> None:
        """Each name is told of once in a while, and no more of them than anybody could read."""
        now = trio.current_time()
        if now - self._told_since >= _TOLD_SECONDS:
            self._told.clear()
            self._told_since = now
        if name not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(name)
            self._core.emitter.emit(DomainRefused, domain=name)


def _allows_fewer_names(before: NetworkAllocation, after: NetworkAllocation) -> bool:
    """Whether an address may be known by a name that is not allowed any more."""
    if before.allowed_domains is None or after.allowed_domains is None:
        return False
    kept = set(before.allowed_domains) <= set(after.allowed_domains)
    return not kept or not set(after.blocked_domains) <= set(before.blocked_domains)
