"""A sandbox that is suspended at its memory limit instead of killed (`oom_kill_disable`)."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from nsbox._core.part import Part
from nsbox._errors import NetworkError, SandboxError
from nsbox._events import RuntimeErrorEvent
from nsbox._metrics.pressure import Pressure, open_pressure
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_MIB = 1 << 20
_TICK_SECONDS = 0.002


class MemoryGuard(Part):
    """Suspends its sandbox when that can have no more memory; also again, if it is resumed and still cannot.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._ended.set()

    def opened(self, supervisor: Supervisor, cell: Cell) -> None:
        self.closed()
        self._ended = trio.Event()
        self._scope = start_soon(self._watch, supervisor, cell, self._ended)

    def closed(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    async def end(self) -> None:
        self.closed()
        await self._ended.wait()

    async def _watch(self, supervisor: Supervisor, cell: Cell, ended: trio.Event) -> None:
        limit = self._core.config.resources.memory.limit_mb
        freezer = supervisor.tree.hierarchies[0].path / f"s{cell.number}" / "cgroup.freeze"
        try:
            with contextlib.closing(open_pressure(supervisor.tree, cell.number, limit * _MIB)) as pressure:
                while True:
                    await pressure.wait()
                    if pressure.is_at_limit():
                        await self._suspend(pressure, freezer)
        except OSError as exc:
            if cell.lost is None:  # else there is nothing left to guard
                log.warning("%s: it can no longer be suspended at its memory limit: %s", self._core.id, exc)
                self._core.emitter.emit(RuntimeErrorEvent, error=exc)
        finally:
            ended.set()

    async def _suspend(self, pressure: Pressure, freezer: Path) -> None:
        usage_mb = pressure.usage_bytes() / _MIB
        answered = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, usage_mb, answered)
            # Also where somebody else is suspending it at this moment, who would wait for ever. The file tells nobody.
            while not (answered.is_set() or _is_closed(freezer)):
                with trio.move_on_after(_TICK_SECONDS):
                    await answered.wait()
            if not answered.is_set():
                pressure.wake()
        pressure.settle()

    async def _ask(self, usage_mb: float, answered: trio.Event) -> None:
        try:
            await self._core.suspend_at_limit(usage_mb)
        except NetworkError:
            pass  # it has died of something else
        except SandboxError as exc:
            log.warning("%s: it could not be suspended at its memory limit: %s", self._core.id, exc)
            self._core.emitter.emit(RuntimeErrorEvent, error=exc)
        finally:
            answered.set()


def _is_closed(freezer: Path) -> bool:
    return freezer.read_bytes().strip() == b"1"
