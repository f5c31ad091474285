"""What the host still knows of sandboxes that are gone: their connections, where their way out leads through it.

A program that is killed says goodbye to those it speaks with, unless its sandbox is suspended, or it has seen to it
that nobody hears that; and an established connection that ends unheard is kept for five days (nf_conntrack-sysctl,
nf_conntrack_tcp_timeout_established), in a table that all of the host shares.
"""

from __future__ import annotations

import logging
import socket

import trio

from nsbox._errors import SetupError
from nsbox._network.connections import forget_from
from nsbox._network.netlink import Netlink

log = logging.getLogger("nsbox")

_PAUSE_SECONDS = 1.0
"""From one look at the host's table to the next: the kernel has no index by address, and takes 10 ms (measured)."""


class Leftovers:
    """Addresses of sandboxes that are gone, until the host has forgotten all that came from them."""

    def __init__(self) -> None:
        self._addresses: set[bytes] = set()
        self._some = trio.Event()

    def add(self, *addresses: bytes) -> None:
        """Packed ones, from which nothing more can come."""
        self._addresses.update(addresses)
        self._some.set()

    async def follow(self) -> None:
        """Have the host forget them about a second after they were added, until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(_PAUSE_SECONDS)
            await trio.to_thread.run_sync(_forget, self._take())

    def forget(self) -> None:
        """At once."""
        _forget(self._take())

    def _take(self) -> set[bytes]:
        addresses, self._addresses, self._some = self._addresses, set(), trio.Event()
        return addresses


def _forget(addresses: set[bytes]) -> None:
    """What the kernel refuses is logged: those connections time out by themselves."""
    if not addresses:
        return
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:  # NETLINK_NETFILTER
            forget_from(Netlink(sock), addresses)
    except (OSError, SetupError) as exc:
        log.warning("the host goes on to know connections of sandboxes that are gone: %s", exc)
