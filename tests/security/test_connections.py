"""N: connections that their two ends make seem to be over, ports of the host's, and addresses that are nobody's."""

import contextlib
import errno
import functools
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from routed import HOST4, OTHER4, WORLD4, WORLD6, Internet, Namespace, echoes
from routers import OPEN, SHORT, WAYS, attach, tell, until

from nsbox._network import messages
from nsbox._network.netlink import Netlink
from nsbox._network.policy import Policy
from nsbox._network.router import Router

pytestmark = [pytest.mark.needs_user_namespace, pytest.mark.needs_egress, pytest.mark.needs_tool("pasta")]

ABORT = struct.pack("ii", 1, 0)
"""For SO_LINGER: close(2) sends a reset."""
IP_MINTTL = 21
SOURCE_ROUTE = bytes([131, 7, 4]) + socket.inet_aton(WORLD4) + b"\0"
LIVE_SHORTLY: dict[str, tuple[str, int, int, int | bytes]] = {
    "hops": (WORLD4, socket.IPPROTO_IP, socket.IP_TTL, 1),
    "hops to the host": (WORLD4, socket.IPPROTO_IP, socket.IP_TTL, 2),
    "hops, IPv6": (WORLD6, socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1),
    "source route": (WORLD4, socket.IPPROTO_IP, socket.IP_OPTIONS, SOURCE_ROUTE),
}
"""How a program has its packets die in the router, or with the next machine: an address, and an option."""


@WAYS
@pytest.mark.parametrize("how", LIVE_SHORTLY)
def test_a_reset_that_does_not_get_there_ends_no_connection(way: str, how: str, tmp_path: Path) -> None:
    """N29: it would be counted no more, while the host or pasta had it still."""
    address, level, option, value = LIVE_SHORTLY[how]

    async def story(net: Internet, router: Router) -> None:
        _, cell = await attach(net, router, Policy(connections_limit=4))
        refused = 0
        for _ in range(100):
            try:
                with cell.connect(address, 80) as one:
                    assert echoes(one)
                    one.setsockopt(level, option, value)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            except ConnectionRefusedError:
                refused += 1
        assert refused == 96
        assert established(net.world, 80) <= 4

    tell(story, way, tmp_path)


def established(where: Namespace, port: int) -> int:
    """How many connections servers have there (proc_net_tcp(5))."""
    text = where.call(lambda: [Path("/proc/thread-self/net", name).read_text() for name in ("tcp", "tcp6")])
    lines = [line.split() for table in text for line in table.splitlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


@contextlib.contextmanager
def resetting(net: Internet, port: int) -> Iterator[None]:
    """A server of the world's that resets who comes from a port for the first time, and then echoes."""
    listener = net.world.open_socket()
    listener.settimeout(None)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((WORLD4, port))
    listener.listen(64)

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is shut down
            while True:
                one, _ = listener.accept()
                asked = one.recv(5)
                if asked == b"reset":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    one.close()
                else:
                    kept.append(one)
                    one.sendall(asked)

    kept: list[socket.socket] = []
    threading.Thread(target=serve, daemon=True).start()
    yield
    listener.shutdown(socket.SHUT_RDWR)


def from_port(cell: Namespace, port: int) -> socket.socket:
    """A socket with a port of its own choice."""
    one = cell.open_socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", port))
    return one


def is_reset(cell: Namespace, port: int, target: int) -> bool:
    """Have a connection that the server resets; False: it was refused, as the one before is still counted."""
    with from_port(cell, port) as one:
        try:
            one.connect((WORLD4, target))
        except ConnectionRefusedError:
            return False
        one.sendall(b"reset")
        with pytest.raises(ConnectionResetError):
            one.recv(5)
    return True


@WAYS
def test_a_connection_that_the_server_reset_does_not_begin_anew_uncounted(way: str, tmp_path: Path) -> None:
    """N29: from the same port, for as long as the kernel knows the old one. Then it is a new one: up to the limit."""

    async def story(net: Internet, router: Router) -> None:
        _, cell = await attach(net, router, Policy(connections_limit=4))
        with resetting(net, 83):
            ports = range(40_000, 40_012)
            for port in ports:
                await until(functools.partial(is_reset, cell, port, 83))
            again = [from_port(cell, port) for port in ports]
            for one in again:
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect((WORLD4, 83))

            def are_decided() -> bool:
                assert established(net.world, 83) <= 4
                return sum(map(is_refused, again)) == 8

            await until(are_decided, seconds=40)
            assert established(net.world, 83) == 4
            for one in again:
                one.close()

    tell(story, way, tmp_path)


def is_refused(one: socket.socket) -> bool:
    """Whether connect(2) has failed so; what it tells once is kept."""
    return one.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 1) == b"\7"  # TCP_CLOSE


