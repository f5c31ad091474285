"""What tests of the router have in common: stories of one in a little internet of its own, and what happens there."""

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from forked import in_child
from routed import Internet, Namespace, internet

from nsbox._config import NetworkAllocation
from nsbox._network import addresses
from nsbox._network.policy import Policy
from nsbox._network.router import Port, Router

T = TypeVar("T")
Story = Callable[[Internet, Router], Awaitable[T]]

WAYS = pytest.mark.parametrize("way", ["root", "rootless"])
"""As root through the host's own namespace, and through pasta."""
ALLOWED = Policy.of(NetworkAllocation(access="egress"))
OPEN = Policy(blocks_host=False)
SHORT = 0.3
"""Seconds to wait for what is not to come."""


def tell(story: Story[T], way: str, register: Path, *, forwarding: bool = True, ipv6: bool = True) -> T:
    """What a story tells, of a router in a little internet of its own."""

    async def told(net: Internet) -> T:
        router = await Router.open(net.open_router(), as_root=way == "root")
        try:
            with trio.fail_after(60):
                return await story(net, router)
        finally:
            router.close()

    return in_internet(told, register, forwarding=forwarding, ipv6=ipv6)


def in_internet(
    story: Callable[[Internet], Awaitable[T]], register: Path, *, forwarding: bool = True, ipv6: bool = True
) -> T:
    """What a story tells that makes its routers itself."""

    def child() -> T:
        addresses.REGISTER = str(register / "register" / "address-ranges")
        with internet(forwarding=forwarding, ipv6=ipv6) as net:
            net.serve(80, net.world)
            net.serve(81, net.world)
            return trio.run(story, net)

    return in_child(child, seconds=100)


async def attach(net: Internet, router: Router, policy: Policy = ALLOWED) -> tuple[Port, Namespace]:
    """A sandbox' port, and its namespace."""
    door, cell = net.open_cell()
    try:
        return await router.attach(door, policy), cell
    finally:
        door.close()


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for it."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # the kernel sends no event
            await trio.sleep(0.02)


def send_raw(cell: Namespace, source: str, target: str, port: int) -> None:
    """raw(7), IP_HDRINCL; a checksum of 0 is none, RFC 768."""
    body = struct.pack(">HHHH", 5555, port, 11, 0) + b"raw"
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, socket.IPPROTO_UDP, 0)
    with cell.open_socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW) as sock:
        sock.sendto(header + socket.inet_aton(source) + socket.inet_aton(target) + body, (target, 0))


def sends_to_resolver(cell: Namespace, source: str) -> None:
    """Something that is no question."""
    send_raw(cell, source, "169.254.1.1", 53)


def hears(sock: socket.socket) -> str | None:
    """Who sent something; None: nobody did."""
    sock.settimeout(SHORT)
    try:
        return str(sock.recvfrom(100)[1][0])
    except TimeoutError:
        return None


def kill_and_reap(pid: int) -> None:
    """A child of this process."""
    os.kill(pid, 9)
    os.waitpid(pid, 0)
