"""The router of a supervisor and its resolver: there from the first sandbox on that needs a network."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from nsbox._errors import NetworkError
from nsbox._network.doors import RouterDoor
from nsbox._supervisor.background import start_soon

if TYPE_CHECKING:
    from nsbox._network.names import Names
    from nsbox._network.resolver import Resolver
    from nsbox._network.router import Port, Router

_ENDED = "the supervisor has ended, and its router with it"


class Networking:
    """See the module. While no sandbox needs a network nothing is opened, and no time is taken.

    Args:
        open_door: Asks the launcher for the router's network namespace.
        as_root: Whether the host's own network may be changed, so that the router has a way out through it.
    """

    def __init__(self, open_door: Callable[[], Awaitable[RouterDoor]], *, as_root: bool) -> None:
        self._open_door = open_door
        self._as_root = as_root
        self._opening = trio.Lock()
        self._names: dict[int, Names] = {}
        self._resolving: trio.CancelScope | None = None
        self._resolved = trio.Event()
        self._closed = False
        self.router: Router | None = None
        """None: not opened yet, or closed."""

    async def open(self) -> Router:
        """The router; opened if it is not. Not cancelled: with pasta it takes some 0.1 s the first time.

        Raises:
            UnsupportedHostError: The host lacks something that no way out can do without; with the remedy.
            SetupError: The kernel refused a step. Nothing is left, and the next call tries again.
            NetworkError: The launcher has died.
        """
        if self.router is not None:
            return self.router
        with trio.CancelScope(shield=True):
            async with self._opening:
                if self.router is None:
                    self.router = await self._open()
        assert self.router is not None
        return self.router

    async def _open(self) -> Router:
        self._require_open()
        await trio.to_thread.run_sync(_import)
        from nsbox._network.resolver import Resolver  # noqa: PLC0415  # the same
        from nsbox._network.router import Router  # noqa: PLC0415

        door = await self._open_door()
        try:
            router = await Router.open(door, as_root=self._as_root)
        except BaseException:
            door.close()
            raise
        try:
            self._require_open()  # still
            ready = trio.Event()
            resolver = Resolver(router.dns_udp, router.dns_tcp, lambda address: self._find(router, address))
            self._resolving = start_soon(self._run, router, resolver, ready)
            await ready.wait()
            self._require_open()  # `close` has ended the resolver, and knew of no router yet
        except NetworkError:
            router.close()
            raise
        return router

    def _require_open(self) -> None:
        if self._closed:
            raise NetworkError(_ENDED)

    async def _run(self, router: Router, resolver: Resolver, ready: trio.Event) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(router.follow_host)
                nursery.start_soon(router.forget_leftovers)
                await nursery.start(resolver.run)
                ready.set()
        finally:
            ready.set()
            self._resolved.set()

    def _find(self, router: Router, address: str) -> Names | None:
        port = router.port_of(address)
        return None if port is None else self._names.get(port.number)

    def answer(self, port: Port, names: Names) -> None:
        """Have the resolver answer what asks from a port; before that it refuses everything.

        Args:
            port: The sandbox's.
            names: What holds for it, from now on.
        """
        self._names[port.number] = names

    async def detach(self, port: Port) -> None:
        """A sandbox is about to end, or has. Nothing happens where the router has ended.

        Raises:
            SetupError: The kernel refused; what is left goes with the router.
        """
        self._names.pop(port.number, None)
        if self.router is not None:
            await self.router.detach(port)

    async def close(self) -> None:
        """End it, and wait for that; idempotent. What is being opened ends itself."""
        self._closed = True
        if self._resolving is not None:
            self._resolving.cancel()
            await self._resolved.wait()
            self._resolving = None
        router, self.router = self.router, None
        if router is not None:
            router.close()


def _import() -> None:
    """The libraries for netlink and DNS, which take half a second, and which few sandboxes need."""
    for name in ("router", "resolver"):
        importlib.import_module(f"nsbox._network.{name}")
