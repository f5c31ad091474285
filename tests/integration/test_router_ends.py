"""The router against the kernel, without a launcher: what is left of it, and what it says of hosts that lack things."""

import contextlib
import errno
import functools
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest
import trio
from routed import WORLD4, WORLD6, Internet, Namespace, echoes, in_thread, lose_right_over_network
from routers import ALLOWED, OPEN, SHORT, WAYS, attach, in_internet, kill_and_reap, tell, until

from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network import addresses, messages, nftables, packets, pasta
from nsbox._network.doors import CellDoor
from nsbox._network.netlink import DUMP, Netlink, attribute, attributes, message
from nsbox._network.policy import Policy
from nsbox._network.router import Port, Router

pytestmark = [pytest.mark.needs_user_namespace, pytest.mark.needs_egress, pytest.mark.needs_tool("pasta")]


# ---------------------------------------------------------------- what is left


@WAYS
def test_a_detached_port_leaves_nothing(way: str, tmp_path: Path) -> None:
    """No chain, rule, set, element, counter or route; whatever it had. It is out of reach at once."""

    async def story(net: Internet, router: Router) -> None:
        await router._ground.find_way_out()
        before = size(router)
        policy = Policy(connections_limit=3, allowed_ports=(80,), by_name=True, blocks_host=False, bandwidth_mbps=10)
        port, cell = await attach(net, router, policy)
        same, _ = await attach(net, router, policy)
        await router.admit(port, [(WORLD4, 60.0)])
        for number in (1, 2):
            await router.join(number, port)
        await router.join(1, same)
        await router.cut(2, port)
        await router.suspend(port)
        await router.resume(port)
        living = cell.connect(WORLD4, 80)
        await router.suspend(same)
        assert size(router) != before
        await router.detach(port)
        await router.detach(port)
        assert not echoes_soon(living)
        assert cell.why_not(WORLD4, 80) == errno.ECONNREFUSED
        assert router.port_of(port.address4) is None
        await router.detach(same)
        assert size(router) == before
        with pytest.raises(SetupError, match="not connected"):
            await router.change(port, Policy())

    tell(story, way, tmp_path)


def size(router: Router) -> dict[str, int]:
    """How many chains, rules, sets, counters and routes to sandboxes it has, and elements that all of them share."""
    found = {}
    for name, kind in (("chains", 4), ("rules", 7), ("sets", 10), ("counters", 19)):  # NFT_MSG_GET*
        found[name] = len(router._filters.ask(message(10 << 8 | kind, DUMP, "list", struct.pack(">BBH", 1, 0, 0))))
    for name in ("cells", "peers", "suspended", "own4", "own6", "flows"):
        where = attribute(1, b"nsbox\0") + attribute(2, name.encode(), b"\0")
        ask = message(10 << 8 | 13, DUMP, "list", struct.pack(">BBH", 1, 0, 0), where)
        answers = [attributes(answer[4:]).get(3, b"") for answer in router._filters.ask(ask)]
        found[name] = sum(4 not in one for answer in answers for one in elements(answer))  # NFTA_SET_ELEM_TIMEOUT
    return found | {"ports": len(router._ports), "free": len(router._ground.pool)}


