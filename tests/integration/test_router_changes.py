"""The router against the kernel, without a launcher: what becomes of connections when sandboxes' rules change."""

import errno
import socket
from pathlib import Path

import pytest
from routed import OTHER4, WORLD4, WORLD6, Internet, echoes, heard
from routers import ALLOWED, SHORT, WAYS, attach, hears, sends_to_resolver, tell, until

from nsbox._network.policy import Policy
from nsbox._network.router import Router

pytestmark = [pytest.mark.needs_user_namespace, pytest.mark.needs_egress, pytest.mark.needs_tool("pasta")]


# ---------------------------------------------------------------- changes


@WAYS
def test_a_suspended_sandbox_hears_nothing_and_its_connections_go_on_afterwards(way: str, tmp_path: Path) -> None:
    """In both directions, silently: nobody is told that a connection ended."""

    async def story(net: Internet, router: Router) -> None:
        port, cell = await attach(net, router)
        connection = cell.connect(WORLD4, 80)
        assert echoes(connection)
        await router.suspend(port)
        await router.suspend(port)
        connection.settimeout(SHORT)
        assert not echoes(connection, b"later")
        assert cell.why_not(WORLD4, 80, SHORT) == "timeout"
        sends_to_resolver(cell, port.address4)
        assert hears(router.dns_udp) is None
        await router.resume(port)
        connection.settimeout(10)
        assert heard(connection, 5) == b"later"
        await until(lambda: cell.speaks(WORLD4, 80))  # pasta has refused the first one once; why is not known

    tell(story, way, tmp_path)


@WAYS
def test_a_narrower_policy_ends_what_it_forbids_and_nothing_else(way: str, tmp_path: Path) -> None:
    """Connections to networks and ports that are blocked now; also those that the sandbox only listens to."""

    async def story(net: Internet, router: Router) -> None:
        port, cell = await attach(net, router, Policy())
        kept, blocked, closed = cell.connect(WORLD4, 80), cell.connect(OTHER4, 80), cell.connect(WORLD4, 81)
        with net.world.open_socket() as server:
            server.bind((OTHER4, 82))
            server.listen()
            listening = cell.connect(OTHER4, 82)
            pushing, _ = server.accept()
        pushing.sendall(b"one")
        assert listening.recv(10) == b"one"
        await router.change(port, Policy(allowed_ports=(80, 82), blocked_networks=("11.0.1.0/24",)))
        pushing.sendall(b"two")
        listening.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            listening.recv(10)
        for one in (blocked, closed, listening):
            assert is_reset(one)
        assert echoes(kept)
        assert cell.speaks(WORLD4, 80)
        await router.change(port, Policy(bandwidth_mbps=100))
        assert echoes(kept)
        assert cell.speaks(OTHER4, 81)
        await router.change(port, Policy(access=False))
        assert is_reset(kept)

    tell(story, way, tmp_path)


def is_reset(connection: socket.socket) -> bool:
    """Whether it is ended from outside when something is sent."""
    try:
        connection.sendall(b"hello")
        connection.recv(10)
    except ConnectionResetError:
        return True
    return False


@WAYS
def test_with_allowed_names_only_what_was_admitted_is_reached_for_as_long_as_it_is_good(
    way: str, tmp_path: Path
) -> None:
    """Connections that live outlast it, a longer time replaces a shorter one, and a shorter one no longer one."""

    async def story(net: Internet, router: Router) -> None:
        port, cell = await attach(net, router, Policy(by_name=True))
        _, other = await attach(net, router, Policy(by_name=True))
        assert cell.why_not(WORLD4, 80) == errno.ECONNREFUSED
        assert cell.why_not(WORLD6, 80) == errno.ECONNREFUSED
        await router.admit(port, [(WORLD4, 3.0), (WORLD6, 60.0), (OTHER4, 1.0)])
        living = cell.connect(WORLD4, 80)
        assert other.why_not(WORLD4, 80) == errno.ECONNREFUSED
        assert cell.speaks(WORLD6, 80)
        await router.admit(port, [(OTHER4, 60.0), (WORLD6, 1.0)])
        await until(lambda: not cell.speaks(WORLD4, 80))
        assert echoes(living)
        assert cell.speaks(OTHER4, 80)
        assert cell.speaks(WORLD6, 80)
        await router.change(port, Policy(by_name=True, bandwidth_mbps=100))
        assert cell.speaks(OTHER4, 80)
        await router.change(port, Policy(by_name=True), forget_names=True)
        assert cell.why_not(OTHER4, 80) == errno.ECONNREFUSED
        assert is_reset(living)
        await router.admit(port, [(OTHER4, 60.0)])
        assert cell.speaks(OTHER4, 80)
        await router.change(port, Policy())
        await router.admit(port, [(OTHER4, 60.0)])
        assert cell.speaks(WORLD4, 80)

    tell(story, way, tmp_path)


def test_names_have_room_for_so_many_addresses(tmp_path: Path) -> None:
    """More than that make those unknown that would have ended first."""

    async def story(net: Internet, router: Router) -> None:
        port, cell = await attach(net, router, Policy(by_name=True))
        await router.admit(port, [(WORLD4, 30.0), (OTHER4, 1000.0)])
        await router.admit(port, [(f"12.0.{number >> 8}.{number & 255}", 60.0) for number in range(4095)])
        assert cell.why_not(WORLD4, 80) == errno.ECONNREFUSED
        assert cell.speaks(OTHER4, 80)

    tell(story, "root", tmp_path)


# ---------------------------------------------------------------- segments


@WAYS
def test_members_of_a_segment_reach_each_other_until_they_are_parted(way: str, tmp_path: Path) -> None:
    """Others do not. A cut is silent and ends no connection, and who leaves is a stranger."""

    async def story(net: Internet, router: Router) -> None:
        policies = (ALLOWED, Policy(access=False), ALLOWED)
        (one, one_cell), (two, two_cell), (three, three_cell) = [await attach(net, router, each) for each in policies]
        net.serve(80, two_cell)
        assert two.address6 is not None
        await router.join(7, one)
        assert one_cell.why_not(two.address4, 80) == errno.ECONNREFUSED
        await router.join(7, two)
        await router.join(7, two)
        for address in (two.address4, two.address6):
            assert one_cell.speaks(address, 80)
            assert three_cell.why_not(address, 80) == errno.ECONNREFUSED
        living = one_cell.connect(two.address4, 80)
        await router.cut(7, two)
        living.settimeout(SHORT)
        assert not echoes(living, b"later")
        assert one_cell.why_not(two.address4, 80, SHORT) == "timeout"
        await router.mend(7, two)
        living.settimeout(10)
        assert heard(living, 5) == b"later"
        await router.join(8, one)
        await router.join(8, two)
        await router.cut(8, two)
        assert one_cell.speaks(two.address4, 80)  # they are linked in the other one
        await router.cut(7, one)
        await router.mend(8, two)
        assert one_cell.speaks(two.address4, 80)
        await router.leave(8, two)
        assert one_cell.why_not(two.address4, 80, SHORT) == "timeout"
        await router.leave(7, one)
        assert one_cell.why_not(two.address4, 80) == errno.ECONNREFUSED
        await router.detach(two)
        await router.detach(one)
        await router.detach(three)
        assert router._wiring.segments.members == {}

    tell(story, way, tmp_path)
