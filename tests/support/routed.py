"""A little internet of network namespaces: this process' own is the host, beside it is a world that it routes to.

For children of the test only (`forked.in_child`): the process becomes root of a user namespace of its own, and nothing
of the machine's own network is seen from then on.
"""

import array
import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

from nsbox._network import messages
from nsbox._network.doors import CellDoor, RouterDoor
from nsbox._network.messages import FAR, NEAR, End
from nsbox._network.netlink import Netlink

T = TypeVar("T")

LIBC = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET = 0x10000000, 0x40000000  # CLONE_*
HOST4, HOST6 = "11.0.0.2", "2606:4700:1::2"
WORLD4, WORLD6 = "11.0.0.1", "2606:4700:1::1"
OTHER4, OTHER6 = "11.0.1.1", "2606:4700:2::1"
"""Public addresses: the host's, and two of the world's."""
SECONDS = 5.0


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def in_thread(function: Callable[[], T]) -> T:
    """The result of `function` in a thread that ends with it: what it does to its own namespaces, too, does."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as exc:  # noqa: BLE001  # the caller's to see
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


@dataclass
class Namespace:
    """A network namespace.

    Attributes:
        fd: It.
    """

    fd: int

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, which runs in it."""

        def run() -> T:
            _checked(LIBC.setns(self.fd, NEWNET))
            return function()

        return in_thread(run)

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket in it."""
        made = self.call(lambda: socket.socket(family, kind, protocol))
        made.settimeout(SECONDS)
        return made

    def connect(self, address: str, port: int, seconds: float = SECONDS) -> socket.socket:
        """A connection from it.

        Raises:
            OSError: As connect(2).
        """
        made = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.settimeout(seconds)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        made.settimeout(SECONDS)
        return made

    def speaks(self, address: str, port: int, seconds: float = SECONDS) -> bool:
        """Whether a server answers; False: it could not be reached, or did not answer in time."""
        try:
            with self.connect(address, port, seconds) as connection:
                return echoes(connection)
        except OSError:
            return False

    def why_not(self, address: str, port: int, seconds: float = SECONDS) -> int | str | None:
        """The error of connect(2), "timeout", or None where it succeeds."""
        try:
            self.connect(address, port, seconds).close()
        except TimeoutError:
            return "timeout"
        except OSError as exc:
            return exc.errno
        return None

    def interfaces(self) -> list[str]:
        """The names of its interfaces but lo."""
        return [name for _, name in self.call(socket.if_nameindex) if name != "lo"]


def echoes(connection: socket.socket, text: bytes = b"hello") -> bool:
    """Whether the other side sends back what it is sent."""
    try:
        connection.sendall(text)
        return heard(connection, len(text)) == text
    except OSError:
        return False


def heard(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or all there are before the other side ends."""
    found = b""
    while len(found) < count and (more := connection.recv(count - len(found))):
        found += more
    return found


