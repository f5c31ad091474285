"""What of the network a sandbox may reach, in the form that the router's rules are made from."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from nsbox._config import NetworkAllocation
from nsbox._config.networks import HOST

Ranges = tuple[tuple[int, int], ...]

CONNECTIONS = 4096
"""Of one sandbox, where its allocation says nothing. The kernel's table has room for 65,536 on a small machine; it is
one for all sandboxes, and as root the host's own has all of them, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Of one sandbox; two that are equal share their sets of ranges and ports.

    Attributes:
        access: Whether anything outside can be reached; without it there are only the segments that it joins.
        bandwidth_mbps: Megabits a second in each direction; None: as fast as it goes.
        connections_limit: At the same time; None: any number.
        allowed_ports: Destination ports of TCP and UDP; None: any.
        blocked_networks: Ranges of addresses; they may overlap.
        blocks_host: Whether the host itself cannot be reached.
        by_name: Whether only the addresses can be reached that `Router.admit` is told.
    """

    access: bool = True
    bandwidth_mbps: float | None = None
    connections_limit: int | None = None
    allowed_ports: tuple[int, ...] | None = None
    blocked_networks: tuple[str, ...] = ()
    blocks_host: bool = True
    by_name: bool = False

    @classmethod
    def of(cls, allocation: NetworkAllocation) -> Policy:
        """What a sandbox with this allocation may reach."""
        ports, connections = allocation.allowed_ports, allocation.connections_limit
        return cls(
            access=allocation.access == "egress",
            bandwidth_mbps=allocation.bandwidth_mbps,
            connections_limit=CONNECTIONS if connections is None else connections,
            allowed_ports=None if ports is None else tuple(ports),
            blocked_networks=tuple(item for item in allocation.blocked_networks if item != HOST),
            blocks_host=HOST in allocation.blocked_networks,
            by_name=allocation.allowed_domains is not None,
        )

    def forbids(self, target: bytes, port: int | None) -> bool:
        """Whether a connection is against it, as far as that can be told without the host's addresses and names.

        Args:
            target: Packed address that it is made to.
            port: Of TCP or UDP; None: another protocol.
        """
        blocked = address_ranges(self.blocked_networks, 4 if len(target) == 4 else 6)
        allowed = None if self.allowed_ports is None else port_ranges(self.allowed_ports)
        return (
            not self.access
            or contains(blocked, int.from_bytes(target, "big"))
            or (allowed is not None and (port is None or not contains(allowed, port)))
        )


@lru_cache(maxsize=64)
def address_ranges(networks: tuple[str, ...], version: int) -> Ranges:
    """The first and last address of each range, ascending, none of them touching: a set of the kernel takes no others.

    Args:
        networks: Ranges of both versions.
        version: 4 or 6, the version wanted.
    """
    if version == 4:
        four = (item for text in networks if isinstance(item := ipaddress.ip_network(text), ipaddress.IPv4Network))
        return joined((int(item[0]), int(item[-1])) for item in four)
    six = (item for text in networks if isinstance(item := ipaddress.ip_network(text), ipaddress.IPv6Network))
    return joined((int(item[0]), int(item[-1])) for item in six)


@lru_cache(maxsize=64)
def port_ranges(ports: tuple[int, ...]) -> Ranges:
    """The first and last port of each range, ascending, none of them touching."""
    return joined((port, port) for port in ports)


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same ascending, those that overlap or touch made one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def contains(ranges: Ranges, value: int) -> bool:
    """Whether an address or port is in one of the ranges."""
    position = bisect_right(ranges, value, key=lambda one: one[0])
    return position > 0 and value <= ranges[position - 1][1]
