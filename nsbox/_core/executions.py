"""The executions of a sandbox: the one path that all of them go, down and up."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import trio

from nsbox._config import ExecutionOptions, FrozenMap, Runtime, effective_limits
from nsbox._core.aftermath import announce, is_quota_full, verdict_error
from nsbox._core.orders import make_order
from nsbox._core.output import OutputQueue, OutputSink
from nsbox._core.program import Program, Running, run_program
from nsbox._core.sources import program_source
from nsbox._core.standbys import Waiting
from nsbox._core.toolchain import values_for
from nsbox._errors import InvalidStateError, ResourceLimitError
from nsbox._events import ExecutionOutput, ExecutionStarted, MetricsUpdated
from nsbox._languages import choose_language
from nsbox._results import Execution, ExecutionResult, Verdict
from nsbox._runtimes import RUNTIMES, fill_in, find_runtime, source_values
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_execution
from nsbox._supervisor.order import Order, Outcome
from nsbox._tracebacks import parse_python_error
from nsbox._verdict import KillReason, execution_metrics, judge

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_S = SandboxStatus
_FAILED_KEPT = 8
COMMAND = "command"
"""The language of what `run`, `shell` and `spawn` run."""


class Executions:
    """All that run in one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._idle = trio.Event()
        self._idle.set()
        self._stopping = 0
        self.running: dict[str, Running] = {}
        self._failed: OrderedDict[str, Running] = OrderedDict()

    # ------------------------------------------------------------ what callers ask for

    async def execute(self, code: str, options: ExecutionOptions, queue: OutputQueue | None = None) -> ExecutionResult:
        """Run a program.

        Args:
            code: Its text.
            options: How.
            queue: Who reads its output meanwhile, and may hold it up.
        """
        runtime = self._runtime_for(code, options)
        text = code.encode("utf-8", "surrogatepass")  # what is no text is the interpreter's to refuse
        names = source_values(runtime, code)
        self.require_room()
        running = self._new(code, runtime.name, options)
        waiting = self._core.standbys.take(running, runtime)
        try:
            if waiting is not None:
                return await self._execute_waiting(running, waiting, text, queue)
            with self._program(running, runtime, text, names) as (program, order):
                return await self._perform(running, order, partial(run_program, self._core, running, program), queue)
        finally:
            self._core.standbys.ran(runtime)

    @contextlib.contextmanager
    def _program(
        self, running: Running, runtime: Runtime, text: bytes, names: Mapping[str, str]
    ) -> Iterator[tuple[Program, Order]]:
        """A program in the sandbox, and what the launcher is told of it; gone afterwards."""
        _, cell = self._core.living()
        with program_source(cell.source, running.execution.id, fill_in(runtime.file_name, names), text) as place:
            program = Program(runtime=runtime, text=text, names=names, place=place)
            order = self.order(running, runtime.run, program)
            if self._core.wants_warm(running.options, text, runtime):
                order = replace(order, warm=True)
            yield program, order

    async def _execute_waiting(
        self, running: Running, taken: tuple[Waiting, Order], text: bytes, queue: OutputQueue | None
    ) -> ExecutionResult:
        """By what has waited for it; where that has died meanwhile, as any other."""
        waiting, order = taken

        async def carry_out(order: Order, sink: OutputSink) -> Outcome:
            outcome = await waiting.run(text, order, sink)
            if outcome is not None:
                return outcome
            with self._program(running, waiting.runtime, text, {}) as (program, cold):
                running.number = cold.id
                return await run_program(self._core, running, program, cold, sink)

        try:
            return await self._perform(running, order, carry_out, queue)
        except BaseException:
            await waiting.standby.end()  # it is nobody's any more
            raise

    def _runtime_for(self, code: str, options: ExecutionOptions) -> Runtime:
        """The one that was asked for, else what the text is written in, if that is sure, else the sandbox's."""
        if options.language is not None:
            return find_runtime(options.language)
        own = self._core.runtime
        if RUNTIMES.get(own.name) is not own:  # a runtime of the caller's own is meant for all that he runs
            return own
        return find_runtime(choose_language(code, own.name))

    async def run(
        self, argv: Sequence[str], options: ExecutionOptions, queue: OutputQueue | None = None
    ) -> ExecutionResult:
        """Run a command."""
        self.require_room()
        running = self._new(shlex.join(argv), COMMAND, options)

        async def carry_out(order: Order, sink: OutputSink) -> Outcome:
            return await run_execution(self._core.living()[1], order, sink)

        return await self._perform(running, self.order(running, argv), carry_out, queue)

    async def again(self, id: str) -> ExecutionResult:
        """Run one of the last that failed once more, as it was asked for.

        Raises:
            InvalidStateError: It is not among them.
            SandboxError: As `execute`.
        """
        failed = self._failed.get(id)
        if failed is None:
            raise InvalidStateError(
                f"execution {id!r} is not among the last {_FAILED_KEPT} that failed in this sandbox"
            )
        if failed.execution.language == COMMAND:
            return await self.run(shlex.split(failed.execution.code), failed.options)
        return await self.execute(failed.execution.code, replace(failed.options, language=failed.execution.language))

    async def terminate(self, id: str) -> None:
        """Kill one; its result says CANCELLED."""
        running = self.running.get(id)
        if running is None:
            raise InvalidStateError(f"no execution {id!r} is running in this sandbox")
        if running.compiling is not None:
            running.compiling.cancel()
        elif running.stop is not None:
            await running.stop()
        else:
            await self._core.living()[1].kill(running.number, KillReason.CANCELLED)

    async def stop_all(self) -> None:
        """Kill all, and wait until they have their results."""
        self._stopping += 1
        try:
            for execution_id in tuple(self.running):
                if execution_id in self.running:
                    await self.terminate(execution_id)
            await self.wait_idle()
        finally:
            self._stopping -= 1

    def stop_compiling(self) -> None:
        """Kill the compilers of those that have not begun to run."""
        for running in self.running.values():
            if running.compiling is not None:
                running.compiling.cancel()

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
        if self._stopping:
            raise InvalidStateError("cannot execute: the sandbox's executions are being stopped")
        most = self._core.config.enforcement.max_concurrent_executions
        if len(self.running) >= most:
            raise ResourceLimitError(
                f"{most} executions are running, which is all that enforcement.max_concurrent_executions allows"
            )

    def new_command(self, argv: Sequence[str], options: ExecutionOptions) -> Running:
        """A command that is about to run, after `require_room`."""
        return self._new(shlex.join(argv), COMMAND, options)

    def new_standby(self, language: str) -> Running:
        """What nobody has asked for yet, with the options that are nobody's."""
        return self._new("", language, ExecutionOptions())

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
        order: Order,
        run: Callable[[Order, OutputSink], Awaitable[Outcome]],
        queue: OutputQueue | None,
    ) -> ExecutionResult:
        sink = OutputSink(self._core.emitter, running.execution.id, queue)

        async def carry_out(_: Cell) -> Outcome:
            outcome = await run(order, sink)
            sink.finish()
            return outcome

        with contextlib.ExitStack() as subscriptions:
            if queue is not None:
                subscribe = self._core.emitter.subscribe
                subscriptions.callback(subscribe(ExecutionOutput, queue.put_own(running.execution.id)))
                subscriptions.callback(subscribe(MetricsUpdated, queue.put))
            result = await self.perform(running, order, carry_out)
        if not result.ok:
            self._failed[running.execution.id] = running
            while len(self._failed) > _FAILED_KEPT:
                self._failed.popitem(last=False)
        return result

    async def perform(
        self, running: Running, order: Order, carry_out: Callable[[Cell], Awaitable[Outcome]]
    ) -> ExecutionResult:
        """From the first event to the last: plan, launcher, observation, verdict.

        Args:
            running: What was asked for.
            order: What the launcher is told of it.
            carry_out: The way down and up.
        """
        self.require_room()  # again: a spawned program's task starts later than it was asked for
        _, cell = self._core.living()
        self._begin(running, order)
        result: ExecutionResult | None = None
        error: BaseException | None = None
        try:
            outcome = await carry_out(cell)
            took = outcome.observation.wall_seconds + outcome.suspended_seconds
            if not order.bounds.enforce_memory:
                peak = outcome.observation.memory_peak_bytes
                self._core.meter.observed(peak, order.bounds.memory_bytes, running.asked_at)
            result = result_of(running, outcome, queued=max(0.0, trio.current_time() - running.asked_at - took))
            return result
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._end(running, result, error)
            if result is not None and result.verdict is Verdict.SECURITY_VIOLATION:
                self._core.last_error = verdict_error(result)
                await self._core.terminate()  # not cancelled; what attacks gets no second program

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

    def order(self, running: Running, argv: Sequence[str], program: Program | None = None) -> Order:
        """What the launcher and the pumps are told."""
        supervisor, _ = self._core.living()
        config = self._core.config
        limits = effective_limits(config, running.options, self._core.environment.variables)
        environment: Mapping[str, str] = {}
        if program is not None:
            memory_bytes = limits.memory_bytes or config.resources.memory.limit_mb << 20
            values = {
                **program.names, **values_for(config, memory_bytes, supervisor.allowed_cpus),
                "source": program.place.source, "beside": program.place.directory, "output": program.place.built,
                "directory": limits.working_directory,
            }  # fmt: skip
            argv = [fill_in(part, values) for part in argv]
            environment = {name: fill_in(text, values) for name, text in program.runtime.environment.items()}
        return make_order(
            supervisor, config, limits, running.options, argv,
            passwd="" if running.options.user is None else self._core.find_passwd(), runtime_environment=environment,
        )  # fmt: skip


def result_of(running: Running, outcome: Outcome, queued: float) -> ExecutionResult:
    """What the caller gets."""
    seen = outcome.observation
    judgement = judge(seen)
    metrics = execution_metrics(seen, queued_seconds=queued, suspended_seconds=outcome.suspended_seconds)
    reported = outcome.reported
    error = None if reported is None else reported.error
    notes = outcome.notes if reported is None else {**outcome.notes, "context_alive": reported.alive}
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
        evidence=FrozenMap({**judgement.evidence, **notes}) if notes else judgement.evidence,
        outputs=() if reported is None else reported.outputs,
    )
