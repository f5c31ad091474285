"""What sandboxes share in the router's rules: sets of equal policies, and the segments that they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from nsbox._network import nftables as nft
from nsbox._network import rules
from nsbox._network.nftables import Verdict
from nsbox._network.policy import Policy, Ranges
from nsbox._network.ports import Port
from nsbox._network.rules import TABLE

_Key = tuple[tuple[str, ...], tuple[int, ...] | None]


@dataclass(slots=True)
class _Use:
    number: int
    count: int = 0


class SharedSets:
    """Which policies have their sets in the table, and how many ports use them.

    Messages are made first, and what they do is noted when the kernel has done it.
    """

    def __init__(self) -> None:
        self._uses: dict[_Key, _Use] = {}
        self._last = 0

    def wanted(self, policy: Policy) -> tuple[int, list[bytes]]:
        """The number of a policy's sets, and the messages that make them where nobody has them yet."""
        use = self._uses.get(_key(policy))
        if use is not None:
            return use.number, []
        self._last += 1
        return self._last, rules.shared_sets(self._last, policy)

    def use(self, policy: Policy, number: int) -> None:
        """One port more has them."""
        self._uses.setdefault(_key(policy), _Use(number)).count += 1

    def unwanted(self, policy: Policy) -> list[bytes]:
        """The messages that remove a policy's sets where only one port has them."""
        use = self._uses[_key(policy)]
        return rules.without_shared_sets(use.number, policy) if use.count == 1 else []

    def drop(self, policy: Policy) -> None:
        """One port less has them."""
        use = self._uses[_key(policy)]
        use.count -= 1
        if use.count == 0:
            del self._uses[_key(policy)]


def rules_of_host(ranges: Mapping[int, Ranges]) -> Iterator[bytes]:
    """The messages that have the addresses of the host be these, and no others.

    Args:
        ranges: By the version of IP.
    """
    for version, length in ((4, 4), (6, 16)):
        yield TABLE.empty_set(f"host{version}")
        yield from rules.intervals(f"host{version}", ranges[version], length)


def _key(policy: Policy) -> _Key:
    return policy.blocked_networks, policy.allowed_ports


@dataclass(slots=True)
class Segments:
    """Which ports are in which segment. Its numbers are the caller's.

    Attributes:
        members: How many there are in each.
    """

    members: dict[int, int] = field(default_factory=dict)

    def joining(self, number: int, port: Port) -> Iterator[bytes]:
        """The messages that put a port into a segment."""
        if number not in self.members:
            yield rules.segment(made=True).fill(_values(number, port))
        if port.segments:
            yield rules.peers("emptied").fill(port.values())
        else:
            yield rules.peers("made").fill(port.values())
            yield TABLE.add("peers", [nft.element(_peer(port), verdict=(Verdict.GOTO, f"p{port.number:08d}"))])
        yield from _chain(port, (*port.segments, number))
        for kind in ("all", "linked"):
            yield from _each(port, kind, number, TABLE.add)

    def joined(self, number: int, port: Port) -> None:
        """It is in it now."""
        port.segments[number] = False
        self.members[number] = self.members.get(number, 0) + 1

    def leaving(self, port: Port, numbers: tuple[int, ...]) -> Iterator[bytes]:
        """The messages that take a port out of segments."""
        rest = [one for one in port.segments if one not in numbers]
        if numbers and not rest:
            yield TABLE.remove("peers", [nft.element(_peer(port))])
            yield rules.peers("removed").fill(port.values())
        elif numbers:
            yield rules.peers("emptied").fill(port.values())
            yield from _chain(port, tuple(rest))
        for number in numbers:
            if self.members[number] == 1:
                yield rules.segment(made=False).fill(_values(number, port))
                continue
            for kind in ("all",) if port.segments[number] else ("all", "linked"):
                yield from _each(port, kind, number, TABLE.remove)

    def left(self, port: Port, numbers: tuple[int, ...]) -> None:
        """It is in them no more."""
        for number in numbers:
            del port.segments[number]
            self.members[number] -= 1
            if not self.members[number]:
                del self.members[number]

    @staticmethod
    def cutting(number: int, port: Port) -> Iterator[bytes]:
        """The messages that part a member from the others."""
        return _each(port, "linked", number, TABLE.remove)

    @staticmethod
    def mending(number: int, port: Port) -> Iterator[bytes]:
        """The messages that link it with them again."""
        return _each(port, "linked", number, TABLE.add)


def _values(number: int, port: Port) -> dict[str, bytes]:
    return port.values(other=rules.digits(number))


def _peer(port: Port) -> bytes:
    return rules.key_of_interface(port.number)


def _chain(port: Port, numbers: tuple[int, ...]) -> Iterator[bytes]:
    """First what is accepted in any of them: two can be parted in one segment, and linked in another."""
    for number in numbers:
        yield rules.linked().fill(_values(number, port))
    for number in numbers:
        yield rules.parted().fill(_values(number, port))


def _each(port: Port, kind: str, number: int, do: Callable[[str, list[bytes]], bytes]) -> Iterator[bytes]:
    yield do(f"{kind}4_{number:08d}", [nft.element(port.packed4)])
    if port.packed6 is not None:
        yield do(f"{kind}6_{number:08d}", [nft.element(port.packed6)])
