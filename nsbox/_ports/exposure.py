"""One port of a sandbox that can be reached from outside."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Literal

from nsbox._ports.forward import forward
from nsbox._ports.gateway import Route, current_gateways
from nsbox._ports.inside import Inside
from nsbox._ports.links import MOST_CONNECTIONS, Links
from nsbox._ports.listener import Listening, host_name, listen
from nsbox._ports.names import local_name
from nsbox._records import ExposedPort

log = logging.getLogger("nsbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller asks for, checked.

    Attributes:
        port: In the sandbox.
        protocol: What is spoken on it.
        public: Whether other machines may reach it.
        domain: It is routed by this name, by a gateway; None: it has a port of the host of its own.
    """

    port: int
    protocol: Literal["http", "https", "tcp"]
    public: bool
    domain: str | None


@dataclass(slots=True, kw_only=True)
class Exposure:
    """See `expose`.

    Attributes:
        wish: What it is.
        record: What the caller is told.
    """

    wish: Wish
    record: ExposedPort
    _links: Links
    _route: Route | None = None
    _listening: Listening | None = None

    def cut(self) -> None:
        """End the connections into the sandbox. It goes on listening, and who waits to get in waits on."""
        self._links.cut(waiting=False)

    async def close(self) -> None:
        """Listen no more; every connection is closed on return."""
        self._links.cut(waiting=True)
        if self._listening is not None:
            self._listening.stop()
        if self._route is not None:
            await current_gateways().remove(self._route)
        if self._listening is not None:
            await self._listening.wait_closed()
        await self._links.wait_none()


def expose(sandbox_id: str, inside: Inside, wish: Wish) -> Exposure:
    """Listen on the host for a port of a sandbox. In the supervisor's run; it does not wait for anything.

    Raises:
        ConfigError: The domain is another port's.
        SetupError: There is no port to be had. Nothing is left.
    """
    links = Links()
    if wish.domain is not None:
        exposure = _by_domain(sandbox_id, inside, wish, wish.domain, links)
    else:
        exposure = _by_port(sandbox_id, inside, wish, links)
    if wish.public:
        log.warning(
            "port %d of sandbox %s can be reached from other machines: %s",
            wish.port, sandbox_id, exposure.record.public_url,
        )  # fmt: skip
    return exposure


def _by_port(sandbox_id: str, inside: Inside, wish: Wish, links: Links) -> Exposure:
    serve = partial(forward, inside=inside, port=wish.port, links=links, http=wish.protocol == "http")
    listening = Listening(listen(public=wish.public), serve, MOST_CONNECTIONS)
    route = None
    if wish.protocol == "http":
        route = Route(inside=inside, port=wish.port, links=links, names=(local_name(wish.port, sandbox_id),))
        current_gateways().add(route)
    return Exposure(
        wish=wish,
        record=_record(wish, "127.0.0.1", listening.port, host_name() if wish.public else None, listening.port),
        _links=links,
        _route=route,
        _listening=listening,
    )


def _by_domain(sandbox_id: str, inside: Inside, wish: Wish, domain: str, links: Links) -> Exposure:
    route = Route(
        inside=inside,
        port=wish.port,
        links=links,
        names=(local_name(wish.port, sandbox_id),),
        domain=domain,
        public=wish.public,
    )
    local, public = current_gateways().add(route)
    assert local is not None
    return Exposure(
        wish=wish,
        record=_record(wish, domain, local, None if public is None else domain, public),
        _links=links,
        _route=route,
    )


def _record(wish: Wish, host: str, port: int, public_host: str | None, public_port: int | None) -> ExposedPort:
    path = "" if wish.protocol == "tcp" else "/"
    return ExposedPort(
        port=wish.port,
        protocol=wish.protocol,
        url=f"{wish.protocol}://{host}:{port}{path}",
        public_url=None if public_host is None else f"{wish.protocol}://{public_host}:{public_port}{path}",
        is_public=wish.public,
    )