@WAYS
def test_a_name_that_is_good_no_more_is_not_reached_from_a_port_that_was_reset(way: str, tmp_path: Path) -> None:
    """N22: the kernel lets who begins anew pass, and learns of it from the answer."""

    async def story(net: Internet, router: Router) -> None:
        port, cell = await attach(net, router, Policy(by_name=True))
        await router.admit(port, [(WORLD4, 1.0)])
        with resetting(net, 84):
            assert is_reset(cell, 40_000, 84)
            await until(lambda: cell.why_not(WORLD4, 80) == errno.ECONNREFUSED)
            with from_port(cell, 40_000) as one:
                one.settimeout(SHORT)
                with pytest.raises((TimeoutError, ConnectionRefusedError)):
                    one.connect((WORLD4, 84))

    tell(story, way, tmp_path)


def test_a_connection_is_over_after_a_reset_that_the_program_does_not_take(tmp_path: Path) -> None:
    """N29: it is counted no more, so that it does not live on. The control: the server's own end does."""

    async def story(net: Internet, router: Router) -> None:
        _, cell = await attach(net, router, Policy(connections_limit=1))
        one = cell.connect(WORLD4, 80)
        one.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 40)
        with net.world.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as seen:
            assert echoes(one)
            seen.settimeout(SHORT)
            with contextlib.suppress(TimeoutError):
                while True:
                    packet = seen.recv(100)
                    if packet[9] == socket.IPPROTO_TCP and packet[22:24] == struct.pack(">H", 80):
                        source, _, _, waits_for = struct.unpack_from(">HHII", packet, 20)
        send_reset(net.world, source, waits_for)
        await until(lambda: cell.speaks(WORLD4, 81))  # there is room again
        one.settimeout(SHORT)
        assert not echoes(one)
        assert established(net.world, 80) == 1

    tell(story, "root", tmp_path)


def send_reset(world: Namespace, port: int, sequence: int) -> None:
    """With few hops left, and exactly where the host waits for more (RFC 5961)."""
    segment = struct.pack(">HHIIBBHHH", 80, port, sequence, 0, 0x50, 4, 0, 0, 0)
    pseudo = socket.inet_aton(WORLD4) + socket.inet_aton(HOST4) + struct.pack(">HH", socket.IPPROTO_TCP, len(segment))
    total = sum(struct.unpack(f">{(len(pseudo) + len(segment)) // 2}H", pseudo + segment))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment = segment[:16] + struct.pack(">H", ~total & 0xFFFF) + segment[18:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 20, socket.IPPROTO_TCP, 0)
    with world.open_socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW) as sock:
        sock.sendto(header + socket.inet_aton(WORLD4) + socket.inet_aton(HOST4) + segment, (HOST4, 0))


# ---------------------------------------------------------------- the host's own ports


@WAYS
def test_a_program_s_port_is_not_the_host_s(way: str, tmp_path: Path) -> None:
    """N32: what is sent to a service of the host's is not the sandbox', and no port of its is taken."""

    async def story(net: Internet, router: Router) -> None:
        _, cell = await attach(net, router)
        with (
            net.world.open_socket(kind=socket.SOCK_DGRAM) as world,
            cell.open_socket(kind=socket.SOCK_DGRAM) as inner,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service,
        ):
            world.bind((OTHER4, 7777))
            inner.bind(("", 7777))
            inner.sendto(b"mine", (OTHER4, 7777))
            text, (_, port) = world.recvfrom(9)
            assert text == b"mine"
            assert port >= 32768
            world.sendto(b"yours", (HOST4, port))
            assert inner.recv(9) == b"yours"
            service.bind((HOST4, 7777))
            service.settimeout(5)
            world.sendto(b"the host's", (HOST4, 7777))
            assert service.recv(99) == b"the host's"
        with socket.create_server((HOST4, 7778)), from_port(cell, 7778) as one:
            one.connect((OTHER4, 80))
            assert echoes(one)

    tell(story, way, tmp_path)


