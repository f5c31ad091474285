"""The connections that the kernel knows of in the router (nf_conntrack), by the sandbox that they are marked for."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from nsbox._errors import SetupError
from nsbox._network.netlink import DUMP, Netlink, attribute, attributes, message

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_ORIGINAL, _PROTOCOL_INFO, _MARK, _ID, _MARK_MASK = 1, 4, 8, 12, 21  # CTA_*
_NESTED = 0x8000
_TIME_WAIT, _CLOSE = 7, 8  # TCP_CONNTRACK_*


@dataclass(frozen=True, slots=True)
class Connection:
    """One of them.

    Attributes:
        protocol: IPPROTO_*.
        target: Packed address that it was made to.
        port: The port there; 0 where the protocol has none.
        is_open: Whether it is not over yet; the kernel keeps one of TCP for a while then.
        key: What the kernel knows it by.
    """

    protocol: int
    target: bytes
    port: int
    is_open: bool
    key: bytes

    @property
    def has_port(self) -> bool:
        """Whether its protocol has ports that a policy can name."""
        return self.protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)


def connections_of(filters: Netlink, number: int) -> list[Connection]:
    """All that are marked with a number.

    Raises:
        SetupError: The kernel does not tell.
    """
    wanted = attribute(_MARK, struct.pack(">I", number)) + attribute(_MARK_MASK, b"\xff" * 4)
    return [_read(answer) for answer in filters.ask(message(_GET, DUMP, "list connections", bytes(4), wanted))]


def _read(answer: bytes) -> Connection:
    found = attributes(answer[4:])
    original = attributes(found[_ORIGINAL])
    address, transport = attributes(original[1]), attributes(original[2])
    state = attributes(attributes(found.get(_PROTOCOL_INFO, b"")).get(1, b"")).get(1, b"\0")[0]  # of TCP
    key = answer[:4] + attribute(_NESTED | _ORIGINAL, found[_ORIGINAL]) + attribute(_ID, found[_ID])
    port = int.from_bytes(transport.get(3, b""), "big")
    return Connection(transport[1][0], address.get(2) or address[4], port, state not in (_TIME_WAIT, _CLOSE), key)


def forget_all(filters: Netlink, number: int) -> None:
    """Let the kernel forget all that are marked with a number, at once.

    Raises:
        SetupError: The kernel refused.
    """
    wanted = attribute(_MARK, struct.pack(">I", number)) + attribute(_MARK_MASK, b"\xff" * 4)
    filters.do(message(_DELETE, 0, "forget connections", bytes(4), wanted))


def forget_from(filters: Netlink, sources: Collection[bytes]) -> None:
    """Let the kernel forget all that were made from these packed addresses.

    They are picked here: a filter by address (CTA_FILTER) takes all others for those of IPv6 (Linux 6.18).

    Raises:
        SetupError: The kernel does not tell, or refused.
    """
    for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        if any(len(one) == length for one in sources):
            answers = filters.ask(message(_GET, DUMP, "list connections", struct.pack("B3x", family)))
            # Behind the headers of CTA_TUPLE_ORIG, CTA_TUPLE_IP and CTA_IP_V?_SRC, which come first
            forget(filters, [_read(one) for one in answers if one[16 : 16 + length] in sources], lambda _: True)


def forget(filters: Netlink, connections: Iterable[Connection], unwanted: Callable[[Connection], bool]) -> None:
    """Let the kernel forget those that are unwanted: nothing that belongs to them is accepted any more.

    Raises:
        SetupError: The kernel refused.
    """
    for one in connections:
        if unwanted(one):
            try:
                filters.do(message(_DELETE, 0, "forget a connection", one.key))
            except SetupError as exc:
                if exc.errno != errno.ENOENT:  # it ended by itself
                    raise
