"""What a host gives to the network of sandboxes: read from it, and tried in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TRY = """
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
uid = os.geteuid()
if libc.unshare(0x10000000 | 0x40000000):
    sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
with open("/proc/self/uid_map", "w") as file:
    file.write("0 %d 1" % uid)
def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
def message(kind, flags, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 1 | flags, 1, 0) + body
def ask(name, protocol, data):
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 5, 0))
            channel.sendto(data, (0, 0))
            error = -struct.unpack_from("=i", channel.recv(65536), 16)[0]
    except OSError as exc:
        error = exc.errno
    print(name, os.strerror(error) if error else "", sep=":")
link = attribute(3, b"probe\\0") + attribute(18, attribute(1, b"veth"))
ask("veth", 0, message(16, 0x604, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + link))
rate = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 125000)
limits = attribute(1, rate + bytes(12) + struct.pack("=III", 131072, 0, 0)) + attribute(6, struct.pack("=I", 70000))
queue = attribute(1, b"tbf\\0") + attribute(2, limits)
ask("tbf", 0, message(36, 0x604, struct.pack("=BxxxiIII", 0, 1, 0x10000, 0xFFFFFFFF, 0) + queue))
def batch(kind):
    return message(kind, 0, struct.pack(">BBH", 0, 0, 10))
table = message(10 << 8, 0x404, struct.pack(">BBH", 1, 0, 0) + attribute(1, b"probe\\0"))
ask("nf_tables", 12, batch(16) + table + batch(17))
"""
# CLONE_NEWUSER | CLONE_NEWNET. rtnetlink(7): RTM_NEWLINK with IFLA_IFNAME and IFLA_LINKINFO, RTM_NEWQDISC on lo with
# TCA_TBF_PARMS and TCA_TBF_BURST. nf_tables.h: NFT_MSG_NEWTABLE of NFPROTO_INET between two of nfnetlink.h's marks of a
# batch. Each wants an acknowledgement.

TRIED = ("veth", "tbf", "nf_tables")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What was read.

    Attributes:
        forwarding: net.ipv4.ip_forward.
        forwarding6: net.ipv6.conf.all.forwarding.
        route6: Whether there is an IPv6 default route.
        tun_error: "" when /dev/net/tun can be opened, else why not.
        tried: Of `TRIED`, "" where it could be made, else why not; None when it was not tried.
    """

    forwarding: bool
    forwarding6: bool
    route6: bool
    tun_error: str
    tried: Mapping[str, str] | None


def probe_network(*, try_kernel: bool) -> NetworkFacts:
    """Look. Blocks: less than 1 ms; with `try_kernel` the start of an interpreter more.

    Args:
        try_kernel: Make a veth pair and its like, in a user and a network namespace of a child.
    """
    return NetworkFacts(
        forwarding=_read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        forwarding6=_read("/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1",
        route6=_has_default_route(_read("/proc/net/ipv6_route")),
        tun_error=_tun_error(),
        tried=_try() if try_kernel else None,
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # no IPv6, or no /proc/sys: what is not there is not set
        return ""


def _has_default_route(table: str) -> bool:
    """Destination and prefix first, the device last; that of lo refuses, and is always there."""
    rows = (line.split() for line in table.splitlines())
    return any(row[0] == "0" * 32 and row[1] == "00" and row[-1] != "lo" for row in rows if len(row) >= 10)


def _tun_error() -> str:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"/dev/net/tun: {exc.strerror}"
    return ""


def _try() -> Mapping[str, str] | None:
    """None: no child started; where it could make no namespaces, all of it is missing for that reason."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = dict(line.partition(":")[::2] for line in done.stdout.splitlines())
    reason = done.stderr.strip().rpartition("\n")[2] or f"the attempt ended with {done.returncode}"
    return {name: found.get(name, reason) for name in TRIED}
