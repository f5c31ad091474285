"""What the launcher opens in network namespaces that are not the application's own: the way to change them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class CellDoor:
    """Of a sandbox.

    Attributes:
        namespace: Its network namespace, for IFLA_NET_NS_FD (rtnetlink(7)).
        routes: A NETLINK_ROUTE socket in it.
    """

    namespace: int
    routes: socket.socket

    def close(self) -> None:
        """Close both; idempotent."""
        self.routes.close()
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1


@dataclass(slots=True, kw_only=True)
class RouterDoor:
    """Of the router, which all sandboxes of a supervisor are connected to.

    Attributes:
        namespace: Its network namespace.
        routes: A NETLINK_ROUTE socket in it.
        filters: A NETLINK_NETFILTER socket in it.
        dns_udp: A UDP socket (AF_INET) in it, not bound.
        dns_tcp: A TCP socket (AF_INET) in it, not bound.
        user_namespace: Which owns the namespace: the launcher's.
    """

    namespace: int
    routes: socket.socket
    filters: socket.socket
    dns_udp: socket.socket
    dns_tcp: socket.socket
    user_namespace: int

    def close(self) -> None:
        """Close all; idempotent."""
        for one in (self.routes, self.filters, self.dns_udp, self.dns_tcp):
            one.close()
        for fd in (self.namespace, self.user_namespace):
            if fd >= 0:
                os.close(fd)
        self.namespace = self.user_namespace = -1
