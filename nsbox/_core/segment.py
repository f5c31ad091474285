"""A private network: sandboxes that reach each other by name, and are reached by nobody else through it."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from nsbox._config.networks import domain_pattern
from nsbox._config.validation import refuse
from nsbox._errors import ConfigError, InvalidStateError
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.supervisor import is_current

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_numbers = itertools.count(1)  # of the process: a segment outlives the router that knows it by its number


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """A sandbox in a private network.

    Attributes:
        segment: Which.
        core: The sandbox.
        name: What the others find it by.
        cut: Whether it is parted from them.
    """

    segment: Segment
    core: SandboxCore
    name: str
    cut: bool = False


class Segment:
    """See `AsyncNetwork`, whose methods these are.

    Args:
        name: Of the network; None: its id.

    Raises:
        ConfigError: It is no name of a domain.
    """

    def __init__(self, name: str | None) -> None:
        self.number = next(_numbers)
        self.id = f"net-{secrets.token_hex(6)}"
        self.name = self.id if name is None else _check_network_name(name)
        self._members: dict[str, Member] = {}
        self._closed = False

    @property
    def members(self) -> Mapping[str, str]:
        """Their names, and the ids of the sandboxes; a snapshot."""
        return MappingProxyType({name: member.core.id for name, member in tuple(self._members.items())})

    def find(self, name: str) -> Member | None:
        """Who has a name."""
        return self._members.get(name)

    def forget(self, member: Member) -> None:
        """The sandbox is about to end."""
        if self._members.get(member.name) is member:
            del self._members[member.name]

    # ------------------------------------------------------------ what callers do

    async def connect(self, core: SandboxCore, name: str | None = None) -> None:
        """See `AsyncNetwork.connect`."""
        wish = core.id if name is None else _check_member_name(name)
        self._require_here(core, "connect")
        async with core.changing:
            self._require_here(core, "connect")
            if self._closed:
                raise InvalidStateError(f"the network {self.name} is closed")
            known = self._member_of(core)
            if known is not None:
                if known.name != wish:
                    raise InvalidStateError(f"{core.id} is in the network {self.name} already, as {known.name!r}")
                return
            taken = self._members.get(wish)
            if taken is not None:
                raise ConfigError(f"name={wish!r}: is that of {taken.core.id} in the network {self.name}")
            if any(one.segment.name == self.name for one in core.network.memberships):
                raise ConfigError(f"{core.id} is in another network of the name {self.name!r}")
            member = self._members[wish] = Member(segment=self, core=core, name=wish)
            try:
                await core.network.join(member)
            except BaseException:
                self.forget(member)
                raise

    async def remove(self, core: SandboxCore) -> None:
        """See `AsyncNetwork.remove`."""
        if self._member_of(core) is None:
            return
        async with core.changing:
            member = self._member_of(core)
            if member is not None:
                await core.network.leave(member)
                self.forget(member)

    async def disconnect(self, core: SandboxCore) -> None:
        """See `AsyncNetwork.disconnect`."""
        await self._set_cut(core, cut=True)

    async def reconnect(self, core: SandboxCore) -> None:
        """See `AsyncNetwork.reconnect`."""
        await self._set_cut(core, cut=False)

    async def close(self) -> None:
        """See `AsyncNetwork.aclose`."""
        self._closed = True
        for member in tuple(self._members.values()):
            await self.remove(member.core)

    async def _set_cut(self, core: SandboxCore, *, cut: bool) -> None:
        self._require_member(core)
        async with core.changing:
            member = self._require_member(core)
            if member.cut != cut:
                await core.network.set_cut(member, cut)

    # ------------------------------------------------------------ who is in it

    def _member_of(self, core: SandboxCore) -> Member | None:
        return next((one for one in core.network.memberships if one.segment is self), None)

    def _require_member(self, core: SandboxCore) -> Member:
        member = self._member_of(core)
        if member is None:
            raise InvalidStateError(f"{core.id} is not in the network {self.name}; connect it first")
        return member

    def _require_here(self, core: SandboxCore, action: str) -> None:
        """Only what lives in this run may be touched, and only there is the router that both have."""
        core.machine.require(*ACTIVE, SandboxStatus.SUSPENDED, action=action)
        if not is_current(core.living()[0]):
            raise InvalidStateError(f"{core.id} lives in another event loop than this use of the network {self.name}")


def _check_member_name(name: str) -> str:
    """One label of a host name, RFC 1123, 2.1."""
    allowed = 'letters of ASCII, digits and inner hyphens, at most 63, such as "db"'
    if not isinstance(name, str):
        refuse("name", name, allowed)
    if not _LABEL.fullmatch(name.lower()):
        refuse("name", name, allowed)
    return name.lower()


def _check_network_name(name: str) -> str:
    checked = domain_pattern("name", name)
    if checked.startswith("*."):
        refuse("name", name, 'a name such as "backend"')
    return checked
