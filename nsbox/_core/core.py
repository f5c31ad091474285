"""The sandbox: its states, its life, and its parts. Everything here runs in one trio run."""

from __future__ import annotations

import dataclasses
import functools
import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import trio

from nsbox._cgroups import CgroupTree, isolation_report
from nsbox._config import ExecutionOptions, Runtime, SandboxConfig
from nsbox._core.contexts import Contexts
from nsbox._core.emitter import Emitter
from nsbox._core.environment import Environment
from nsbox._core.executions import Executions
from nsbox._core.files import Files
from nsbox._core.guard import MemoryGuard
from nsbox._core.heartbeat import Heartbeat
from nsbox._core.metering import Meter
from nsbox._core.network import SandboxNetwork
from nsbox._core.part import Part
from nsbox._core.ports import Ports
from nsbox._core.recovery import Recovery
from nsbox._core.standbys import Standbys
from nsbox._core.store import Recorder
from nsbox._core.turns import Turns
from nsbox._errors import InvalidStateError, NetworkError, UnsupportedHostError
from nsbox._events import Created, ResourceExceeded, Resumed, Started, StateChanged, Suspended, Terminated
from nsbox._host import separation_of_executions
from nsbox._metrics.reclaim import reclaim, reclaim_directory
from nsbox._plan import hostfiles, users
from nsbox._results import Execution, ExecutionResult, SandboxMetadata
from nsbox._rootfs import Hold, needs_opening, open_root
from nsbox._runtimes import find_runtime
from nsbox._states import ACTIVE, SandboxStatus, StateMachine
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.inside import read_inside
from nsbox._supervisor.registry import Facts
from nsbox._supervisor.supervisor import Supervisor, current_supervisor
from nsbox._warm.plan import InterpreterPlan, can_be_warm, check_preload, may_run_warm, plan_interpreter

log = logging.getLogger("nsbox")

_S = SandboxStatus


class Totals:
    """What `SandboxMetadata` is made from, when somebody asks.

    Args:
        now: When the sandbox was made.
    """

    __slots__ = ("cpu_seconds", "created_at", "executions", "last_active_at", "peak_memory_bytes")

    def __init__(self, now: datetime) -> None:
        self.created_at = self.last_active_at = now
        self.executions = 0
        self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0

    def add(self, result: ExecutionResult | None) -> None:
        """An execution has ended; None: it could not be carried out."""
        if result is not None and result.metrics is not None:
            self.cpu_seconds += result.metrics.cpu_seconds
            self.peak_memory_bytes = max(self.peak_memory_bytes, result.metrics.peak_memory_bytes)
        self.last_active_at = datetime.now(UTC)


