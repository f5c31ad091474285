"""The ports of a sandbox that can be reached from outside."""

from __future__ import annotations

from typing import Literal, cast

import trio

from nsbox._config.validation import choice, flag, integer
from nsbox._core.emitter import Emitter
from nsbox._core.part import Part
from nsbox._errors import ConfigError, InvalidStateError
from nsbox._events import PortClosed, PortExposed
from nsbox._ports import Exposure, Inside, Wish, check_domain, expose
from nsbox._records import ExposedPort
from nsbox._states import ACTIVE, SandboxStatus, StateMachine
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.supervisor import Supervisor

_PROTOCOLS = ("http", "https", "tcp")


class Ports(Part):
    """The exposed ports of one sandbox.

    Args:
        sandbox_id: Whose.
        emitter: Tells of them.
        machine: The sandbox's state.
    """

    def __init__(self, sandbox_id: str, emitter: Emitter, machine: StateMachine) -> None:
        self._sandbox_id = sandbox_id
        self._emitter = emitter
        self._machine = machine
        self._inside = Inside(lambda: machine.status is SandboxStatus.SUSPENDED)
        self._exposed: dict[int, Exposure] = {}

    # ------------------------------------------------------------ what callers do

    async def expose(
        self, port: int, *, protocol: str = "http", public: bool = False, custom_domain: str | None = None
    ) -> ExposedPort:
        """See `AsyncSandbox.expose_port`."""
        wish = _check(port, protocol, public, custom_domain)
        await trio.lowlevel.checkpoint()
        self._machine.require(*ACTIVE, SandboxStatus.SUSPENDED, action="expose a port of")
        known = self._exposed.get(wish.port)
        if known is not None:
            if known.wish != wish:
                raise InvalidStateError(f"port {wish.port} is exposed already, as {known.record.url}; close it first")
            return known.record
        exposure = expose(self._sandbox_id, self._inside, wish)
        self._exposed[wish.port] = exposure
        self._emitter.emit(PortExposed, exposed_port=exposure.record)
        return exposure.record

    async def close(self, port: int) -> None:
        """See `AsyncSandbox.close_port`."""
        integer("port", port, minimum=1, maximum=65_535)
        exposure = self._exposed.pop(port, None)
        if exposure is not None:
            await self._close(exposure)

    async def list(self) -> list[ExposedPort]:
        """See `AsyncSandbox.list_exposed_ports`."""
        return [self._exposed[port].record for port in sorted(self._exposed)]

    async def close_all(self) -> None:
        """As new. Not cancelled."""
        with trio.CancelScope(shield=True):
            while self._exposed:
                _, exposure = self._exposed.popitem()
                await self._close(exposure)

    async def _close(self, exposure: Exposure) -> None:
        with trio.CancelScope(shield=True):  # a few steps of the scheduler; half of it is a listener that nobody knows
            await exposure.close()
        self._emitter.emit(PortClosed, port=exposure.wish.port)

    # ------------------------------------------------------------ what the sandbox's life does

    def opened(self, _: Supervisor, cell: Cell) -> None:
        self._inside.opened(cell.control.open_socket)

    def suspended(self) -> None:
        self._inside.changed()

    def resumed(self) -> None:
        self._inside.changed()

    def closed(self) -> None:
        self._inside.closed()
        for exposure in self._exposed.values():
            exposure.cut()

    async def end(self) -> None:
        if self._exposed:
            await self.close_all()


def _check(port: int, protocol: str, public: bool, custom_domain: str | None) -> Wish:
    """The arguments of `expose_port`.

    Raises:
        ConfigError: Names the one that cannot be.
    """
    checked = choice("protocol", protocol, _PROTOCOLS)
    domain = None if custom_domain is None else check_domain("custom_domain", custom_domain)
    if domain is not None and checked != "http":
        why = "its host is inside the encryption" if checked == "https" else "it names no host"
        raise ConfigError(f"custom_domain={custom_domain!r}: cannot be with protocol={checked!r}, for {why}")
    return Wish(
        port=integer("port", port, minimum=1, maximum=65_535),
        protocol=cast("Literal['http', 'https', 'tcp']", checked),
        public=flag("public", public),
        domain=domain,
    )
