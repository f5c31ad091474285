"""Requests of rtnetlink(7) by a socket that is there already, wherever that is."""

import errno
import os
import socket
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

_ROOM = 1 << 16


def _ask(routes: socket.socket, kind: int, flags: int, message: Any) -> list[Any]:
    message["header"].update(type=kind, flags=flags | NLM_F_REQUEST, sequence_number=1)
    message.encode()
    routes.send(message.data)
    answers: list[Any] = []
    while True:
        for answer in MarshalRtnl().parse(routes.recv(_ROOM)):
            error = answer["header"]["error"]
            if error is not None and error.code:
                raise OSError(error.code, os.strerror(error.code))
            if answer["header"]["type"] in (2, 3):  # NLMSG_ERROR, here without one; NLMSG_DONE
                return answers
            answers.append(answer)


def add_veth(routes: socket.socket, name: str, peer: str, namespace: int) -> None:
    """A pair of devices, one where the socket is, its peer in another network namespace.

    Raises:
        OSError: The kernel refused.
    """
    there = {"attrs": [["IFLA_IFNAME", peer], ["IFLA_NET_NS_FD", namespace]]}
    data = {"attrs": [["VETH_INFO_PEER", there]]}
    message = ifinfmsg()
    message["attrs"] = [
        ["IFLA_IFNAME", name],
        ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", data]]}],
    ]
    _ask(routes, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message)


def set_up(routes: socket.socket, name: str, *, up: bool = True) -> None:
    """Bring a device up or down. Raises as `add_veth`."""
    message = ifinfmsg()
    message["flags"], message["change"] = int(up), 1  # IFF_UP
    message["attrs"] = [["IFLA_IFNAME", name]]
    _ask(routes, RTM_SETLINK, NLM_F_ACK, message)


def devices(routes: socket.socket) -> dict[str, bool]:
    """The names of all devices there, and whether each is up."""
    found = _ask(routes, RTM_GETLINK, NLM_F_DUMP, ifinfmsg())
    return {one.get_attr("IFLA_IFNAME"): bool(one["flags"] & 1) for one in found}


def is_there(routes: socket.socket, name: str) -> bool:
    """Whether there is a device of that name."""
    message = ifinfmsg()
    message["attrs"] = [["IFLA_IFNAME", name]]
    try:
        _ask(routes, RTM_GETLINK, NLM_F_ACK, message)
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise
        return False
    return True