class SandboxCore:
    """One sandbox. See `AsyncSandbox`, whose methods are these and those of its parts.

    Args:
        config: What it is made from.

    Raises:
        ConfigError: It asks for what this version does not have.
    """

    def __init__(self, config: SandboxConfig) -> None:
        check_preload(config)
        self.runtime = find_runtime(config.runtime, field="runtime")
        self.id = f"sbx-{secrets.token_hex(6)}"
        self.given = config
        """As the caller wrote it; of `config`, `rootfs` is a directory where he wrote a name."""
        self.config = config
        self._hold: Hold | None = None
        self.totals = Totals(datetime.now(UTC))
        self.emitter = Emitter(self.id)
        self.machine = StateMachine(self._note_change)
        self.executions = Executions(self)
        self.environment = Environment(config.environment, self.emitter, self._require_living)
        self._recorder: Recorder | None = None
        if config.store is not None:
            self._recorder = Recorder(config, self.emitter, self.id, self.runtime.name)
        self.files = Files(self)
        self.contexts = Contexts(self)
        self.standbys = Standbys(self)
        self.meter = Meter(self)
        self.heartbeat = Heartbeat(self)
        self.recovery = Recovery(self)
        self.last_error: BaseException | None = None
        """What last went wrong with the sandbox itself; None where nothing has, or all is well again."""
        self.ports = Ports(self.id, self.emitter, self.machine)
        self.network = SandboxNetwork(self)
        guards = (MemoryGuard(self),) if config.resources.memory.oom_kill_disable else ()
        self._parts: tuple[Part, ...] = (
            self.heartbeat, self.contexts, self.standbys, self.files, self.ports, self.network, self.meter, *guards,
        )  # fmt: skip
        self._supervisor: Supervisor | None = None
        self._cell: Cell | None = None
        self.changing = Turns()  # start, suspend, resume, restart, reset, terminate, recovery: one at a time
        self._before_suspension = _S.RUNNING
        self._passwd: str | None = None

    # ------------------------------------------------------------ what it is

    @property
    def status(self) -> SandboxStatus:
        return self.machine.status

    @property
    def metadata(self) -> SandboxMetadata:
        totals = self.totals
        return SandboxMetadata(
            created_at=totals.created_at,
            last_active_at=totals.last_active_at,
            total_executions=totals.executions,
            total_cpu_time=max(totals.cpu_seconds, self.meter.cpu_seconds),
            total_memory_used=totals.peak_memory_bytes,
            total_disk_used=0 if self._cell is None else self._cell.disk_used_bytes(),
            tags=self.config.tags,
            environment=self.environment.variables,
        )

    @property
    def running(self) -> Mapping[str, Execution]:
        return {one.execution.id: one.execution for one in tuple(self.executions.running.values())}

    @property
    def isolation(self) -> Mapping[str, str]:
        if self._supervisor is None or self._cell is None:
            raise InvalidStateError(f"a sandbox that is {self.status.value} has no isolation to report; start it first")
        return {
            "namespaces": "user, pid, mount, network, ipc, uts, cgroup",
            "ids": self._supervisor.ids.description,
            "filter": f"{self._cell.plan.policy.name}, {self._cell.plan.policy.instructions} instructions",
            "network": self.network.description,
            "executions": separation_of_executions(),
            "interpreter": self._supervisor.interpreters.state(self._cell.kind),
            **isolation_report(self._supervisor.tree),
        }

    def _facts(self) -> Facts:
        """What `nsbox ps` shows of it."""
        return Facts(
            id=self.id, status=self.status.value, runtime=self.runtime.name, user_id=self.config.user_id,
            created_at=self.totals.created_at, running=len(self.executions.running),
            executions=self.totals.executions, number=None if self._cell is None else self._cell.number,
        )  # fmt: skip

    def living(self) -> tuple[Supervisor, Cell]:
        """What it consists of.

        Raises:
            InvalidStateError: It is not started, or has ended.
        """
        if self._supervisor is None or self._cell is None:
            raise InvalidStateError(f"the sandbox is {self.status.value}")
        return self._supervisor, self._cell

    def find_passwd(self) -> str:
        """The text of its /etc/passwd; hostile where it can be changed inside."""
        if self.config.writable_root:  # users may have been added since
            text = read_inside(self.living()[1].root, "/etc/passwd", users.MOST_BYTES)
            return text.decode("utf-8", "surrogateescape")
        if self._passwd is None:
            root = self.config.rootfs
            self._passwd = users.HOST_PASSWD if root == "host" else hostfiles.read_text_beneath(str(root), "etc/passwd")
        return self._passwd

    def wants_warm(self, options: ExecutionOptions, text: bytes, runtime: Runtime) -> bool:
        """Whether a program may be run by a warm interpreter; where there is none yet, it is seen to."""
        if runtime is not self.runtime or runtime.name != "python" or not can_be_warm(self.config):
            return False
        if not may_run_warm(text, {**self.environment.variables, **options.environment}):
            return False
        supervisor, cell = self.living()
        supervisor.interpreters.wanted(cell.kind, self._interpreter)
        return True

    def warm_up(self) -> None:
        """Have the interpreter started, beside the caller, that programs of its language can be run by."""
        if self.runtime.name == "python" and can_be_warm(self.config):
            supervisor, cell = self.living()
            supervisor.interpreters.expect(cell.kind, self._interpreter)

    @functools.cached_property
    def _interpreter(self) -> InterpreterPlan:
        return plan_interpreter(self.config, self.runtime.environment)

    def _note_change(self, old: SandboxStatus, new: SandboxStatus) -> None:
        self.totals.last_active_at = datetime.now(UTC)
        self.emitter.emit(StateChanged, old_state=old, new_state=new)

    def _require_living(self) -> None:
        if self.status in (_S.TERMINATING, _S.TERMINATED):
            raise InvalidStateError(f"the sandbox is {self.status.value}")

    # ------------------------------------------------------------ its life

    async def start(self) -> None:
        async with self.changing:
            self.machine.require(_S.CREATING, action="start")
            try:
                if self._recorder is not None:
                    await self._recorder.open()  # first, so that what fails then is kept too
                self._supervisor = await current_supervisor()
                await self._supervisor.require(self.config.require)
                await self._make_cell()
            except Exception as exc:
                self.last_error = exc
                self.machine.to(_S.ERROR)
                raise
            except BaseException:  # cancelled: nothing was made, or it is unmade
                self.machine.to(_S.TERMINATING)
                self.machine.to(_S.TERMINATED)
                self.emitter.emit(Terminated)
                raise
            self.machine.to(_S.RUNNING)
            self.emitter.emit(Started)

    async def suspend(self, *, stop_executions: bool = False, reclaim_memory: bool = False) -> None:
        async with self.changing:
            self.machine.require(*ACTIVE, action="suspend")
            supervisor, cell = self.living()
            if not supervisor.tree.hierarchies:
                raise _lacks(supervisor.tree, "cgroup_freeze", "suspend needs the cgroup freezer")
            directory = reclaim_directory(supervisor.tree, cell.number)
            if reclaim_memory and directory is None:
                raise _lacks(supervisor.tree, "memory_reclaim", "this host cannot reclaim the memory of a sandbox")
            if stop_executions:
                await self.executions.stop_all()
            await self._freeze(cell)
            if reclaim_memory and directory is not None:
                await self._reclaim(directory)

    async def suspend_at_limit(self, usage_mb: float) -> None:
        """Suspend it for want of memory, and say so; what is no longer active is left as it is.

        Args:
            usage_mb: MiB that are used.
        """
        async with self.changing:
            if self.status in ACTIVE:
                limit = float(self.config.resources.memory.limit_mb)
                self.emitter.emit(ResourceExceeded, resource="memory", usage=usage_mb, limit=limit)
                await self._freeze(self.living()[1])

    async def _freeze(self, cell: Cell) -> None:
        before = self.status
        await self.network.freeze(cell)
        self._before_suspension = before
        self.machine.to(_S.SUSPENDED)
        for part in self._parts:
            part.suspended()
        self.emitter.emit(Suspended)

    async def _reclaim(self, directory: Path) -> None:
        """It is suspended already, and stays so whatever comes of this."""
        try:
            given_back = await trio.to_thread.run_sync(reclaim, directory)
        except OSError as exc:
            log.warning("%s: its memory could not be reclaimed: %s", self.id, exc)
        else:
            log.info("%s: suspended, and %d bytes of memory given back", self.id, given_back)

    async def resume(self) -> None:
        async with self.changing:
            self.machine.require(_S.SUSPENDED, action="resume")
            await self.network.thaw(self.living()[1])
            before = self._before_suspension
            if before is _S.BUSY and not self.executions.running:
                before = _S.IDLE
            self.machine.to(before)
            for part in self._parts:
                part.resumed()
            self.emitter.emit(Resumed)

    async def restart(self) -> None:
        async with self.changing:
            self.machine.require(*ACTIVE, _S.SUSPENDED, action="restart")
            await self.executions.stop_all()
            _, cell = self.living()
            self._close_parts()
            try:
                await cell.restart()
                await self._renew_network()
            finally:
                if cell.lost is None and self.status is not _S.ERROR:  # also where it failed: it is as it was
                    self._open_parts()
            if self.status is _S.SUSPENDED:
                self.machine.to(_S.RUNNING)

    async def _renew_network(self) -> None:
        """For new processes, which without what they are to reach are of no use: the sandbox is in ERROR then."""
        try:
            await self.network.renew(*self.living())
        except BaseException as exc:
            self.last_error = exc
            if self.status is not _S.ERROR:
                self.machine.to(_S.ERROR)
            raise

    async def reset(self) -> None:
        await self.recovery.stop()
        async with self.changing:
            self.machine.require(*ACTIVE, _S.SUSPENDED, _S.ERROR, action="reset")
            await self.executions.stop_all()
            await self._unmake_cell()
            self.environment.reset()
            await self.ports.close_all()
            try:
                self._supervisor = await current_supervisor()
                await self._make_cell()
            except BaseException as exc:
                self.last_error = exc
                if self.status is not _S.ERROR:
                    self.machine.to(_S.ERROR)
                raise
            self.last_error = None
            if self.status in (_S.SUSPENDED, _S.ERROR):
                self.machine.to(_S.RUNNING)

    async def terminate(self) -> None:
        with trio.CancelScope(shield=True):  # half a termination is a leak
            await self.recovery.stop()
            async with self.changing:
                if self.status is _S.TERMINATED:
                    return
                self.machine.to(_S.TERMINATING)
                for part in self._parts:
                    await part.end()
                self.executions.stop_compiling()
                await self._unmake_cell()
                await self.executions.wait_idle()  # what was running has its result, CANCELLED
                self.machine.to(_S.TERMINATED)
                if self._recorder is not None:
                    await self._recorder.end()  # before the last event: that it failed is an event too
                self.emitter.emit(Terminated)

    async def _make_cell(self) -> None:
        assert self._supervisor is not None
        if self._recorder is not None:
            await self._recorder.open()
        await self._open_root()
        try:
            cell = await self._supervisor.create(self.config)
        except BaseException:
            self._close_root()
            raise
        cell.on_lost = self._lose
        self._cell = cell
        if cell.lost is not None:
            raise cell.lost
        try:
            if self.config.preload:
                await self._supervisor.interpreters.start(cell.kind, self._interpreter)
            if self.network.wanted:
                await self.network.attach(self._supervisor, cell)
        except BaseException:
            await self._unmake_cell()
            raise
        self._supervisor.registry.add(self.id, self._facts)
        self.emitter.emit(Created)
        self._open_parts()

    async def _unmake_cell(self) -> None:
        supervisor, cell = self._supervisor, self._cell
        self._cell = None
        if supervisor is not None and cell is not None:
            cell.on_lost = None
            self._close_parts()
            supervisor.registry.remove(self.id)
            try:
                await supervisor.destroy(cell)
            finally:
                await self.network.detach()  # now: killed programs have said goodbye to whom they spoke with
            self._close_root()

    async def _open_root(self) -> None:
        """Find what `rootfs` names, and keep it there; an image layout is unpacked first, where it has not been.

        Cancellation waits for the end of that.
        """
        if self._hold is None and needs_opening(self.given.rootfs):
            self._hold = await trio.to_thread.run_sync(open_root, self.given.rootfs)
            self._passwd = None
            self.config = dataclasses.replace(self.config, rootfs=self._hold.tree.root)
            self.environment.set_defaults(self._hold.tree.record.environment)

    def _close_root(self) -> None:
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def _open_parts(self) -> None:
        supervisor, cell = self.living()
        for part in self._parts:
            part.opened(supervisor, cell)

    def _close_parts(self) -> None:
        for part in self._parts:
            part.closed()

    async def remake(self) -> None:
        """From ERROR to RUNNING, by new processes: with the files of before where the launcher still has them. For who
        holds `changing`.

        Cancellation leaves it in ERROR.

        Raises:
            SandboxError: It stays in ERROR.
        """
        await self.executions.wait_idle()  # what was running has been told of the loss
        supervisor, cell = self._supervisor, self._cell
        if supervisor is not None and cell is not None and cell.lost is not None and not supervisor.channel.broken:
            await cell.revive()
            await self.network.renew(supervisor, cell)
            self._open_parts()
        else:
            await self._unmake_cell()
            self._supervisor = await current_supervisor()
            await self._make_cell()
        self.last_error = None
        self.machine.to(_S.RUNNING)

    def _lose(self, error: NetworkError) -> None:
        self._close_parts()
        self.last_error = error
        if self.status in ACTIVE or self.status is _S.SUSPENDED:
            self.machine.to(_S.ERROR)
            if self._supervisor is not None and not self._supervisor.stopping:
                self.recovery.begin(error)


def _lacks(tree: CgroupTree, capability: str, message: str) -> UnsupportedHostError:
    lack = tree.reasons.get(capability)
    return UnsupportedHostError(
        message if lack is None else f"{message}: {lack.why}",
        missing=(capability,),
        remedies=(lack.remedy,) if lack is not None else (),
    )
