"""Addresses of sandboxes: a range that nothing of the host's overlaps, and who has which of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import trio

from nsbox._config.networks import NAME_SERVER
from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network.netlink import Netlink
from nsbox._network.policy import Ranges, joined

GATEWAY = IPv4Address(NAME_SERVER)
"""What every sandbox sends to, and where its resolver is."""
GATEWAY6 = IPv6Address("fe80::1")
"""What every sandbox sends to with IPv6."""
REGISTER = "/run/nsbox/address-ranges"
"""A file whose bytes stand for ranges; a supervisor of root's locks the byte of its own. It stays."""

_POOLS = tuple(IPv4Network(text) for text in ("10.192.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"))
"""Where a range is taken from; the first of them that the host does not use wholly."""
_PREFIX = 20
_RESERVED = 16
"""Addresses at the start of a range that are no sandbox's: of the router itself, and of its uplink."""


class AddressPool:
    """Which of a range's addresses are free. What was given back is given out as late as possible.

    Args:
        range4: The range.
        range6: Its counterpart; a sandbox' place in both is the same.
    """

    def __init__(self, range4: IPv4Network, range6: IPv6Network) -> None:
        self.range4, self.range6 = range4, range6
        self._first4, self._first6 = int(range4.network_address), int(range6.network_address)
        self._free = deque(range(_RESERVED, range4.num_addresses - 1))

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    def own4(self, place: int) -> IPv4Address:
        """One of the addresses, by its place; those below 16 are the router's."""
        return IPv4Address(self.packed4(place))

    def own6(self, place: int) -> IPv6Address:
        """Its counterpart."""
        return IPv6Address(self.packed6(place))

    def packed4(self, place: int) -> bytes:
        """As `own4`, and at once: ipaddress takes its time."""
        return (self._first4 + place).to_bytes(4, "big")

    def packed6(self, place: int) -> bytes:
        """As `own6`."""
        return (self._first6 + place).to_bytes(16, "big")

    def take(self) -> int:
        """The place of an address that is nobody's.

        Raises:
            SetupError: There is none.
        """
        if not self._free:
            text = f"all addresses of {self.range4} are in use: {self.range4.num_addresses - _RESERVED - 1} sandboxes"
            raise SetupError("network", errno.EADDRNOTAVAIL, text)
        return self._free.popleft()

    def give_back(self, place: int) -> None:
        """It is nobody's any more."""
        self._free.append(place)


def private6() -> IPv6Network:
    """A range of 2**64 addresses with random numbers in it, so that nobody else has it (RFC 4193)."""
    return IPv6Network((b"\xfd" + secrets.token_bytes(7) + bytes(8), 64))


def candidates(used: Sequence[IPv4Network]) -> Iterator[tuple[int, IPv4Network]]:
    """Ranges that overlap nothing, each with its number; those of one pool from a random one on."""
    number = 0
    for pool in _POOLS:
        count = 1 << (_PREFIX - pool.prefixlen)
        start = secrets.randbelow(count)
        for step in range(count):
            position = (start + step) % count
            one = IPv4Network((int(pool.network_address) + (position << (32 - _PREFIX)), _PREFIX))
            if not any(one.overlaps(other) for other in used):
                yield number + position, one
        number += count


def choose_range(used: Sequence[IPv4Network], register: int | None) -> IPv4Network:
    """A range that overlaps nothing of the host's, and that no other supervisor has.

    Args:
        used: The host's routes and addresses.
        register: A descriptor of the register; the lock lasts as long as it is open. None: ask nobody.

    Raises:
        UnsupportedHostError: There is none.
    """
    for number, one in candidates(used):
        if register is None or _lock(register, number):
            return one
    raise UnsupportedHostError(
        "no range of private addresses is left for sandboxes: the host has routes into each of "
        + ", ".join(map(str, _POOLS)),
        ("network",),
        ("narrow the host's routes to private networks: ip -4 route",),
    )


def _lock(register: int, byte: int) -> bool:
    """Take one byte for this open file, not for this process (fcntl(2), F_OFD_SETLK)."""
    record = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(register, fcntl.F_OFD_SETLK, record)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise SetupError("network", exc.errno or errno.EIO, f"cannot lock: {exc.strerror}", REGISTER) from exc
    return True


def open_register() -> int:
    """Open the register of ranges.

    Raises:
        SetupError: Its directory is somebody else's, or it cannot be made.
    """
    directory = os.path.dirname(REGISTER)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise SetupError("network", errno.EPERM, "must be a directory that only root can write", directory)
        return os.open(REGISTER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except SetupError:
        raise
    except OSError as exc:
        raise SetupError("network", exc.errno or errno.EIO, exc.strerror or "", REGISTER) from exc


class HostAddresses:
    """The addresses of the network namespace that this process is in, and whether they changed.

    Raises:
        SetupError: The kernel does not tell.
    """

    def __init__(self) -> None:
        try:
            self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._news.bind((0, 0x10 | 0x100))  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
            self._questions = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
        except OSError as exc:
            raise SetupError("network", exc.errno or errno.EIO, "cannot ask for the host's addresses") from exc
        self.netlink = Netlink(self._questions)

    def have_changed(self) -> bool:
        """Whether there was any news since the last call."""
        news = False
        while True:
            try:
                self._news.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return news
            except OSError:
                pass  # ENOBUFS: there was more than the buffer holds
            news = True

    async def wait_for_news(self) -> None:
        """Until there is any."""
        await trio.lowlevel.wait_readable(self._news)

    def read(self) -> dict[int, Ranges]:
        """By the version of IP: all addresses, and what else the host takes for its own (`ip route add local`)."""
        from nsbox._network import messages  # noqa: PLC0415  # pyroute2 takes 0.1 s to be imported

        found: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for answer in self.netlink.ask(messages.ask_addresses()):
            packed = messages.address_in(answer)
            if packed:
                found[4 if len(packed) == 4 else 6].append((int.from_bytes(packed, "big"),) * 2)
        for answer in self.netlink.ask(messages.ask_routes(socket.AF_UNSPEC)):
            route = messages.route_in(answer)
            if route is not None and route.own:
                found[route.target.version].append((int(route.target[0]), int(route.target[-1])))
        return {version: joined(ranges) for version, ranges in found.items()}

    def close(self) -> None:
        """Ask no more."""
        self._news.close()
        self._questions.close()
