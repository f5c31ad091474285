"""One supervisor per trio run: it has a launcher, tells it about kinds of sandboxes, and makes sandboxes."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Sequence

import trio

from nsbox._config import SandboxConfig
from nsbox._errors import NetworkError, SandboxError, SetupError
from nsbox._host import HostFacts, missing_capabilities, probe_host
from nsbox._network.doors import RouterDoor
from nsbox._plan import TemplatePlan, disk_backed, plan_template
from nsbox._seccomp import compile_policy
from nsbox._supervisor import wire
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell, describe
from nsbox._supervisor.channel import Answer, Channel
from nsbox._supervisor.control import Control, ControlWatcher
from nsbox._supervisor.doors import make_router_door, router_error
from nsbox._supervisor.image import disk_image
from nsbox._supervisor.networking import Networking
from nsbox._supervisor.planner import Planner
from nsbox._supervisor.start import Launcher, setup_error, start_launcher
from nsbox._supervisor.warmth import Interpreters

_KINDS_KEPT = 8  # templates, each with its spares, of which the least recently used goes first
_END_SECONDS = 5.0
_INIT_DIED = "the sandbox's PID 1 has died, and every process with it"
_LAUNCHER_DIED = "the launcher has died, and with it every process and every file of its sandboxes"
_STOPPED = "the supervisor has ended, and every sandbox with it"

_current: trio.lowlevel.RunVar[Supervisor | None] = trio.lowlevel.RunVar("nsbox supervisor", None)
_starting: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("nsbox supervisor starting")


async def current_supervisor() -> Supervisor:
    """This trio run's supervisor, started if there is none or its launcher has died.

    It ends with the run, and with it every sandbox that was made here.

    Raises:
        SetupError: The launcher could not be started.
        UnsupportedHostError: The host lacks something that no sandbox can do without.
    """
    supervisor = _current.get()
    if supervisor is not None and not supervisor.channel.broken:
        return supervisor
    try:
        lock = _starting.get()
    except LookupError:
        lock = trio.Lock()
        _starting.set(lock)
    async with lock:
        supervisor = _current.get()
        if supervisor is None or supervisor.channel.broken:
            supervisor = await _start()
            _current.set(supervisor)
        return supervisor


def is_current(supervisor: Supervisor) -> bool:
    """Whether it is that of the run that this is called in."""
    return _current.get() is supervisor


async def _start() -> Supervisor:
    with trio.CancelScope(shield=True):  # some milliseconds; half a launcher is nobody's to clean up
        launcher = await trio.to_thread.run_sync(start_launcher)
    supervisor = Supervisor(launcher)
    trio.lowlevel.spawn_system_task(supervisor.serve, name="nsbox supervisor")
    return supervisor


async def stop_current() -> None:
    """End this run's supervisor, if it has one: every process, cgroup and descriptor of it is gone afterwards."""
    supervisor = _current.get()
    if supervisor is not None:
        _current.set(None)
        await supervisor.stop()