@dataclass
class Internet:
    """See the module; made by `internet`.

    Attributes:
        world: Behind the host; all its addresses echo on the ports that `serve` is called with.
        cells: Namespaces of sandboxes, made so far.
    """

    world: Namespace
    userns: int
    host: Netlink
    cells: list[Namespace] = field(default_factory=list)

    def serve(self, port: int, where: Namespace | None = None) -> None:
        """Echo on a TCP port, on all addresses, for as long as the process lives."""
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(
                socket.socket(socket.AF_INET6) if where is None else where.open_socket(socket.AF_INET6)
            )
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::", port))
            one.listen(64)
            stack.pop_all()
        threading.Thread(target=_accept, args=(one,), daemon=True).start()

    def serve_datagrams(self, port: int) -> None:
        """Echo on a UDP port of the world."""
        one = self.world.open_socket(kind=socket.SOCK_DGRAM)
        one.settimeout(None)
        one.bind(("0.0.0.0", port))  # noqa: S104  # nobody else is there

        def run() -> None:
            while True:
                data, peer = one.recvfrom(1 << 16)
                one.sendto(data, peer)

        threading.Thread(target=run, daemon=True).start()

    def open_router(self) -> RouterDoor:
        """A new network namespace as the launcher makes it for a router."""
        namespace, routes, filters, udp, tcp = self._open(5)
        return RouterDoor(
            namespace=namespace,
            routes=socket.socket(fileno=routes),
            filters=socket.socket(fileno=filters),
            dns_udp=socket.socket(fileno=udp),
            dns_tcp=socket.socket(fileno=tcp),
            user_namespace=os.dup(self.userns),
        )

    def open_cell(self) -> tuple[CellDoor, Namespace]:
        """A new network namespace as a sandbox has it, twice: for the router, and to do in it what programs do."""
        namespace, routes = self._open(2)
        self.cells.append(Namespace(os.dup(namespace)))
        return CellDoor(namespace=namespace, routes=socket.socket(fileno=routes)), self.cells[-1]

    def _open(self, count: int) -> list[int]:
        """Descriptors of a new network namespace that belongs to the user namespace."""

        def run() -> list[int]:
            _checked(LIBC.setns(self.userns, NEWUSER))
            return _open_all()[:count]

        return _from_child(run, count)


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def _open_all() -> list[int]:
    """In a child: a new network namespace, and all descriptors that a door may have."""
    _checked(LIBC.unshare(NEWNET))
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1")
    for name in ("ipv4/ipfrag_time", "netfilter/nf_conntrack_frag6_timeout"):
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", name).write_text("2")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as routes:
        Netlink(routes).do(messages.up(1))
    kinds = [
        (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
        (socket.AF_NETLINK, socket.SOCK_RAW, 12),
        (socket.AF_INET, socket.SOCK_DGRAM, 0),
        (socket.AF_INET, socket.SOCK_STREAM, 0),
    ]
    made = [socket.socket(*kind).detach() for kind in kinds]
    return [os.open("/proc/self/ns/net", os.O_RDONLY), *made]


def _from_child(function: Callable[[], list[int]], count: int) -> list[int]:
    """Descriptors that a child opens, which is where it is allowed to go: it has one thread."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            fds = function()
            theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        except BaseException as exc:  # noqa: BLE001  # there is nobody to raise it to
            theirs.send(repr(exc).encode()[:1000])
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        text, fds, _, _ = socket.recv_fds(ours, 1000, count)
    os.waitpid(pid, 0)
    assert len(fds) == count, text
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


def lose_right_over_network() -> None:
    """Have no CAP_NET_ADMIN in this thread any more (capset(2), version 3 of its header)."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    _checked(LIBC.capget(header, data))
    effective, permitted, inheritable, *rest = struct.unpack("=6I", data.raw)
    lost = ~(1 << 12)
    _checked(LIBC.capset(header, struct.pack("=6I", effective & lost, permitted & lost, inheritable, *rest)))


def _own_user_namespace() -> None:
    """Be root of a user and a network namespace of one's own."""
    uid, gid = os.geteuid(), os.getegid()
    _checked(LIBC.unshare(NEWUSER | NEWNET))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)


def _new_namespace() -> int:
    _checked(LIBC.unshare(NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _make_launchers() -> list[int]:
    _checked(LIBC.unshare(NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        Path("/proc/self", name).write_text(text)
    return [os.open("/proc/self/ns/user", os.O_RDONLY)]


@contextlib.contextmanager
def internet(*, forwarding: bool = True, ipv6: bool = True) -> Iterator[Internet]:
    """Make it, of the process that calls this.

    Args:
        forwarding: Whether the host forwards.
        ipv6: Whether it has an IPv6 default route.
    """
    _own_user_namespace()
    Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(forwarding)))
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text(str(int(forwarding)))
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")  # for pasta's ping sockets, icmp(7)
    userns = _from_child(_make_launchers, 1)[0]
    world = Namespace(in_thread(_new_namespace))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as here:
        host = Netlink(here)
        host.do(messages.pair(End("outside", 50, NEAR), End("inside", 50, FAR), world.fd, 1500))
        _connect(host, (HOST4, HOST6), (WORLD4, WORLD6), FAR, ipv6=ipv6)
        with world.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as there:
            _connect(Netlink(there), (WORLD4, WORLD6), (HOST4, HOST6), NEAR, ipv6=True)
            Netlink(there).do(*(messages.address(1, ip_address(one)) for one in (OTHER4, OTHER6)))
        yield Internet(world, userns, host)


def _connect(netlink: Netlink, own: tuple[str, str], other: tuple[str, str], hardware: str, *, ipv6: bool) -> None:
    netlink.do(messages.up(1), messages.prepare(50, forwards=True, ipv6=True), messages.up(50))
    for mine, theirs, default in zip(own, other, ("0.0.0.0/0", "::/0"), strict=True):
        netlink.do(
            messages.address(50, ip_address(mine)),
            messages.neighbour(50, ip_address(theirs), hardware),
            messages.route(50, ip_network(theirs)),
        )
        if ":" in mine:
            netlink.do(messages.address(50, ip_address(mine.replace("2606:4700:1", "fe80"))))  # pasta wants one
        if ":" not in mine or ipv6:
            netlink.do(messages.route(50, ip_network(default), ip_address(theirs)))
