"""The router's way out without root: pasta(1), which carries each connection on as one of the user's own.

It makes a tap interface in the router's namespace, and is given that and the user namespace as descriptors, its stdin
and stdout. It forwards no port in either direction, and the host's loopback cannot be reached through it. It dies with
the thread that started it (PR_SET_PDEATHSIG), and by `close`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from ipaddress import IPv4Network, IPv6Network

import trio

from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network import messages
from nsbox._network.addresses import GATEWAY6, AddressPool
from nsbox._network.doors import RouterDoor
from nsbox._network.messages import FAR
from nsbox._network.netlink import Netlink
from nsbox._network.packets import UPLINK

_ROUTER, _BEYOND = 1, 2
"""Places in the range: the tap's, and of a neighbour that is not there but answered for."""
_SECONDS = 10
_DEFAULT4, _DEFAULT6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")

_START = """\
import ctypes, os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # pasta ends where it is ignored already, as Python does
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, which execve(2) keeps
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_pasta() -> str:
    """Where pasta is.

    Raises:
        UnsupportedHostError: It is missing, or may not make a tap interface.
    """
    path = shutil.which("pasta")
    if path is None:
        raise UnsupportedHostError(
            "a sandbox with network.access='egress' needs pasta, where nsbox does not run as root",
            ("network_egress",),
            ("apt-get install passt",),
        )
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise UnsupportedHostError(
            f"a sandbox with network.access='egress' needs /dev/net/tun, which cannot be opened: {exc.strerror}",
            ("network_egress",),
            ("modprobe tun; chmod 666 /dev/net/tun",),
        ) from exc
    return path


class PastaUplink:
    """The running pasta; made by `open`."""

    mtu = 65_520
    """The largest that it knows: it takes a packet of any size in one piece."""
    masquerades_inside = True

    def __init__(self, process: subprocess.Popen[bytes], log: int) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def open(cls, path: str, door: RouterDoor, router: Netlink, pool: AddressPool, *, ipv6: bool) -> PastaUplink:
        """Start pasta, and connect the router to it.

        Args:
            path: Of the program.
            door: Of the router.
            router: Its routes.
            pool: The range of addresses.
            ipv6: Whether IPv6 leads outside as well.

        Raises:
            SetupError: It ended, or made no interface in ten seconds; nothing is left.
        """
        log = os.memfd_create("pasta", os.MFD_CLOEXEC)  # not a pipe, which nobody would empty
        command = [sys.executable, "-I", "-S", "-c", _START, str(os.getpid()), path, *_options(pool, ipv6=ipv6)]
        try:
            process = _start(command, door, log)
        except OSError as exc:
            os.close(log)
            raise SetupError("network", exc.errno or errno.EIO, "cannot start pasta", path) from exc
        uplink = cls(process, log)
        try:
            index = await uplink._wait_for_tap(router)
            uplink._connect(router, index, pool, ipv6=ipv6)
        except BaseException:
            uplink.close()
            raise
        return uplink

    async def _wait_for_tap(self, router: Netlink) -> int:
        with trio.move_on_after(_SECONDS):
            while True:
                self.check()
                try:
                    return messages.index_of_link(router.ask(messages.ask_link(UPLINK))[0])
                except SetupError as exc:
                    if exc.errno != errno.ENODEV:
                        raise
                await trio.sleep(0.002)
        raise SetupError("network", errno.ETIMEDOUT, f"pasta made no interface: {self._said()}")

    def _connect(self, router: Netlink, index: int, pool: AddressPool, *, ipv6: bool) -> None:
        own, beyond = pool.own4(_ROUTER), pool.own4(_BEYOND)
        parts = [
            messages.prepare(index, forwards=True, ipv6=ipv6),
            messages.up(index, IFLA_MTU=self.mtu),
            messages.address(index, own),
            messages.neighbour(index, beyond, FAR),
            messages.route(index, _DEFAULT4, beyond, source=own),
        ]
        if ipv6:
            parts += [
                messages.address(index, pool.own6(_ROUTER)),
                messages.neighbour(index, GATEWAY6, FAR),
                messages.route(index, _DEFAULT6, GATEWAY6),
            ]
        router.do(*parts)

    def admit_to_host(self, *addresses: bytes) -> None:
        """The router's own rules decide that."""

    def bar_from_host(self, *addresses: bytes) -> None:
        """The router's own rules decide that."""

    def check(self) -> None:
        """Whether it still runs.

        Raises:
            SetupError: It ended by itself; the message has what it said.
        """
        if self._process.poll() is not None:
            raise SetupError("network", errno.EPIPE, f"pasta ended with {self._process.returncode}: {self._said()}")

    def _said(self) -> str:
        text = os.pread(self._log, 1 << 16, 0).decode(errors="replace")
        lines = [line for line in text.splitlines() if "to syslog" not in line]  # what it says where there is no syslog
        return "; ".join(lines[-3:]) or "it said nothing"

    def close(self) -> None:
        """Kill it; idempotent."""
        if self._log < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._log)
        self._log = -1


def _start(command: list[str], door: RouterDoor, log: int) -> subprocess.Popen[bytes]:
    """In this thread, with which it is to die: those that trio lends end when they have been idle for a while."""
    return subprocess.Popen(
        command, stdin=door.namespace, stdout=door.user_namespace, stderr=log, env={}, cwd="/"
    )  # fmt: skip


def _options(pool: AddressPool, *, ipv6: bool) -> list[str]:
    """In the foreground, with our addresses, without any service of its own, and no port forwarded."""
    options = ["--foreground", "--quiet", "--netns", "/proc/self/fd/0", "--userns", "/proc/self/fd/1",
               "--no-netns-quit", "--ns-ifname", UPLINK, "--mac-addr", FAR, "--no-map-gw",
               "--mtu", str(PastaUplink.mtu)]  # fmt: skip
    for name in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):
        options += [name, "none"]
    options += ["--no-dhcp", "--no-dhcpv6", "--no-ra"]
    options += ["--address", str(pool.own4(_ROUTER)), "--netmask", "32", "--gateway", str(pool.own4(_BEYOND))]
    if not ipv6:
        return [*options, "--ipv4-only"]
    return [*options, "--address", str(pool.own6(_ROUTER)), "--gateway", str(GATEWAY6)]
