"""Ports of sandboxes, reachable from outside.

inside     connections into a sandbox's own network namespace
forward    one connection: bytes both ways
listener   sockets that listen on the host
links      what goes through a port at the moment, so that it can be cut
names      domains: as a caller gives them, as a client asks for them
replies    what a client is told where there is no server
heads      heads of HTTP messages, on their way through
exchange   one HTTP client of the gateway, request by request
gateway    one address for many sandboxes, by the Host header
exposure   all of it for one port
"""

from nsbox._ports.exposure import Exposure, Wish, expose
from nsbox._ports.inside import Inside, OpenSocket
from nsbox._ports.names import check_domain, local_name

__all__ = [
    "Exposure",
    "Inside",
    "OpenSocket",
    "Wish",
    "check_domain",
    "expose",
    "local_name",
]
