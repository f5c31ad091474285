"""The program that a sandbox has started ahead, in a language that has such: at most one, and each is used once."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from typing import TYPE_CHECKING

from nsbox._config import Runtime
from nsbox._core.orders import without_time
from nsbox._core.output import OutputSink
from nsbox._core.part import Part
from nsbox._core.program import Program, Running
from nsbox._core.sources import Source
from nsbox._errors import SandboxError
from nsbox._host import executions_are_apart
from nsbox._states import ACTIVE
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.order import Order, Outcome
from nsbox._supervisor.standby import Standby

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_RUN_FIRST = 2
"""So many programs of a language are run, and another is started: those before it may be all there are."""
_LEAST_MEMORY_MB = 256
_LEAST_PROCESSES = 64
"""In sandboxes with less room, what waits could be what is in the way."""


class Waiting:
    """One program that waits.

    Args:
        runtime: Of its language.
        standby: It.
        source: Where it finds its text.
    """

    def __init__(self, runtime: Runtime, standby: Standby, source: Source) -> None:
        self.runtime = runtime
        self.standby = standby
        self.source = source

    async def run(self, text: bytes, order: Order, sink: OutputSink) -> Outcome | None:
        """As `Standby.run`.

        Args:
            text: The program's.
            order: How it is run.
            sink: Gets its output.

        Raises:
            ConfigError: The text does not fit.
            SandboxError: As `Standby.run`.
        """
        try:
            self.source.place.add_source(text)
        except BaseException:
            await self.standby.end()
            raise
        return await self.standby.run(order, sink)


class Standbys(Part):
    """Those of one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._waiting: Waiting | None = None
        self._programs: dict[str, int] = {}
        self._doubted = False

    @property
    def ready(self) -> bool:
        """Whether one waits."""
        return self._waiting is not None and self._waiting.standby.alive

    def ran(self, runtime: Runtime) -> None:
        """A program has ended: another may follow, and one is started for it, beside the caller."""
        if not runtime.standby or not self._is_possible():
            return
        count = self._programs[runtime.name] = self._programs.get(runtime.name, 0) + 1
        if count < _RUN_FIRST:
            return
        if self._doubted:
            self._check(runtime)
        if self._waiting is None:
            self._start(runtime)

    def _check(self, runtime: Runtime) -> None:
        """A program did not fit: where none would, since the sandbox's variables have changed, what waits is ended."""
        self._doubted = False
        waiting = self._waiting
        if waiting is not None and waiting.runtime is runtime and waiting.standby.alive:
            try:
                order = self._order(self._core.executions.new_standby(runtime.name), runtime, waiting.source)
            except SandboxError as exc:  # the program that has just ended has its result all the same
                log.debug("%s: what was started ahead is left: %s", self._core.id, exc)
                return
            if not _fits(order, waiting):
                self._waiting = None
                start_soon(waiting.standby.end)

    def _is_possible(self) -> bool:
        """Only where no program can do anything to what waits, and where the kernel counts what each of them uses."""
        config, resources = self._core.config, self._core.config.resources
        if not config.warm or resources.memory.oom_kill_disable or not executions_are_apart():
            return False
        if resources.memory.limit_mb < _LEAST_MEMORY_MB or resources.processes.max_processes < _LEAST_PROCESSES:
            return False
        return self._core.status in ACTIVE and self._core.living()[0].tree.index_of("memory") is not None

    def _start(self, runtime: Runtime) -> None:
        name = f"standby-{secrets.token_hex(8)}"
        _, cell = self._core.living()
        try:
            source = Source(cell.source, name, runtime.file_name, None, runtime.standby_files)
        except (SandboxError, OSError) as exc:
            log.debug("%s: no program is started ahead: %s", self._core.id, exc)
            return
        try:
            order = without_time(self._order(self._core.executions.new_standby(runtime.name), runtime, source))
            standby = Standby(cell, order, source.close)
        except SandboxError as exc:
            source.close()
            log.debug("%s: no program is started ahead: %s", self._core.id, exc)
            return
        self._waiting = Waiting(runtime, standby, source)
        standby.start()

    def _order(self, running: Running, runtime: Runtime, source: Source) -> Order:
        program = Program(runtime=runtime, text=b"", names={}, place=source.place)
        return self._core.executions.order(running, runtime.standby, program)

    def take(self, running: Running, runtime: Runtime) -> tuple[Waiting, Order] | None:
        """What is to run a program, and how; None: it is started now.

        One that differs from what waits in anything but its text, its input and its limits of time is started now.
        """
        waiting = self._waiting
        if waiting is None or waiting.runtime is not runtime:
            return None
        if not waiting.standby.alive:
            self._waiting = None
            if isinstance(waiting.standby.failure, SandboxError):
                log.debug("%s: what was started ahead was lost: %s", self._core.id, waiting.standby.failure)
            return None
        order = self._order(running, runtime, waiting.source)
        if not _fits(order, waiting):
            self._doubted = True
            return None
        self._waiting = None
        return waiting, dataclasses.replace(order, id=waiting.standby.order.id)

    def closed(self) -> None:
        """It dies with the others."""
        self._waiting = None

    async def end(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            await waiting.standby.end()


def _fits(order: Order, waiting: Waiting) -> bool:
    asked, there = without_time(order), waiting.standby.order
    return asked.argv == there.argv and asked.plan == there.plan
