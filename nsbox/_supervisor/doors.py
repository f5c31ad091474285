"""What the launcher has opened in other network namespaces, native/network.c, made into objects."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from nsbox._errors import SandboxError, SetupError, UnsupportedHostError
from nsbox._network.doors import CellDoor, RouterDoor
from nsbox._supervisor import wire
from nsbox._supervisor.start import setup_error

_NETLINK_NETFILTER = 12  # <linux/netlink.h>
_OPENS_NETFILTER = 4  # enum network_step: the third descriptor
_STEPS = (
    "bringing up lo", "entering it", "/proc/self/ns/net", "a rtnetlink socket",
    "a nfnetlink socket", "a UDP socket", "a TCP socket", "/proc/self/ns/user", "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.accept_dad", "net.ipv6.conf.default.accept_ra",
    "net.ipv4.ipfrag_time", "net.netfilter.nf_conntrack_frag6_timeout",
)  # fmt: skip


def make_cell_door(fds: Sequence[int]) -> CellDoor:
    """The descriptors of a sandbox's network, which are the door's from now on.

    Raises:
        SetupError: They did not all arrive: this process may have no more open. Those that did are closed.
    """
    namespace, routes = _all_of(fds, 2, "of a sandbox's network")
    return CellDoor(namespace=namespace, routes=_netlink(routes, socket.NETLINK_ROUTE))


def make_router_door(fds: Sequence[int]) -> RouterDoor:
    """As `make_cell_door`, for the router's."""
    namespace, routes, filters, udp, tcp, user_namespace = _all_of(fds, 6, "of the router's network")
    return RouterDoor(
        namespace=namespace,
        routes=_netlink(routes, socket.NETLINK_ROUTE),
        filters=_netlink(filters, _NETLINK_NETFILTER),
        dns_udp=socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP, fileno=udp),
        dns_tcp=socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=tcp),
        user_namespace=user_namespace,
    )


def router_error(record: wire.Record) -> SandboxError:
    """A failed step of the router's as the exception that names it."""
    step = _STEPS[record.index] if 0 <= record.index < len(_STEPS) else "a step"
    if record.stage is wire.Stage.NETWORK and (record.index, record.error) == (_OPENS_NETFILTER, errno.EPROTONOSUPPORT):
        return UnsupportedHostError(
            "this kernel has no nfnetlink, without which no sandbox has a way out of its network namespace",
            missing=("nfnetlink",),
            remedies=("modprobe nfnetlink nf_tables, or a kernel with CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES",),
        )
    return setup_error(record, f"the router's network namespace: {step}")


def _all_of(fds: Sequence[int], count: int, what: str) -> Sequence[int]:
    if len(fds) == count:
        return fds
    for fd in fds:
        os.close(fd)
    raise SetupError("descriptors", errno.EMFILE, os.strerror(errno.EMFILE), what)


def _netlink(fd: int, protocol: int) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol, fileno=fd)