class Supervisor:
    """See `current_supervisor`.

    Args:
        launcher: One that answers.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._cells: dict[int, Cell] = {}
        self._kinds: OrderedDict[Hashable, tuple[int, TemplatePlan]] = OrderedDict()
        self._kept: set[int] = set()  # the numbers of the kinds above
        self._ahead: dict[int, Cell] = {}
        self._telling = trio.Lock()
        self._opening_router = trio.Lock()  # to two requests of the same name there would be one answer
        self._numbers = itertools.count(1)
        self._serving = trio.CancelScope()
        self._ended = trio.Event()
        self._facts: HostFacts | None = None
        self._controls = ControlWatcher()
        self.channel = Channel(launcher.socket, self._lose, self._cool)
        self.interpreters = Interpreters(self.channel)
        self.networking = Networking(self.open_router, as_root=bool(launcher.ids.ranges))
        self.stopping = False
        """Whether it ends because it is to, by `stop` or with the trio run, and not because the launcher died."""
        self.tree = launcher.tree
        self.ids = launcher.ids
        self.allowed_cpus = len(os.sched_getaffinity(0))
        self.planner = Planner(self.tree, self.ids, self.allowed_cpus)
        self.registry = launcher.registry

    @property
    def launcher_pidfd(self) -> int:
        """Of the launcher, in whose user namespace every id of a sandbox is somebody."""
        return self._launcher.pidfd

    async def require(self, capabilities: Sequence[str]) -> None:
        """Check that this host has what a configuration insists on.

        Raises:
            UnsupportedHostError: It lacks something; with the remedies.
            ConfigError: There is no capability of that name.
        """
        if not capabilities:
            return
        if self._facts is None:
            self._facts = await trio.to_thread.run_sync(probe_host, self.tree)
        missing_capabilities(self._facts, capabilities)

    def next_number(self) -> int:
        """A number that nothing of this supervisor's has had."""
        return next(self._numbers)

    async def serve(self) -> None:
        """The supervisor's one task."""
        launcher_ended = False
        answering = start_soon(self.registry.serve)
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._controls.run)
                    await self.channel.read()
                    launcher_ended = True
                    nursery.cancel_scope.cancel()
        finally:
            self.stopping = not launcher_ended
            answering.cancel()
            with trio.CancelScope(shield=True):
                await self._end()

    async def stop(self) -> None:
        """End the launcher and wait until nothing of it is left."""
        self._serving.cancel()
        await self._ended.wait()

    async def _end(self) -> None:
        self.channel.close()
        ended = _STOPPED if self.stopping else _LAUNCHER_DIED
        self.registry.close()
        for cell in tuple(self._cells.values()):
            if cell.lost is None:
                cell.lose(NetworkError(ended))
            cell.close_descriptors()  # who has not terminated his sandbox by now has no event loop to do it in
        self._controls.close()
        await self.networking.close()
        with trio.move_on_after(_END_SECONDS):
            await trio.lowlevel.wait_readable(self._launcher.pidfd)
        self._launcher.let_go()
        with contextlib.suppress(SetupError):  # the next start collects what could not be removed
            try:
                await trio.to_thread.run_sync(self.tree.remove)
            except RuntimeError:  # since Python 3.12 no thread is started while the interpreter ends
                self.tree.remove()
        self._ended.set()

    def _cool(self, kind: int) -> None:
        self.interpreters.forget(kind)

    def _lose(self, id: int) -> None:
        cell = self._cells.get(id)
        if cell is not None and cell.lost is None:
            cell.lose(NetworkError(_INIT_DIED))

    async def create(self, config: SandboxConfig) -> Cell:
        """A new sandbox.

        Cancellation: the sandbox is made and destroyed again, or not made.

        Raises:
            ConfigError: The configuration cannot work here.
            UnsupportedHostError: The host lacks something that it asks for.
            SetupError: The kernel refused a step; nothing is left.
            NetworkError: The launcher died.
        """
        if disk_backed(config):
            async with self._own_kind(config) as (kind, plan):
                return await self._create(kind, plan)
        return await self._create(*await self._shared_kind(config))

    def _new_cell(self, kind: int, plan: TemplatePlan) -> Cell:
        control = Control(self._controls)
        return Cell(channel=self.channel, id=self.next_number(), plan=plan, kind=kind, control=control)

    async def _create(self, kind: int, plan: TemplatePlan) -> Cell:
        ahead = self._take_ahead(kind)
        if ahead is not None:
            return ahead
        cell = self._new_cell(kind, plan)
        self._cells[cell.id] = cell
        try:
            record, fds = await self.channel.request(wire.Down.CREATE, cell.id, parent=kind)
            if record.type is wire.Up.FAILED:
                raise cell.failure(record, "the sandbox")
        except BaseException:
            self._cells.pop(cell.id, None)
            raise
        try:
            cell.take(record, fds)
        except SetupError:
            await self.destroy(cell)
            raise
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self.destroy(cell)
            raise
        self._make_ahead_during_executions(cell, kind)
        return cell

    def _make_ahead_during_executions(self, cell: Cell, kind: int) -> None:
        """Where a kind is used it is likely to be used again: while a caller waits for a program, the launcher is asked
        for the next sandbox, so that it is there already when it is wanted.
        """
        if cell.plan.spares:
            cell.on_begin = lambda: self._make_ahead(kind, cell.plan)

    def _make_ahead(self, kind: int, plan: TemplatePlan) -> None:
        if kind in self._ahead or kind not in self._kept:
            return
        cell = self._new_cell(kind, plan)
        self._ahead[kind] = cell
        self._cells[cell.id] = cell

        def settled(answer: Answer) -> None:
            try:
                record, fds = answer.take()
            except NetworkError:
                return
            if record.type is not wire.Up.DONE:  # who asks for one himself is told why
                self._cells.pop(cell.id, None)
                self._ahead.pop(kind, None)
                return
            wanted = self._ahead.get(kind) is cell  # else the kind was forgotten meanwhile
            try:
                cell.take(record, fds)
            except SetupError:
                wanted = False
            if not wanted:
                self._ahead.pop(kind, None)
                trio.lowlevel.spawn_system_task(self.destroy, cell)

        if not self.channel.ask_ahead(wire.Down.CREATE, cell.id, kind, settled):
            self._cells.pop(cell.id, None)
            self._ahead.pop(kind, None)

    def _take_ahead(self, kind: int) -> Cell | None:
        cell = self._ahead.get(kind)
        if cell is None or cell.pidfd < 0:
            return None
        del self._ahead[kind]
        if cell.lost is not None:
            trio.lowlevel.spawn_system_task(self.destroy, cell)
            return None
        self._make_ahead_during_executions(cell, kind)
        return cell

    async def destroy(self, cell: Cell) -> None:
        """End a sandbox; everything of it is gone afterwards. Not cancelled.

        Raises:
            NetworkError: The launcher has died; what it left is gone with it.
        """
        self._cells.pop(cell.id, None)
        if self.channel.broken:
            cell.close_descriptors()
            return
        with contextlib.suppress(NetworkError):
            await cell.destroy()

    async def open_router(self) -> RouterDoor:
        """The way to change the router's network, which is the same each time, and is made at the first. It is the
        caller's to close; the network lives as long as the launcher, or a descriptor of it.

        Cancellation: nothing stays open.

        Raises:
            SetupError: The kernel refused a step; or the descriptors did not all arrive: this process may have no more
                open.
            UnsupportedHostError: The kernel has no nfnetlink.
            NetworkError: The launcher died.
        """
        async with self._opening_router:
            record, fds = await self.channel.request(wire.Down.NETWORK, 0)
            if record.type is wire.Up.FAILED:
                raise router_error(record)
            door = make_router_door(fds)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            door.close()
            raise
        return door

    async def _shared_kind(self, config: SandboxConfig) -> tuple[int, TemplatePlan]:
        key = _kind_of(config)
        known = self._kinds.get(key)
        if known is not None:
            self._kinds.move_to_end(key)
            return known
        async with self._telling:
            if key not in self._kinds:
                self._kinds[key] = await self._tell(self._plan(config, None))
                self._kept.add(self._kinds[key][0])
                while len(self._kinds) > _KINDS_KEPT:
                    _, (oldest, _) = self._kinds.popitem(last=False)
                    self._kept.discard(oldest)
                    self.interpreters.forget(oldest)
                    if (unused := self._ahead.pop(oldest, None)) and unused.pidfd >= 0:
                        await self.destroy(unused)
                    await self.channel.send(wire.Down.FORGET, oldest)
            return self._kinds[key]

    @contextlib.asynccontextmanager
    async def _own_kind(self, config: SandboxConfig) -> AsyncIterator[tuple[int, TemplatePlan]]:
        """A kind for one sandbox, which has a disk image of its own; told, and forgotten again once that is made."""
        with contextlib.ExitStack() as stack:
            with trio.CancelScope(shield=True):
                fd, device = await trio.to_thread.run_sync(stack.enter_context, disk_image(config.resources.disk))
            self.tree.enable(frozenset({"io"}))
            kind, plan = await self._tell(self._plan(config, device), [fd])
            try:
                yield kind, plan
            finally:
                with contextlib.suppress(NetworkError), trio.CancelScope(shield=True):
                    await self.channel.send(wire.Down.FORGET, kind)

    def _plan(self, config: SandboxConfig, device: tuple[int, int] | None) -> TemplatePlan:
        if config.resources.cpu.cpuset is not None:
            self.tree.enable(frozenset({"cpuset"}))
        return plan_template(config, self.tree, self.ids, compile_policy(config.security), device=device)

    async def _tell(self, plan: TemplatePlan, fds: list[int] | None = None) -> tuple[int, TemplatePlan]:
        kind = self.next_number()
        record, _ = await self.channel.request(
            wire.Down.TEMPLATE, kind, payload=wire.encode_template(plan), fds=fds or []
        )
        if record.type is wire.Up.FAILED:
            raise _template_failure(plan, record)
        return kind, plan


def _template_failure(plan: TemplatePlan, record: wire.Record) -> SandboxError:
    return setup_error(record, describe(plan, record) or "the root of the sandbox")


def _kind_of(config: SandboxConfig) -> Hashable:
    """What of a configuration makes a template; the rest differs from sandbox to sandbox of one kind."""
    resources = config.resources
    return (
        config.rootfs, config.mounts, config.working_directory, config.security,
        resources.cpu, resources.memory, resources.disk, resources.processes,
        config.enforcement.enforce_memory_limits, config.writable_root, config.warm, config.preload,
        config.environment.get("PYTHONPATH") if config.preload else None,
    )  # fmt: skip
