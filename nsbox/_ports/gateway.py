"""One address for many sandboxes: requests go where their Host header says.

A trio run has at most two gateways. The one on loopback is started with the first custom domain, and serves every HTTP
port of the run's sandboxes; the one on all interfaces is started with the first that is public, and serves the public
ones only. Both end when nothing is left to serve.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from nsbox._errors import ConfigError
from nsbox._ports.inside import Inside
from nsbox._ports.links import Links
from nsbox._ports.listener import Listening, listen

GATEWAY_VARIABLE = "NSBOX_GATEWAY_PORT"
"""The port of the gateway on loopback; unset, or 0: one that is free."""
PUBLIC_GATEWAY_VARIABLE = "NSBOX_PUBLIC_GATEWAY_PORT"
"""The same for the one on all interfaces."""

MOST_CLIENTS = 512
"""Connections of one gateway at a time; the others wait in the kernel's backlog."""


@dataclass(slots=True, kw_only=True, eq=False)
class Route:
    """An HTTP port of a sandbox.

    Attributes:
        inside: Of the sandbox.
        port: In the sandbox.
        links: Of that port.
        names: It is called so; those of `domain` come with a gateway, the others only where there is one.
        domain: The custom one.
        public: Whether other machines can get at `domain`.
    """

    inside: Inside
    port: int
    links: Links
    names: Collection[str]
    domain: str | None = None
    public: bool = False


class Gateways:
    """Those of one trio run."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._public: dict[str, Route] = {}
        self._local_gateway: Listening | None = None
        self._public_gateway: Listening | None = None

    def add(self, route: Route) -> tuple[int | None, int | None]:
        """Serve a port, by a custom domain if it has one.

        Returns:
            The ports of the gateway on loopback, and of the public one; None: not needed for this one.

        Raises:
            ConfigError: Its domain is another port's, or an environment variable holds no port.
            SetupError: The gateway's port cannot be had. Nothing has changed.
        """
        if route.domain is not None and route.domain in self._routes:
            raise ConfigError(f"custom_domain={route.domain!r}: another port of this application has it")
        local = public = None
        if route.domain is not None:
            started = self._local_gateway is None
            if self._local_gateway is None:
                self._local_gateway = _start(GATEWAY_VARIABLE, self._routes, public=False)
            local = self._local_gateway.port
            if route.public:
                try:
                    if self._public_gateway is None:
                        self._public_gateway = _start(PUBLIC_GATEWAY_VARIABLE, self._public, public=True)
                except BaseException:
                    if started:
                        self._local_gateway.stop()
                        self._local_gateway = None
                    raise
                public = self._public_gateway.port
                self._public[route.domain] = route
            self._routes[route.domain] = route
        for name in route.names:
            self._routes[name] = route
        return local, public

    async def remove(self, route: Route) -> None:
        """Serve it no more. Its connections are the caller's to cut."""
        for routes in (self._routes, self._public):
            for name in [name for name, one in routes.items() if one is route]:
                del routes[name]
        ended: list[Listening] = []
        if not self._public and self._public_gateway is not None:
            ended.append(self._public_gateway)
            self._public_gateway = None
        if not self._routes and self._local_gateway is not None:
            ended.append(self._local_gateway)
            self._local_gateway = None
        for one in ended:
            one.stop()
        for one in ended:
            await one.wait_closed()


def _start(variable: str, routes: Mapping[str, Route], *, public: bool) -> Listening:
    from nsbox._ports.exchange import serve_client  # noqa: PLC0415  # h11, 6 ms that only who needs it pays

    listeners = listen(public=public, port=_configured_port(variable), told_by=variable)
    return Listening(listeners, partial(serve_client, find=routes.get), MOST_CLIENTS)


def _configured_port(variable: str) -> int:
    value = os.environ.get(variable, "0")
    if not (value.isascii() and value.isdigit() and int(value) <= 65_535):
        raise ConfigError(f"{variable}={value!r}: must be a port of at most 65535, or 0 for one that is free")
    return int(value)


_current: trio.lowlevel.RunVar[Gateways | None] = trio.lowlevel.RunVar("nsbox gateways", None)


def current_gateways() -> Gateways:
    """This trio run's."""
    gateways = _current.get()
    if gateways is None:
        gateways = Gateways()
        _current.set(gateways)
    return gateways
