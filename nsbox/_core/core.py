"""The sandbox: its states, and the way of an execution through it. Everything here runs in one trio run."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import trio

from nsbox._cgroups import isolation_report
from nsbox._config import ExecutionOptions, Runtime, SandboxConfig, effective_limits
from nsbox._core.sources import program_source
from nsbox._core.support import refuse_unavailable
from nsbox._core.turns import Turns
from nsbox._errors import InvalidStateError, NetworkError, ResourceLimitError, UnsupportedHostError
from nsbox._plan import disk_backed, hostfiles, plan_execution, users
from nsbox._results import Execution, ExecutionResult, SandboxMetadata
from nsbox._runtimes import fill_in, find_runtime
from nsbox._states import ACTIVE, SandboxStatus, StateMachine
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import Order, Outcome, run_execution
from nsbox._supervisor.inside import read_inside
from nsbox._supervisor.supervisor import Supervisor, current_supervisor
from nsbox._tracebacks import parse_python_error
from nsbox._verdict import KillReason, execution_metrics, judge

_S = SandboxStatus
_MIB = 1 << 20
_IMAGE_SLACK = 512 * 1024
"""ext4 refuses a write of 1 MiB with some 270 KiB left, and writes no part of it (seen); tmpfs fills to the end."""
COMMAND = "command"
"""The language of what `run` and `shell` run."""


class _Totals:
    """What `SandboxMetadata` is made from, when somebody asks."""

    __slots__ = ("cpu_seconds", "created_at", "executions", "last_active_at", "peak_memory_bytes")

    def __init__(self, now: datetime) -> None:
        self.created_at = self.last_active_at = now
        self.executions = 0
        self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0


class SandboxCore:
    """One sandbox. See `AsyncSandbox`, whose methods are these.

    Args:
        config: What it is made from.

    Raises:
        ConfigError: It asks for what this version does not have.
    """

    def __init__(self, config: SandboxConfig) -> None:
        refuse_unavailable(config)
        self.runtime = find_runtime(config.runtime)
        self.id = f"sbx-{secrets.token_hex(6)}"
        self.config = config
        self._machine = StateMachine(self._note_change)
        self._supervisor: Supervisor | None = None
        self._cell: Cell | None = None
        self._changing = Turns()  # start, suspend, resume, restart, reset, terminate: one at a time
        self._running: dict[str, Execution] = {}
        self._numbers: dict[str, int] = {}
        self._idle = trio.Event()
        self._idle.set()
        self._before_suspension = _S.RUNNING
        self._totals = _Totals(datetime.now(UTC))
        self._passwd: str | None = None

    # ------------------------------------------------------------ what it is

    @property
    def status(self) -> SandboxStatus:
        return self._machine.status

    @property
    def metadata(self) -> SandboxMetadata:
        totals = self._totals
        return SandboxMetadata(
            created_at=totals.created_at,
            last_active_at=totals.last_active_at,
            total_executions=totals.executions,
            total_cpu_time=totals.cpu_seconds,
            total_memory_used=totals.peak_memory_bytes,
            total_disk_used=0 if self._cell is None else self._cell.disk_used_bytes(),
            tags=self.config.tags,
            environment=self.config.environment,
        )

    @property
    def executions(self) -> Mapping[str, Execution]:
        return dict(self._running)

    @property
    def isolation(self) -> Mapping[str, str]:
        if self._supervisor is None or self._cell is None:
            raise InvalidStateError(f"a sandbox that is {self.status.value} has no isolation to report; start it first")
        return {
            "namespaces": "user, pid, mount, network, ipc, uts, cgroup",
            "ids": self._supervisor.ids.description,
            "filter": f"{self._cell.plan.policy.name}, {self._cell.plan.policy.instructions} instructions",
            "interpreter": "cold",
            **isolation_report(self._supervisor.tree),
        }

    def _note_change(self, *_: SandboxStatus) -> None:
        self._totals.last_active_at = datetime.now(UTC)

    # ------------------------------------------------------------ its life

    async def start(self) -> None:
        async with self._changing:
            self._machine.require(_S.CREATING, action="start")
            try:
                self._supervisor = await current_supervisor()
                await self._supervisor.require(self.config.require)
                await self._make_cell()
            except Exception:
                self._machine.to(_S.ERROR)
                raise
            except BaseException:  # cancelled: nothing was made, or it is unmade
                self._machine.to(_S.TERMINATING)
                self._machine.to(_S.TERMINATED)
                raise
            self._machine.to(_S.RUNNING)

    async def suspend(self, *, stop_executions: bool = False) -> None:
        async with self._changing:
            self._machine.require(*ACTIVE, action="suspend")
            supervisor, cell = self._living()
            if not supervisor.tree.hierarchies:
                lack = supervisor.tree.reasons.get("cgroup_freeze")
                raise UnsupportedHostError(
                    f"suspend needs the cgroup freezer: {lack}",
                    missing=("cgroup_freeze",),
                    remedies=(lack.remedy,) if lack is not None else (),
                )
            if stop_executions:
                await self._stop_executions()
            before = self.status
            await cell.freeze()
            self._before_suspension = before
            self._machine.to(_S.SUSPENDED)

    async def resume(self) -> None:
        async with self._changing:
            self._machine.require(_S.SUSPENDED, action="resume")
            await self._living()[1].thaw()
            before = self._before_suspension
            if before is _S.BUSY and not self._running:
                before = _S.IDLE
            self._machine.to(before)

    async def restart(self) -> None:
        async with self._changing:
            self._machine.require(*ACTIVE, _S.SUSPENDED, action="restart")
            await self._stop_executions()
            await self._living()[1].restart()
            if self.status is _S.SUSPENDED:
                self._machine.to(_S.RUNNING)

    async def reset(self) -> None:
        async with self._changing:
            self._machine.require(*ACTIVE, _S.SUSPENDED, _S.ERROR, action="reset")
            await self._stop_executions()
            supervisor, cell = self._supervisor, self._cell
            self._cell = None
            if supervisor is not None and cell is not None:
                cell.on_lost = None
                await supervisor.destroy(cell)
            try:
                self._supervisor = await current_supervisor()
                await self._make_cell()
            except BaseException:
                if self.status is not _S.ERROR:
                    self._machine.to(_S.ERROR)
                raise
            if self.status in (_S.SUSPENDED, _S.ERROR):
                self._machine.to(_S.RUNNING)

    async def terminate(self) -> None:
        with trio.CancelScope(shield=True):  # half a termination is a leak
            async with self._changing:
                if self.status is _S.TERMINATED:
                    return
                self._machine.to(_S.TERMINATING)
                supervisor, cell = self._supervisor, self._cell
                self._cell = None
                if supervisor is not None and cell is not None:
                    cell.on_lost = None
                    await supervisor.destroy(cell)
                    if not self._idle.is_set():
                        await self._idle.wait()  # what was running has its result, CANCELLED
                self._machine.to(_S.TERMINATED)

    async def _make_cell(self) -> None:
        assert self._supervisor is not None
        cell = await self._supervisor.create(self.config)
        cell.on_lost = self._lose
        self._cell = cell
        if cell.lost is not None:
            raise cell.lost

    def _lose(self, _: NetworkError) -> None:
        if self.status in ACTIVE or self.status is _S.SUSPENDED:
            self._machine.to(_S.ERROR)

    def _living(self) -> tuple[Supervisor, Cell]:
        if self._supervisor is None or self._cell is None:
            raise InvalidStateError(f"the sandbox is {self.status.value}")
        return self._supervisor, self._cell

    async def _stop_executions(self) -> None:
        for execution_id in tuple(self._running):
            await self.terminate_execution(execution_id)
        await self._idle.wait()

    # ------------------------------------------------------------ executions

    async def execute(self, code: str, options: ExecutionOptions) -> ExecutionResult:
        runtime = self.runtime if options.language is None else find_runtime(options.language)
        text = code.encode("utf-8", "surrogatepass")  # what is no text is the interpreter's to refuse
        self._require_active()
        _, cell = self._living()
        execution = self._new_execution(code, runtime.name, options)
        with program_source(cell.source, execution.id, runtime.file_name, text) as source:
            return await self._perform(execution, runtime.run, runtime, source)

    async def run(self, argv: Sequence[str], options: ExecutionOptions) -> ExecutionResult:
        self._require_active()
        return await self._perform(self._new_execution(shlex.join(argv), COMMAND, options), argv, None, "")

    def _require_active(self) -> None:
        self._machine.require(*ACTIVE, action="execute")
        most = self.config.enforcement.max_concurrent_executions
        if len(self._running) >= most:
            raise ResourceLimitError(
                f"{most} executions are running, which is all that enforcement.max_concurrent_executions allows"
            )

    def _new_execution(self, code: str, language: str, options: ExecutionOptions) -> Execution:
        return Execution(
            id=f"exec-{secrets.token_hex(8)}", sandbox_id=self.id, code=code, language=language, options=options,
            created_at=datetime.now(UTC),
        )  # fmt: skip

    async def _perform(
        self, execution: Execution, argv: Sequence[str], runtime: Runtime | None, source: str
    ) -> ExecutionResult:
        """The way of one execution, down and up: plan, launcher, observation, verdict."""
        asked_at = trio.current_time()
        order = self._order(execution, argv, runtime, source)
        _, cell = self._living()
        self._begin(execution, order)
        result: ExecutionResult | None = None
        try:
            outcome = await run_execution(cell, order)
            took = outcome.observation.wall_seconds + outcome.suspended_seconds
            result = _result(execution, outcome, queued=max(0.0, trio.current_time() - asked_at - took))
            return result
        finally:
            self._end(execution, result)

    def _order(self, execution: Execution, argv: Sequence[str], runtime: Runtime | None, source: str) -> Order:
        supervisor, _ = self._living()
        config, options = self.config, execution.options
        limits = effective_limits(config, options)

        def fill(text: str) -> str:
            return fill_in(text, source=source, directory=limits.working_directory)

        plan = plan_execution(
            config, supervisor.tree, supervisor.ids, limits, options,
            argv if runtime is None else [fill(part) for part in argv],
            passwd="" if options.user is None else self._find_passwd(),
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
            disk_slack_bytes=_IMAGE_SLACK if disk_backed(config) else 0,
            file_size_bytes=resources.processes.max_file_size_mb * _MIB,
            cgroup_mode=supervisor.tree.mode,
            enforce_memory=config.enforcement.enforce_memory_limits,
            group=supervisor.tree.hierarchies[0].path if supervisor.tree.hierarchies else None,
            sampled=supervisor.tree.index_of("memory") is None,
        )

    def _find_passwd(self) -> str:
        if self.config.writable_root:  # users may have been added since
            text = read_inside(self._living()[1].root, "/etc/passwd", users.MOST_BYTES)
            return text.decode("utf-8", "surrogateescape")
        if self._passwd is None:
            root = self.config.rootfs
            self._passwd = users.HOST_PASSWD if root == "host" else hostfiles.read_text_beneath(str(root), "etc/passwd")
        return self._passwd

    def _begin(self, execution: Execution, order: Order) -> None:
        self._running[execution.id] = execution.started(datetime.now(UTC))
        self._numbers[execution.id] = order.id
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._totals.executions += 1
        if self.status is not _S.BUSY:
            self._machine.to(_S.BUSY)

    def _end(self, execution: Execution, result: ExecutionResult | None) -> None:
        del self._running[execution.id], self._numbers[execution.id]
        if result is not None and result.metrics is not None:
            self._totals.cpu_seconds += result.metrics.cpu_seconds
            self._totals.peak_memory_bytes = max(self._totals.peak_memory_bytes, result.metrics.peak_memory_bytes)
        self._totals.last_active_at = datetime.now(UTC)
        if not self._running:
            self._idle.set()
            if self.status is _S.BUSY:
                self._machine.to(_S.IDLE)

    async def terminate_execution(self, id: str) -> None:
        number = self._numbers.get(id)
        if number is None:
            raise InvalidStateError(f"no execution {id!r} is running in this sandbox")
        await self._living()[1].kill(number, KillReason.CANCELLED)


def _result(execution: Execution, outcome: Outcome, *, queued: float) -> ExecutionResult:
    seen = outcome.observation
    judgement = judge(seen)
    metrics = execution_metrics(seen, queued_seconds=queued, suspended_seconds=outcome.suspended_seconds)
    failed = judgement.exit_code not in (0, None) and execution.language == "python"
    return ExecutionResult(
        execution_id=execution.id,
        verdict=judgement.verdict,
        exit_code=judgement.exit_code,
        signal=judgement.signal,
        stdout_bytes=outcome.stdout,
        stderr_bytes=outcome.stderr,
        truncated=seen.bytes_dropped > 0,
        error=parse_python_error(outcome.stderr.decode("utf-8", "replace")) if failed else None,
        metrics=metrics if execution.options.capture_metrics else None,
        evidence=judgement.evidence,
    )
