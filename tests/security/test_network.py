"""N: whom a program can talk to, with the default network: nobody but itself."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from probing import inside, outside

import nsbox

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@contextmanager
def listeners(directory: Path) -> Iterator[dict[str, object]]:
    """Servers of the host: TCP on loopback and on the host's own addresses, UNIX by path and by abstract name."""
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("", 0)))
        six = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6))
        abstract = f"\0nsbox-test-{os.getpid()}"
        for address in (abstract, str(directory / "socket")):
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(address)
            unix.listen()
        yield {"port": tcp.getsockname()[1], "port6": six.getsockname()[1], "abstract": abstract,
               "path": str(directory / "socket")}  # fmt: skip


CONNECT = """
def connect(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
    return 'connected'
ask('loopback', lambda: connect(socket.AF_INET, ('127.0.0.1', {port})))
ask('loopback 6', lambda: connect(socket.AF_INET6, ('::1', {port6})))
ask('mapped', lambda: connect(socket.AF_INET6, ('::ffff:127.0.0.1', {port})))
ask('any', lambda: connect(socket.AF_INET, ('0.0.0.0', {port})))
ask('abstract', lambda: connect(socket.AF_UNIX, {abstract!r}))
ask('path', lambda: connect(socket.AF_UNIX, {path!r}))
"""


def test_servers_of_the_host_are_out_of_reach(tmp_path: Path) -> None:
    """N01, N02: on loopback, by abstract name and by path; the same program on the host reaches every one."""
    with listeners(tmp_path) as where, nsbox.Sandbox() as sandbox:
        questions = CONNECT.format(**where)
        assert set(outside(questions).values()) == {"connected"}
        found = inside(sandbox, questions)
    assert set(found.values()) <= {"ECONNREFUSED", "ENOENT"}


ROUTES = """
def send(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        return one.sendto(b'x', address)
for address in ('169.254.169.254', '10.0.0.1', '192.168.0.1', '172.17.0.1', '192.0.2.1', '255.255.255.255'):
    ask(address, lambda: send(socket.AF_INET, (address, 80)))
for address in ('fe80::1', 'fd00:ec2::254', '2001:db8::1', '::ffff:169.254.169.254'):
    ask(address, lambda: send(socket.AF_INET6, (address, 80)))
"""


def test_no_address_has_a_route() -> None:
    """N03: metadata, private, public, broadcast and mapped addresses are unreachable; the sandbox's own is not."""
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, ROUTES)
        own = inside(sandbox, "ask('own', lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9)))")
    assert set(found.values()) <= {"ENETUNREACH", "EACCES", "EINVAL", "EADDRNOTAVAIL"}
    assert own == {"own": 1}


KINDS = """
def make(*what):
    socket.socket(*what).close()
    return 'made'
ask('tcp', lambda: make(2, 1))
ask('rtnetlink', lambda: make(16, 3, 0))
ask('raw', lambda: make(2, 3, 1))
ask('raw 6', lambda: make(10, 3, 58))
ask('packet', lambda: make(17, 3, 0))
ask('audit', lambda: make(16, 3, 9))
ask('netfilter', lambda: make(16, 3, 12))
ask('alg', lambda: make(38, 5, 0))
ask('vsock', lambda: make(40, 1, 0))
ask('bluetooth', lambda: make(31, 3, 1))
"""


def test_only_sockets_of_ordinary_programs_can_be_made() -> None:
    """N05, N07: raw, packet, netlink beyond routing, ALG and VSOCK are refused, TCP and interface lists are not."""
    assert {outside(KINDS)[name] for name in ("tcp", "raw", "packet", "rtnetlink")} == {"made"}
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            found = inside(sandbox, KINDS, user=user)
            assert (found.pop("tcp"), found.pop("rtnetlink")) == ("made", "made")
            assert "made" not in found.values()


def test_the_only_interface_is_loopback_and_cannot_be_changed() -> None:
    """N06: one interface, which works; taking it down or giving it an address is EPERM for root inside."""
    questions = """
import fcntl
ask('names', lambda: [name for _, name in socket.if_nameindex()])
with socket.create_server(('127.0.0.1', 0)) as server:
    ask('works', lambda: socket.create_connection(server.getsockname()).close())
ask('down', lambda: fcntl.ioctl(socket.socket(2, 2), 0x8914, struct.pack('16sH14x', b'lo', 0)))
own = struct.pack('16sHH4s8x', b'lo', 2, 0, bytes([127, 0, 0, 2]))
ask('address', lambda: fcntl.ioctl(socket.socket(2, 2), 0x8916, own))
"""
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions, user="root")
    assert found == {"names": ["lo"], "works": None, "down": "EPERM", "address": "EPERM"}
