"""A living sandbox, as the supervisor holds it: descriptors into it, and what the launcher can do with it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from nsbox._errors import NetworkError, SandboxError, SetupError
from nsbox._network.doors import CellDoor
from nsbox._plan import ExecutionPlan, TemplatePlan, overlay_error
from nsbox._supervisor import wire
from nsbox._supervisor.channel import Answer, Channel
from nsbox._supervisor.control import Control
from nsbox._supervisor.doors import make_cell_door
from nsbox._supervisor.sampling import Sampler
from nsbox._supervisor.start import setup_error
from nsbox._verdict import KillReason

_DESCRIPTORS = 5


@dataclass(slots=True, kw_only=True)
class Cell:
    """What `Supervisor.create` gives.

    Attributes:
        channel: To the launcher.
        id: The launcher's name for it.
        plan: What it was made from.
        kind: The launcher's name for that.
        control: To PID 1; the same object for as long as the cell lives.
        pidfd: Of PID 1.
        root: Its root directory (O_PATH): names below it are its own.
        quota: The root of the file system that everything writable is in.
        source: The directory that programs are read from.
        lost: Why it is dead, once its PID 1 has died unasked.
        on_lost: Called when that happens.
        number: Its cgroups are named after it: "s<number>" below each of the supervisor's base directories.
        refused_before: The sandbox's count of refused forks at the last look.
        gone: Set with `lost`.
        doomed: Why nsbox itself has ended PID 1, where it has.
        on_begin: Called when an execution is on its way, and its caller has to wait anyway.
        samplers: Of the running executions, where they have to be sampled.
        ended_cpu_seconds: CPU time of the executions that have ended.
        read_bytes: From storage, by the executions that have ended.
        written_bytes: To storage, the same.
        opening_door: Held by who waits for one: to two requests of the same name there would be one answer.
    """

    channel: Channel
    id: int
    plan: TemplatePlan
    control: Control
    kind: int = 0
    pidfd: int = -1
    root: int = -1
    quota: int = -1
    source: int = -1
    lost: NetworkError | None = None
    on_lost: Callable[[NetworkError], object] | None = None
    number: int = 0
    refused_before: int = 0
    on_begin: Callable[[], object] | None = None
    gone: trio.Event = field(default_factory=trio.Event)
    doomed: NetworkError | None = None
    samplers: list[Sampler] = field(default_factory=list)
    ended_cpu_seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    opening_door: trio.Lock = field(default_factory=trio.Lock)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all its executions, where no cgroup counts it."""
        return self.ended_cpu_seconds + sum(sampler.cpu_seen for sampler in self.samplers)

    def take(self, record: wire.Record, fds: list[int]) -> None:
        """What comes with the answer to CREATE and RESTART; the descriptors of before are closed.

        Raises:
            SetupError: They did not all arrive: this process may have no more open.
        """
        self.close_descriptors()
        self.number = record.index
        self.ended_cpu_seconds, self.read_bytes, self.written_bytes = 0.0, 0, 0
        if len(fds) != _DESCRIPTORS:
            for fd in fds:
                os.close(fd)
            raise SetupError("descriptors", errno.EMFILE, os.strerror(errno.EMFILE), "of a sandbox")
        self.pidfd, self.root, self.quota, self.source, control = fds
        self.control.take(control)

    def close_descriptors(self) -> None:
        self.control.close()
        for fd in (self.pidfd, self.root, self.quota, self.source):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.root = self.quota = self.source = -1

    def disk_used_bytes(self) -> int:
        """What is written in the sandbox, now."""
        if self.quota < 0:
            return 0
        found = os.fstatvfs(self.quota)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def lose(self, reason: NetworkError) -> None:
        """Every process in it is dead: its PID 1 has died, or the launcher has."""
        reason = self.doomed or reason
        self.lost = reason
        self.gone.set()
        for request in (
            wire.Down.FREEZE, wire.Down.THAW, wire.Down.RESTART, wire.Down.CONNECT, wire.Down.NETWORK,
        ):  # fmt: skip
            self.channel.break_off(request, self.id, self.lost)
        self.control.close(reason)
        if self.on_lost is not None:
            self.on_lost(self.lost)

    async def begin(
        self, id: int, plan: ExecutionPlan, argv: tuple[bytes, ...], stdio: tuple[int, int, int], *, flags: int = 0
    ) -> Answer:
        """Send an execution on its way. The descriptors remain the caller's.

        Returns:
            What will say how it ended: EXITED, or FAILED with the stage.

        Raises:
            NetworkError: The launcher is gone.
        """
        answer = self.channel.expect(wire.Down.EXEC, id)
        try:
            payload = wire.encode_execution(plan, argv)
            await self.channel.send(wire.Down.EXEC, id, parent=self.id, flags=flags, payload=payload, fds=stdio)
        except BaseException:  # not sent: nothing will be heard of it
            self.channel.break_off(wire.Down.EXEC, id, NetworkError("it was not started"))
            raise
        if self.on_begin is not None:
            self.on_begin()
        return answer

    async def kill(self, id: int, reason: KillReason) -> None:
        """End an execution; the first reason is kept. Whether it had ended before, its record will say."""
        await self.channel.send(wire.Down.KILL, id, flags=reason)

    async def freeze(self) -> None:
        """Stop every process; returns when the kernel says `frozen 1`.

        Raises:
            SetupError: The kernel refused.
            NetworkError: The launcher or PID 1 died.
        """
        await self._do(wire.Down.FREEZE, "cgroup.freeze")
        self._require_alive()

    async def thaw(self) -> None:
        """Let every process go on. Raises as `freeze`."""
        await self._do(wire.Down.THAW, "cgroup.freeze")
        self._require_alive()

    def _require_alive(self) -> None:
        """It may have died right behind the answer: who waited for that goes on only after both are known."""
        if self.lost is not None:
            raise self.lost

    async def restart(self) -> None:
        """New processes and namespaces, the files kept.

        Raises:
            SetupError: The kernel refused, and the sandbox is as it was; or the new descriptors did not all arrive, and
                it is lost.
            NetworkError: The launcher or PID 1 died.
        """
        record, fds = await self._do(wire.Down.RESTART, "new processes")
        try:
            self.take(record, fds)
        except SetupError as exc:  # it lives, but nothing of it can be reached any more
            self.lose(NetworkError(f"the sandbox was started anew, and is out of reach: {exc}"))
            raise

    async def revive(self) -> None:
        """New processes and namespaces for one whose PID 1 died; the files are kept. Raises as `freeze`: it is as dead
        as before then.
        """
        reason, self.lost = self.lost, None  # so that a second death, right behind the answer, is noticed
        self.gone = trio.Event()
        self.doomed = None
        try:
            record, fds = await self.channel.request(wire.Down.RESTART, self.id)
            if record.type is wire.Up.FAILED:
                raise self.failure(record, "new processes")
            self.take(record, fds)
            if self.lost is not None:
                raise self.lost
        except BaseException:
            if not self.gone.is_set():  # as dead as before; else it has died anew, and says so
                self.lost = reason
                self.gone.set()
            raise

    def give_up(self, reason: NetworkError) -> None:
        """End PID 1, and with it every process: it is of no use any more. `lose` follows, with this reason.

        pid_namespaces(7): from an ancestor namespace, SIGKILL is not to be refused.
        """
        self.doomed = reason
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def connect(self) -> None:
        """A new control channel. PID 1 takes it as soon as it runs: when it is stopped or suspended, after that.

        Raises:
            SetupError: The kernel refused, or PID 1 has not taken the last ones: some ten may wait for it (unix(7),
                max_dgram_qlen).
            NetworkError: The launcher or PID 1 died.
        """
        # PID 1 closes the old one when it takes the new one, which may be before the answer is here: that is no alarm
        self.control.close(NetworkError("the control channel is replaced by a new one"))
        _, fds = await self._do(wire.Down.CONNECT, "a control channel")
        if len(fds) != 1:
            raise SetupError("descriptors", errno.EMFILE, os.strerror(errno.EMFILE), "a control channel")
        self.control.take(fds[0])

    async def open_door(self) -> CellDoor:
        """The way to change its network; suspended or not, PID 1 has no part in it. It is the caller's to close.

        Another network after `restart`, `revive` and in a new sandbox.

        Cancellation: nothing stays open.

        Raises:
            SetupError: The kernel refused, or PID 1 has died and the launcher does not know yet; or the descriptors did
                not all arrive: this process may have no more open.
            NetworkError: The launcher or PID 1 died.
        """
        async with self.opening_door:
            _, fds = await self._do(wire.Down.NETWORK, "the sandbox's network namespace")
            door = make_cell_door(fds)
        try:
            self._require_alive()
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            door.close()
            raise
        return door

    async def destroy(self) -> None:
        """Kill every process and remove everything; also when it is dead already. Not cancelled.

        Raises:
            NetworkError: The launcher did not do it; its own end will.
        """
        self.control.ignore()
        try:
            await self.channel.request(wire.Down.DESTROY, self.id)
        finally:
            self.close_descriptors()

    async def _do(self, request: wire.Down, subject: str) -> tuple[wire.Record, list[int]]:
        if self.lost is not None:
            raise self.lost
        record, fds = await self.channel.request(request, self.id)
        if record.type is wire.Up.FAILED:
            raise self.failure(record, subject)
        return record, fds

    def failure(self, record: wire.Record, subject: str) -> SandboxError:
        """A failed step as the exception that names it."""
        if record.stage is wire.Stage.DIED and self.lost is not None:
            return self.lost
        if record.stage is wire.Stage.MOUNT and 0 <= record.index < len(self.plan.cell_operations):
            unsupported = overlay_error(self.plan.cell_operations[record.index], record.error)
            if unsupported is not None:
                return unsupported
        return setup_error(record, describe(self.plan, record) or subject)


def describe(plan: TemplatePlan, record: wire.Record) -> str | None:
    """What a failed step was about: the path, the file, the limit."""
    lists = {
        wire.Stage.ROOT: [str(one) for one in plan.root_operations],
        wire.Stage.MOUNT: [str(one) for one in plan.cell_operations],
        wire.Stage.LIMIT: [f"{one.file}={one.value}" for one in (*plan.sandbox_writes, *plan.execution_writes)],
        wire.Stage.SYSCTL: [f"/proc/sys/{name}={value}" for name, value in plan.user_sysctls],
    }
    items = lists.get(record.stage, [])
    return items[record.index] if 0 <= record.index < len(items) else None
