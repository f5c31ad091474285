"""The addresses that a sandbox knows by name, where it may reach no others: sets whose elements end by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

from nsbox._network import nftables as nft
from nsbox._network.ports import Port
from nsbox._network.rules import TABLE

_MOST = 4096
"""Addresses that one sandbox may know at a time; the one that ends first makes room."""
_SHORTEST = 1.0
"""Seconds: an answer that may not be kept at all has to be good for one connection."""


def admit(port: Port, addresses: Iterable[tuple[str, float]], now: float) -> tuple[list[bytes], dict[bytes, float]]:
    """Decide what a sandbox knows from now on.

    Args:
        port: The sandbox'.
        addresses: What it is told, with the seconds that each is good for; it is never shortened.
        now: The monotonic clock.

    Returns:
        The messages that make the sets so, and all that is known then.
    """
    known = {one: until for one, until in port.names.items() if until > now}
    wanted: dict[bytes, float] = {}
    for text, seconds in addresses:
        packed, until = ip_address(text).packed, now + max(seconds, _SHORTEST)
        if until > max(known.get(packed, 0.0), wanted.get(packed, 0.0)):
            wanted[packed] = until
    surplus = sorted(known.keys() - wanted.keys(), key=known.__getitem__)
    del surplus[max(len(known.keys() | wanted.keys()) - _MOST, 0) :]
    parts: list[bytes] = []
    # To add what is there changes nothing, and to remove what is not fails; all of it is one transaction
    for one in surplus:
        parts += [*_do(port, one, TABLE.add, _SHORTEST), *_do(port, one, TABLE.remove)]
        del known[one]
    for one, until in wanted.items():
        add = tuple(_do(port, one, TABLE.add, until - now))
        parts += [*add, *_do(port, one, TABLE.remove), *add]
    return parts, known | wanted


def _do(
    port: Port, address: bytes, do: Callable[[str, list[bytes]], bytes], seconds: float | None = None
) -> Iterator[bytes]:
    yield do(f"names{4 if len(address) == 4 else 6}_{port.number:08d}", [nft.element(address, seconds=seconds)])