# ---------------------------------------------------------------- addresses


@WAYS
def test_addresses_that_are_no_machine_s_are_out_of_reach(way: str, tmp_path: Path) -> None:
    """N20: all of IPv6 that is not globally routable. The control: who blocks nothing reaches them in this internet."""
    found = ("5f00::1", "3fff::1", "100:0:0:1::1", "::ffff:0:a00:1", "64:ff9b:2::1", "4000::1", "9000::1", "e000::1",
             "fe00::1")  # fmt: skip

    async def story(net: Internet, router: Router) -> None:
        with net.world.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as there:
            Netlink(there).do(*(messages.address(1, ip_address(one)) for one in found))
        _, cell = await attach(net, router)
        _, free = await attach(net, router, OPEN)
        for one in found:
            await until(functools.partial(free.speaks, one, 80))  # pasta has refused the first one once
            assert cell.why_not(one, 80) == errno.ECONNREFUSED

    tell(story, way, tmp_path)


@WAYS
def test_an_address_does_not_tell_whether_it_is_anybody_s(way: str, tmp_path: Path) -> None:
    """N33: of a sandbox, of one that is suspended, of one that is gone, and of none; also to who may reach all."""

    async def story(net: Internet, router: Router) -> None:
        ports = [(await attach(net, router))[0] for _ in range(3)]
        await router.suspend(ports[1])
        await router.detach(ports[2])
        pool = router._ground.pool
        for policy in (Policy(access=False), Policy(connections_limit=1), OPEN):
            _, cell = await attach(net, router, policy)
            for own, error in ((pool.own4, errno.EHOSTUNREACH), (pool.own6, errno.EACCES)):
                addresses = [str(own(place)) for place in (*(port.place for port in ports), 2000, 4000)]
                assert [cell.why_not(one, 80) for one in addresses] == [errno.ECONNREFUSED] * 5
                assert [told(cell, one) for one in addresses] == [error] * 5

    tell(story, way, tmp_path)


def told(cell: Namespace, address: str) -> int | None:
    """The error of a datagram; None: there is none."""
    with cell.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(SHORT)
        try:
            one.connect((address, 7))
            one.send(b"x")
            one.recv(9)
        except TimeoutError:
            return None
        except OSError as exc:
            return exc.errno
    raise AssertionError("somebody answered")


# ---------------------------------------------------------------- pieces


def test_pieces_that_lack_others_do_not_stop_everybody_s_for_long(tmp_path: Path) -> None:
    """N34: there is room for 4 MiB of them in the router, where they wait for the others."""

    async def story(net: Internet, router: Router) -> None:
        net.serve_datagrams(85)
        port, cell = await attach(net, router)
        _, other = await attach(net, router)
        assert echoes_in_pieces(other)
        send_pieces(cell, port.address4, 4000)
        assert not echoes_in_pieces(other)
        await until(lambda: echoes_in_pieces(other))  # before the 30 s of the kernel's default

    tell(story, "root", tmp_path)  # with pasta a packet has any size


def echoes_in_pieces(cell: Namespace) -> bool:
    """Whether a datagram comes back that is larger than a packet."""
    with cell.open_socket(kind=socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
        one.settimeout(SHORT)
        one.connect((WORLD4, 85))
        one.send(bytes(5000))
        try:
            return len(one.recv(9000)) == 5000
        except TimeoutError:
            return False


def send_pieces(cell: Namespace, source: str, count: int) -> None:
    """The first of each packet only: raw(7), as somebody's would be who loses the others on purpose."""
    addresses = socket.inet_aton(source) + socket.inet_aton(OTHER4)
    with cell.open_socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW) as sock:
        for number in range(1, count + 1):
            header = struct.pack(">BBHHHBBH", 0x45, 0, 1428, number, 0x2000, 64, socket.IPPROTO_UDP, 0)
            sock.sendto(header + addresses + bytes(1408), (OTHER4, 0))
