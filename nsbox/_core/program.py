"""A program in a language: compiled where that is needed, and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from nsbox._config import ExecutionOptions
from nsbox._core.compiling import Job, compile_program
from nsbox._core.output import OutputSink
from nsbox._core.toolchain import missing_toolchain
from nsbox._errors import ProgramNotFoundError, ProgramStartError
from nsbox._events import StateChanged
from nsbox._results import Execution
from nsbox._states import SandboxStatus
from nsbox._supervisor.execution import run_execution
from nsbox._supervisor.order import Order, Outcome
from nsbox._verdict import KillReason, Observation

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_SIGKILL = 9


@dataclass(slots=True, kw_only=True)
class Running:
    """An execution on its way.

    Attributes:
        execution: The record, as events and `executions` have it: without secrets.
        options: As they are.
        number: The launcher's name for it.
        asked_at: trio's clock.
        compiling: What ends its compiler, while that runs.
        stop: What ends it instead of a kill; a cell is to leave its context alive.
    """

    execution: Execution
    options: ExecutionOptions
    number: int = 0
    asked_at: float = 0.0
    compiling: trio.CancelScope | None = None
    stop: Callable[[], Awaitable[None]] | None = None


Program = Job
"""What `execute` runs: a text, its language, and where it lies."""


async def run_program(core: SandboxCore, running: Running, program: Program, order: Order, sink: OutputSink) -> Outcome:
    """Compile it, if its language is compiled, and run it to its end.

    Cancellation ends whichever is going on, and waits for that.

    Args:
        core: The sandbox.
        running: The execution; `compiling` is set meanwhile.
        program: What.
        order: How it is run.
        sink: Gets its output, and of a compiler that failed, what that wrote.

    Raises:
        UnsupportedHostError: The toolchain is not there.
        SandboxError: As `run_execution`.
    """
    runtime = program.runtime
    notes: Mapping[str, object] = {}
    if runtime.compile is not None:
        running.compiling = trio.CancelScope()
        try:
            with running.compiling as scope:
                compiled = await compile_program(core, program)
                await _wait_resumed(core)
            if scope.cancelled_caught:
                return _without_program(order, KillReason.CANCELLED)
        finally:
            running.compiling = None
        notes = compiled.notes
        if compiled.failure is not None:
            sink.put("stderr", memoryview(compiled.failure.stderr))
            return dataclasses.replace(compiled.failure, notes=notes)
    try:
        outcome = await run_execution(core.living()[1], order, sink)
    except ProgramStartError as exc:
        if exc.path.startswith(f"{program.place.built}/"):
            # A text can make a compiler write a program that no kernel starts, with an interpreter that is not there.
            return _without_program(order, KillReason.NONE, f"nsbox: the compiled program cannot be started: {exc}\n")
        if isinstance(exc, ProgramNotFoundError) and exc.path == runtime.run[0]:
            raise missing_toolchain(runtime, exc.path) from exc
        raise
    return dataclasses.replace(outcome, notes=notes) if notes else outcome


async def _wait_resumed(core: SandboxCore) -> None:
    """A sandbox that was suspended while its program was compiled starts it when it goes on."""
    while core.status is SandboxStatus.SUSPENDED:
        changed = trio.Event()

        def note(_: StateChanged, changed: trio.Event = changed) -> None:
            changed.set()

        unsubscribe = core.emitter.subscribe(StateChanged, note)
        try:
            await changed.wait()
        finally:
            unsubscribe()


def _without_program(order: Order, reason: KillReason, text: str = "") -> Outcome:
    """How an execution ended whose program never ran."""
    observation = Observation(
        wait_status=_SIGKILL if reason is KillReason.CANCELLED else 0, reason=reason, violation=None, oom_kills=0,
        processes_refused=0, quota_full=False, bytes_dropped=0, wall_seconds=0.0, cpu_seconds=0.0, user_seconds=0.0,
        system_seconds=0.0, peak_memory_bytes=0, process_count_peak=0, read_bytes=0, written_bytes=0, max_rss_bytes=0,
        memory_limit_bytes=order.bounds.memory_bytes, cgroup_mode=order.bounds.cgroup_mode, compiler=True,
    )  # fmt: skip
    return Outcome(observation=observation, stdout=b"", stderr=text.encode(), suspended_seconds=0.0)