def elements(data: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each element of a set."""
    while data:
        length = int.from_bytes(data[:2], sys.byteorder)
        yield attributes(data[4:length])
        data = data[length + 3 & ~3 :]


def echoes_soon(connection: socket.socket) -> bool:
    """Whether it does before long."""
    connection.settimeout(SHORT)
    return echoes(connection)


@WAYS
@pytest.mark.slow
def test_two_hundred_sandboxes_leave_nothing(way: str, tmp_path: Path) -> None:
    """One after the other: the veth pairs go with the namespaces of the sandboxes."""

    async def story(net: Internet, router: Router) -> None:
        await router._ground.find_way_out()
        before, interfaces = size(router), Namespace(router._ground.door.namespace).interfaces()
        for number in range(200):
            port, cell = await attach(net, router, Policy(by_name=number % 2 == 0, connections_limit=1 + number % 3))
            if number % 50 == 0:
                await router.admit(port, [(WORLD4, 60.0)])
                assert cell.speaks(WORLD4, 80)
            await router.detach(port)
            os.close(net.cells.pop().fd)
        assert size(router) == before
        await until(lambda: Namespace(router._ground.door.namespace).interfaces() == interfaces, seconds=50)

    tell(story, way, tmp_path)


def test_sandboxes_are_attached_and_detached_at_the_same_time(tmp_path: Path) -> None:
    """Each has an address and a way of its own."""

    async def story(net: Internet, router: Router) -> None:
        before = size(router)
        doors = [net.open_cell() for _ in range(24)]
        made: list[Port] = []

        async def live(door: CellDoor, cell: Namespace, policy: Policy) -> None:
            port = await router.attach(door, policy)
            door.close()
            assert await trio.to_thread.run_sync(cell.speaks, WORLD4, 80)
            made.append(port)
            await router.change(port, ALLOWED)
            assert await trio.to_thread.run_sync(cell.speaks, WORLD4, 80)
            await router.detach(port)

        async with trio.open_nursery() as nursery:
            for number, (door, cell) in enumerate(doors):
                nursery.start_soon(live, door, cell, Policy(connections_limit=number + 1))
        assert len({port.address4 for port in made}) == len({port.number for port in made}) == 24
        assert size(router) == before

    tell(story, "root", tmp_path)


def test_when_all_addresses_are_in_use_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one that is given back is good again."""
    monkeypatch.setattr(addresses, "_PREFIX", 27)

    async def story(net: Internet, router: Router) -> None:
        found = [await attach(net, router) for _ in range(15)]
        with pytest.raises(SetupError, match=r"all addresses of .*/27 are in use: 15 sandboxes") as info:
            await attach(net, router)
        assert info.value.errno == errno.EADDRNOTAVAIL
        await router.detach(found[3][0])
        port, cell = await attach(net, router)
        assert port.address4 == found[3][0].address4
        assert cell.speaks(WORLD4, 80)

    tell(story, "root", tmp_path)


@pytest.mark.parametrize("where", ["name", "index", "late"])
def test_a_collision_is_told_and_half_an_attachment_is_undone(where: str, tmp_path: Path) -> None:
    """An interface of the same name in the sandbox, or number in the router; a route there that is refused."""

    async def story(net: Internet, router: Router) -> None:
        await attach(net, router)
        before = size(router)
        inner = Namespace(router._ground.door.namespace)
        door, cell = net.open_cell()
        with cell.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            there = Netlink(sock)
            if where == "index":
                with inner.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as routes:
                    ends = messages.End("mine", 1002, messages.NEAR), messages.End("other", 5, messages.FAR)
                    Netlink(routes).do(messages.pair(*ends, inner.fd, 1500))
            elif where == "name":
                ends = messages.End("eth0", 5, messages.NEAR), messages.End("other", 6, messages.FAR)
                there.do(messages.pair(*ends, cell.fd, 1500))
            else:
                ends = messages.End("mine", 5, messages.NEAR), messages.End("other", 6, messages.FAR)
                there.do(messages.pair(*ends, cell.fd, 1500), messages.up(5), messages.up(6))
                there.do(messages.route(5, IPv4Network("0.0.0.0/0"), ip_address("10.0.0.1")))
        interfaces = inner.interfaces()
        with pytest.raises(SetupError) as info:
            await router.attach(door, Policy(blocks_host=False))
        door.close()
        assert info.value.stage == "network"
        assert info.value.errno in (errno.EEXIST, errno.EBUSY)
        assert size(router) == before
        assert inner.interfaces() == interfaces
        _, cell = await attach(net, router)
        assert cell.speaks(WORLD4, 80)

    tell(story, "root", tmp_path)


@WAYS
def test_a_closed_router_leaves_nothing_on_the_host(way: str, tmp_path: Path) -> None:
    """No interface, route, table, process or lock; another one may have the same range."""

    async def story(net: Internet) -> None:
        before = routes_of_host(), tables_of_host(), len(os.listdir("/proc/self/fd")), socket.if_nameindex()
        routers = [await Router.open(net.open_router(), as_root=way == "root") for _ in range(2)]
        for router in routers:
            await attach(net, router)
        assert len({router._ground.pool.range4 for router in routers}) == 2
        if way == "root":
            assert routes_of_host() > before[0]
            assert tables_of_host() == before[1] + 2
        for router in routers:
            router.close()
            router.close()
        await until(lambda: socket.if_nameindex() == before[3])
        for cell in net.cells:
            os.close(cell.fd)
        after = routes_of_host(), tables_of_host(), len(os.listdir("/proc/self/fd")), socket.if_nameindex()
        assert after == before
        assert not has_children()

    in_internet(story, tmp_path)


def routes_of_host() -> int:
    """How many there are."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        return len(Netlink(sock).ask(messages.ask_routes(socket.AF_UNSPEC)))


def tables_of_host() -> int:
    """How many tables of rules the host has."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        return len(Netlink(sock).ask(message(10 << 8 | 1, DUMP, "list", struct.pack(">BBH", 0, 0, 0))))


def has_children() -> bool:
    """Whether this process has any, zombies too."""
    return bool(Path(f"/proc/self/task/{os.getpid()}/children").read_text())


def test_pasta_dies_with_who_started_it(tmp_path: Path) -> None:
    """Also where that one is killed. A router whose pasta was killed starts another one."""

    async def story(net: Internet) -> None:
        ours, theirs = os.pipe()
        pid = in_thread(lambda: _open_in_child(net, theirs))  # a thread in which trio does not run
        os.close(theirs)
        child = int(os.read(ours, 100))
        assert lives(child)
        kill_and_reap(pid)
        await until(lambda: not lives(child))
        router = await Router.open(net.open_router(), as_root=False)
        _, before = await attach(net, router)
        assert isinstance(router._ground.way_out, pasta.PastaUplink)
        kill_and_reap(router._ground.way_out._process.pid)
        _, cell = await attach(net, router)
        for one in (before, cell):
            assert one.speaks(WORLD4, 80)
            assert one.speaks(WORLD6, 80)
        router.close()

    in_internet(story, tmp_path)


def _open_in_child(net: Internet, pipe: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)  # the parent's trio has set one
            trio.run(_open_and_wait, net, pipe)
        finally:
            os._exit(1)
    return pid


async def _open_and_wait(net: Internet, pipe: int) -> None:
    router = await Router.open(net.open_router(), as_root=False)
    await attach(net, router)
    assert isinstance(router._ground.way_out, pasta.PastaUplink)
    os.write(pipe, str(router._ground.way_out._process.pid).encode())
    await trio.sleep_forever()


def lives(pid: int) -> bool:
    """Whether there is such a process, which is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_the_router_itself_says_nothing_to_pasta(tmp_path: Path) -> None:
    """What it would say as `::` (RFC 3590), pasta would take for the address of all. The control: its end of a pair."""

    async def story(net: Internet, router: Router) -> None:
        await attach(net, router)
        inner = Namespace(router._ground.door.namespace)
        every_kind = socket.htons(3)  # ETH_P_ALL
        with (
            inner.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, every_kind) as seen,
            inner.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as member,
        ):
            for name in (packets.UPLINK, "v00000001"):
                index = inner.call(functools.partial(socket.if_nametoindex, name))
                group = ip_address(f"ff02::db8:{index}").packed
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("=I", index))
            sent = set()
            with contextlib.suppress(TimeoutError):  # all reports are repeated within a second, RFC 3810, 9.11
                seen.settimeout(3)
                while True:
                    _, (name, _, kind, *_) = seen.recvfrom(1)
                    if kind == socket.PACKET_OUTGOING:
                        sent.add(name)
            assert packets.UPLINK not in sent
            assert "v00000001" in sent

    tell(story, "rootless", tmp_path)


# ---------------------------------------------------------------- what the host lacks


def test_a_host_that_does_not_forward_is_told_how(tmp_path: Path) -> None:
    """Nothing is changed, and nothing left."""

    async def story(net: Internet, router: Router) -> UnsupportedHostError:
        door, _ = net.open_cell()
        with pytest.raises(UnsupportedHostError) as info:
            await router.attach(door, ALLOWED)
        assert not forwards()
        await router.attach(door, Policy(access=False))
        door.close()
        return info.value

    error = tell(story, "root", tmp_path, forwarding=False)
    assert error.remedies == ("sysctl -w net.ipv4.ip_forward=1",)


def forwards() -> bool:
    """Whether the host does."""
    return Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


def test_root_without_the_right_over_the_network_is_told(tmp_path: Path) -> None:
    """As in most containers. Nothing is left; private networks, which take no right there, can be had."""

    async def story(net: Internet) -> UnsupportedHostError:
        door, (inner, other) = net.open_router(), [net.open_cell()[0] for _ in range(2)]
        lose_right_over_network()
        router = await Router.open(door, as_root=True)
        before = size(router), socket.if_nameindex()
        with pytest.raises(UnsupportedHostError) as info:
            await router.attach(inner, ALLOWED)
        assert (size(router), socket.if_nameindex()) == before
        await router.attach(other, Policy(access=False))
        router.close()
        return info.value

    assert "CAP_NET_ADMIN" in in_internet(story, tmp_path).remedies[0]


def test_a_table_of_the_hosts_that_drops_what_is_forwarded_is_named(tmp_path: Path) -> None:
    """It is not changed: nothing gets through it until the host's administrator lets it."""

    async def story(net: Internet) -> str:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
            rules, table = Netlink(sock), nftables.Table("firewall")
            rules.commit(table.make(owned=False), table.base_chain("forward", 2, 0, drop=True))
            router = await Router.open(net.open_router(), as_root=True)
            _, cell = await attach(net, router)
            assert cell.why_not(WORLD4, 80, SHORT) == "timeout"
            accept = nftables.verdict(nftables.Verdict.ACCEPT)
            for meta in (nftables.Meta.IIFNAME, nftables.Meta.OIFNAME):
                rules.commit(table.rule("forward", nftables.meta(meta), nftables.equal(b"nsbox"), accept))
            assert cell.speaks(WORLD4, 80)
        router.close()
        return router.description

    said = in_internet(story, tmp_path)
    assert said.endswith("; the host's table firewall drops what it does not accept")


def test_without_pasta_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nsbox does not run as root."""
    monkeypatch.setenv("PATH", str(tmp_path))

    async def story(net: Internet, router: Router) -> UnsupportedHostError:
        with pytest.raises(UnsupportedHostError) as info:
            await attach(net, router)
        return info.value

    assert tell(story, "rootless", tmp_path).remedies == ("apt-get install passt",)


def test_an_address_that_the_host_is_given_later_is_not_reached_either(tmp_path: Path) -> None:
    """From the next attachment on, by all sandboxes that may not reach the host; it is, by those that may."""

    async def story(net: Internet, router: Router) -> None:
        _, cell = await attach(net, router, Policy())
        _, allowed = await attach(net, router, OPEN)
        net.serve(99)
        later = "11.0.7.7"
        net.host.do(messages.address(50, ip_address(later)))
        _, new = await attach(net, router, Policy())
        assert allowed.speaks(later, 99)
        assert cell.why_not(later, 99) == new.why_not(later, 99) == errno.ECONNREFUSED
        assert cell.speaks(WORLD4, 80)

    tell(story, "root", tmp_path)
