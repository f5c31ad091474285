"""The executions of a sandbox: the one path that all of them go, down and up."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from nsbox._config import ExecutionOptions, Runtime, effective_limits
from nsbox._core.aftermath import announce, is_quota_full
from nsbox._core.output import OutputQueue, OutputSink
from nsbox._core.sources import program_source
from nsbox._errors import InvalidStateError, ResourceLimitError
from nsbox._events import ExecutionOutput, ExecutionStarted, MetricsUpdated
from nsbox._plan import disk_slack_bytes, plan_execution
from nsbox._results import Execution, ExecutionResult
from nsbox._runtimes import fill_in, find_runtime
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import Order, Outcome, run_execution
from nsbox._tracebacks import parse_python_error
from nsbox._verdict import KillReason, execution_metrics, judge

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_S = SandboxStatus
_MIB = 1 << 20
COMMAND = "command"
"""The language of what `run`, `shell` and `spawn` run."""


@dataclass(slots=True, kw_only=True)
class Running:
    """An execution on its way.

    Attributes:
        execution: The record, as events and `executions` have it: without secrets.
        options: As they are.
        number: The launcher's name for it.
        asked_at: trio's clock.
        stop: What ends it instead of a kill; a cell is to leave its context alive.
    """

    execution: Execution
    options: ExecutionOptions
    number: int = 0
    asked_at: float = 0.0
    stop: Callable[[], Awaitable[None]] | None = None


class Executions:
    """All that run in one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._idle = trio.Event()
        self._idle.set()
        self.running: dict[str, Running] = {}

    # ------------------------------------------------------------ what callers ask for

    async def execute(self, code: str, options: ExecutionOptions, queue: OutputQueue | None = None) -> ExecutionResult:
        """Run a program.

        Args:
            code: Its text.
            options: How.
            queue: Who reads its output meanwhile, and may hold it up.
        """
        runtime = self._core.runtime if options.language is None else find_runtime(options.language)
        text = code.encode("utf-8", "surrogatepass")  # what is no text is the interpreter's to refuse
        self.require_room()
        _, cell = self._core.living()
        running = self._new(code, runtime.name, options)
        with program_source(cell.source, running.execution.id, runtime.file_name, text) as source:
            return await self._perform(running, runtime.run, runtime, source, queue, text)

    async def run(
        self, argv: Sequence[str], options: ExecutionOptions, queue: OutputQueue | None = None
    ) -> ExecutionResult:
        """Run a command."""
        self.require_room()
        return await self._perform(self._new(shlex.join(argv), COMMAND, options), argv, None, "", queue, b"")

    async def terminate(self, id: str) -> None:
        """Kill one; its result says CANCELLED."""
        running = self.running.get(id)
        if running is None:
            raise InvalidStateError(f"no execution {id!r} is running in this sandbox")
        if running.stop is not None:
            await running.stop()
        else:
            await self._core.living()[1].kill(running.number, KillReason.CANCELLED)

    async def stop_all(self) -> None:
        """Kill all, and wait until they have their results."""
        for execution_id in tuple(self.running):
            await self.terminate(execution_id)
        await self.wait_idle()

    async def wait_idle(self) -> None:
        """Wait until none is left."""
        if not self._idle.is_set():
            await self._idle.wait()

    # ------------------------------------------------------------ the way of one

    def require_room(self) -> None:
        """Check that one more may run.

        Raises:
            InvalidStateError: The sandbox is not active.
            ResourceLimitError: As many as may are running.
        """
        self._core.machine.require(*ACTIVE, action="execute")
        most = self._core.config.enforcement.max_concurrent_executions
        if len(self.running) >= most:
            raise ResourceLimitError(
                f"{most} executions are running, which is all that enforcement.max_concurrent_executions allows"
            )

    def new_command(self, argv: Sequence[str], options: ExecutionOptions) -> Running:
        """A command that is about to run, after `require_room`."""
        return self._new(shlex.join(argv), COMMAND, options)

    def new_cell(self, code: str, language: str, options: ExecutionOptions) -> Running:
        """A cell of a context, or, without `code`, the program of one."""
        return self._new(code, language, options)

    def _new(self, code: str, language: str, options: ExecutionOptions) -> Running:
        return Running(
            execution=Execution(
                id=f"exec-{secrets.token_hex(8)}", sandbox_id=self._core.id, code=code, language=language,
                options=options.without_secrets, created_at=datetime.now(UTC),
            ),
            options=options,
            asked_at=trio.current_time(),
        )  # fmt: skip

    async def _perform(
        self,
        running: Running,
        argv: Sequence[str],
        runtime: Runtime | None,
        source: str,
        queue: OutputQueue | None,
        text: bytes,
    ) -> ExecutionResult:
        order = self.order(running, argv, runtime, source)
        if runtime is not None and self._core.wants_warm(running.options, text, runtime):
            order = dataclasses.replace(order, warm=True)
        sink = OutputSink(self._core.emitter, running.execution.id, queue)

        async def carry_out(cell: Cell) -> Outcome:
            outcome = await run_execution(cell, order, sink)
            sink.finish()
            return outcome

        with contextlib.ExitStack() as subscriptions:
            if queue is not None:
                subscribe = self._core.emitter.subscribe
                subscriptions.callback(subscribe(ExecutionOutput, queue.put_own(running.execution.id)))
                subscriptions.callback(subscribe(MetricsUpdated, queue.put))
            return await self.perform(running, order, carry_out)

    async def perform(
        self, running: Running, order: Order, carry_out: Callable[[Cell], Awaitable[Outcome]]
    ) -> ExecutionResult:
        """From the first event to the last: plan, launcher, observation, verdict.

        Args:
            running: What was asked for.
            order: What the launcher is told of it.
            carry_out: The way down and up.
        """
        _, cell = self._core.living()
        self._begin(running, order)
        result: ExecutionResult | None = None
        error: BaseException | None = None
        try:
            outcome = await carry_out(cell)
            took = outcome.observation.wall_seconds + outcome.suspended_seconds
            if not order.enforce_memory:
                peak = outcome.observation.memory_peak_bytes
                self._core.meter.observed(peak, order.memory_bytes, running.asked_at)
            result = result_of(running, outcome, queued=max(0.0, trio.current_time() - running.asked_at - took))
            return result
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._end(running, result, error)

    def _begin(self, running: Running, order: Order) -> None:
        core = self._core
        running.number = order.id
        running.execution = running.execution.started(datetime.now(UTC))
        self.running[running.execution.id] = running
        if self._idle.is_set():
            self._idle = trio.Event()
        core.totals.executions += 1
        if core.status is not _S.BUSY:
            core.machine.to(_S.BUSY)
        core.emitter.emit(ExecutionStarted, execution=running.execution)
        core.meter.begun(running.execution.id)

    def _end(self, running: Running, result: ExecutionResult | None, error: BaseException | None) -> None:
        core = self._core
        del self.running[running.execution.id]
        core.totals.add(result)
        announce(core.emitter, running.execution, result, error, core.meter.told_since(running.asked_at))
        core.meter.ended(running.execution.id, disk_full=result is not None and is_quota_full(result))
        if not self.running:
            self._idle.set()
            if core.status is _S.BUSY:
                core.machine.to(_S.IDLE)

    def order(self, running: Running, argv: Sequence[str], runtime: Runtime | None, source: str) -> Order:
        """What the launcher and the pumps are told."""
        supervisor, _ = self._core.living()
        config, options = self._core.config, running.options
        limits = effective_limits(config, options, self._core.environment.variables)

        def fill(text: str) -> str:
            return fill_in(text, source=source, directory=limits.working_directory)

        plan = plan_execution(
            config, supervisor.tree, supervisor.ids, limits, options,
            argv if runtime is None else [fill(part) for part in argv],
            passwd="" if options.user is None else self._core.find_passwd(),
            runtime_environment={name: fill(value) for name, value in runtime.environment.items()} if runtime else {},
            allowed_cpus=supervisor.allowed_cpus,
        )  # fmt: skip
        resources = config.resources
        stdin = options.stdin
        return Order(
            id=supervisor.next_number(),
            plan=plan,
            stdin=stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin or b"",
            keep_output=options.capture_output,
            output_bytes=round(config.enforcement.max_output_mb * _MIB),
            memory_bytes=limits.memory_bytes or resources.memory.limit_mb * _MIB,
            cpu_seconds=limits.cpu_seconds,
            process_limit=resources.processes.max_processes,
            disk_bytes=resources.disk.quota_mb * _MIB,
            disk_slack_bytes=disk_slack_bytes(config),
            file_size_bytes=resources.processes.max_file_size_mb * _MIB,
            cgroup_mode=supervisor.tree.mode,
            enforce_memory=config.enforcement.enforce_memory_limits,
            group=supervisor.tree.hierarchies[0].path if supervisor.tree.hierarchies else None,
            sampled=supervisor.tree.index_of("memory") is None,
        )


def result_of(running: Running, outcome: Outcome, queued: float) -> ExecutionResult:
    """What the caller gets."""
    seen = outcome.observation
    judgement = judge(seen)
    metrics = execution_metrics(seen, queued_seconds=queued, suspended_seconds=outcome.suspended_seconds)
    reported = outcome.reported
    error = None if reported is None else reported.error
    failed = reported is None and judgement.exit_code not in (0, None) and running.execution.language == "python"
    return ExecutionResult(
        execution_id=running.execution.id,
        verdict=judgement.verdict,
        exit_code=judgement.exit_code,
        signal=judgement.signal,
        stdout_bytes=outcome.stdout,
        stderr_bytes=outcome.stderr,
        truncated=seen.bytes_dropped > 0,
        error=parse_python_error(outcome.stderr.decode("utf-8", "replace")) if failed else error,
        metrics=metrics if running.options.capture_metrics else None,
        evidence=judgement.evidence if reported is None else {**judgement.evidence, "context_alive": reported.alive},
        outputs=() if reported is None else reported.outputs,
    )
