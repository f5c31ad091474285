"""One execution: pipes, launcher, pumps, record, observation."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from nsbox._cgroups import CounterSlot
from nsbox._errors import InvalidStateError, NetworkError, SandboxError, SetupError, program_start_error
from nsbox._outputs import CodeError, RichOutput
from nsbox._plan import ExecutionPlan
from nsbox._seccomp import abi_name, syscall_name
from nsbox._supervisor import wire
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.channel import Answer
from nsbox._supervisor.pump import Budget, OutputPump, Sink, feed
from nsbox._supervisor.sampling import Sampler
from nsbox._verdict import KillReason, Observation, Violation

_KILL_SECONDS = 10.0
_SHORT_SECONDS = 0.002
"""A program that has ended by then needs no tasks that read for it: what it wrote is in the pipes."""
_PIPE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an execution is beside its plan.

    Attributes:
        id: The launcher's name for it.
        plan: What the launcher is told.
        stdin: What the program can read.
        keep_output: Whether to return what it wrote.
        output_bytes: Most that it may write.
        memory_bytes: The limit in force.
        cpu_seconds: The limit in force, or None.
        process_limit: The limit in force.
        disk_bytes: The limit in force.
        disk_slack_bytes: With so much or less left, the disk counts as full.
        file_size_bytes: The limit in force.
        cgroup_mode: As `CgroupTree.mode`.
        enforce_memory: Whether an excess of memory ends it.
        group: The supervisor's base directory in cgroup v2, or None.
        warm: Whether a warm interpreter may run it.
        sampled: Whether memory and CPU time have to be sampled, for want of cgroups.
    """

    id: int
    plan: ExecutionPlan
    stdin: bytes
    keep_output: bool
    output_bytes: int
    memory_bytes: int
    cpu_seconds: float | None
    process_limit: int
    disk_bytes: int
    disk_slack_bytes: int
    file_size_bytes: int
    cgroup_mode: str
    enforce_memory: bool
    group: Path | None
    sampled: bool
    warm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended; `notes` are added to the evidence."""

    observation: Observation
    stdout: bytes
    stderr: bytes
    suspended_seconds: float
    notes: Mapping[str, object] = field(default_factory=dict)
    reported: Reported | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the program of a context says of a cell: it informs, and only of how the cell itself ended does it decide.

    Attributes:
        outputs: What was displayed.
        error: What the cell has raised.
        alive: Whether the context goes on.
    """

    outputs: Sequence[RichOutput]
    error: CodeError | None
    alive: bool


class _StillbornError(Exception):
    """The interpreter died before it had forked a process for this: nothing of it has run."""


async def run_execution(cell: Cell, order: Order, sink: Sink) -> Outcome:
    """Run a program to its end. Where the interpreter that was to run it dies before, it is started cold.

    Cancellation kills the execution, waits until its whole tree is dead, and goes on its way.

    Args:
        cell: Where.
        order: What.
        sink: Gets the output as it is written.

    Raises:
        ProgramStartError: The program, or the working directory, is not there or not to be used.
        SetupError: The kernel refused a step before the program ran.
        NetworkError: The launcher or the sandbox's PID 1 died.
    """
    try:
        return await _run(cell, order, sink)
    except _StillbornError:
        return await _run(cell, order, sink, cold=True)


async def _run(cell: Cell, order: Order, sink: Sink, *, cold: bool = False) -> Outcome:
    with _pipes() as pipes:
        killer = _Killer(cell, order.id)
        budget = Budget(order.output_bytes, killer.output_limit)
        stdout = OutputPump("stdout", pipes.stdout, budget, keep=order.keep_output, sink=sink)
        stderr = OutputPump("stderr", pipes.stderr, budget, keep=order.keep_output, sink=sink)
        rest = pipes.give_stdin(order.stdin)
        beside: list[Callable[[], Awaitable[object]]] = [stdout.run, stderr.run, killer.run]
        if rest:
            beside.append(lambda: feed(pipes.take_stdin(), rest))
        record, sampler = await _carry_out(
            cell, order, killer, pipes.theirs, pipes.close_theirs, beside, at_once=bool(rest) or sink.wanted,
            cold=cold,
        )  # fmt: skip
        stdout.drain()
        stderr.drain()
        return _outcome(cell, order, record, sampler, budget.dropped, bytes(stdout.kept), bytes(stderr.kept))


async def run_interactive(
    cell: Cell,
    order: Order,
    stdio: tuple[int, int, int],
    *,
    terminal: bool,
    close_stdio: Callable[[], None],
    on_start: Callable[[int], None] | None,
    on_sampler: Callable[[Sampler], object] = lambda _: None,
) -> Outcome:
    """Run a program whose input and output are its caller's business.

    Cancellation and errors as with `run_execution`; its output is neither kept nor limited.

    Args:
        cell: Where.
        order: What; of it, `stdin`, `keep_output` and `output_bytes` mean nothing here.
        stdio: What becomes the program's stdin, stdout and stderr.
        terminal: Whether its stdin is a terminal, which is to be the controlling one.
        close_stdio: Called once those are no longer needed here.
        on_start: Called with a pidfd of its own once the program runs. It is not called where it could not be started.
        on_sampler: Called with what samples it, before it is started.
    """
    try:
        record, sampler = await _carry_out(
            cell, order, _Killer(cell, order.id), stdio, close_stdio, [], at_once=True, terminal=terminal,
            on_start=on_start, on_sampler=on_sampler, cold=not order.warm,
        )  # fmt: skip
    except _StillbornError as exc:  # what it was given is closed already: its caller has to begin anew
        raise SetupError("warm", errno.ECHILD, "the interpreter died before it had forked the program") from exc
    return _outcome(cell, order, record, sampler, 0, b"", b"")


async def _carry_out(
    cell: Cell,
    order: Order,
    killer: _Killer,
    stdio: tuple[int, int, int],
    close_stdio: Callable[[], None],
    beside: list[Callable[[], Awaitable[object]]],
    *,
    at_once: bool,
    cold: bool,
    terminal: bool = False,
    on_start: Callable[[int], None] | None = None,
    on_sampler: Callable[[Sampler], object] = lambda _: None,
) -> tuple[wire.Record, Sampler]:
    """The way down and up, with `beside` running meanwhile: at once, or only if the program does not end at once."""
    sampler = Sampler(
        memory_bytes=order.memory_bytes if order.enforce_memory else None, cpu_seconds=order.cpu_seconds,
        group=order.group, kill=killer.kill,
    )  # fmt: skip
    on_sampler(sampler)
    flags = _flags(warm=order.warm, cold=cold, terminal=terminal)
    start = _Start(on_start)
    try:
        if order.sampled or on_start is not None:
            flags |= wire.EXEC_TELL_START
            cell.channel.expect_start(order.id, start.settled)
            beside.append(start.watch)
        answer = await cell.begin(order.id, order.plan, stdio, flags=flags)
        close_stdio()
        if order.sampled:
            beside.append(partial(start.sample, sampler))
            cell.samplers.append(sampler)
        try:
            if not at_once and not order.sampled:
                with trio.move_on_after(_SHORT_SECONDS):
                    await answer.settled_event.wait()
            if not answer.settled:
                await _wait_beside(answer, beside)
        except BaseException:
            if not answer.settled:
                await _kill_and_wait(killer, answer)
            raise
        record, _ = answer.take()
    finally:
        start.close()
        if sampler in cell.samplers:
            cell.samplers.remove(sampler)
    _check_carried_out(cell, order, record, cold=cold)
    return record, sampler


def _check_carried_out(cell: Cell, order: Order, record: wire.Record, *, cold: bool) -> None:
    """Raise where a record is not about the end of a program."""
    if record.type is wire.Up.FAILED:
        raise _start_failure(cell, order, record, cold=cold)
    if record.reason == wire.REASON_LOST:
        raise cell.lost or cell.doomed or NetworkError("the sandbox's PID 1 has died, and every process with it")


def _flags(*, warm: bool, cold: bool, terminal: bool) -> int:
    found = wire.EXEC_TERMINAL if terminal else 0
    if cold:
        return found | wire.EXEC_COLD
    return found | wire.EXEC_WARM if warm else found


def _outcome(
    cell: Cell, order: Order, record: wire.Record, sampler: Sampler, dropped: int, stdout: bytes, stderr: bytes
) -> Outcome:
    seen = observe(cell, order, record, dropped, sampler)
    cell.ended_cpu_seconds += seen.cpu_seconds
    cell.read_bytes += seen.read_bytes
    cell.written_bytes += seen.written_bytes
    return Outcome(
        observation=seen,
        stdout=stdout,
        stderr=stderr,
        suspended_seconds=record.suspended_ns / 1e9,
    )


async def _wait_beside(answer: Answer, tasks: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Wait for the answer while `tasks` run; they end with it."""
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            await answer.settled_event.wait()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # KeyboardInterrupt is the caller's, and he knows of no nursery
            raise group.exceptions[0] from None
        raise


class _Killer:
    """Kills an execution from where nothing can be awaited."""

    def __init__(self, cell: Cell, id: int) -> None:
        self._cell = cell
        self._id = id
        self._output = trio.Event()

    def output_limit(self) -> None:
        self._output.set()

    async def run(self) -> None:
        await self._output.wait()
        await self.kill(KillReason.OUTPUT)

    async def kill(self, reason: KillReason) -> None:
        with contextlib.suppress(NetworkError):  # no launcher, no execution
            await self._cell.kill(self._id, reason)


async def _kill_and_wait(killer: _Killer, answer: Answer) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _KILL_SECONDS):
        await killer.kill(KillReason.CANCELLED)
        await answer.settled_event.wait()


class _Start:
    """What is done once the program runs.

    Args:
        on_start: As for `run_interactive`.
    """

    def __init__(self, on_start: Callable[[int], None] | None) -> None:
        self._on_start = on_start
        self._pidfd = -1
        self._known = trio.Event()
        self._refused = trio.Event()

    def settled(self, answer: Answer) -> None:
        """Called by the channel, which all sandboxes share: it raises nothing."""
        try:
            _, fds = answer.take()
        except NetworkError:  # it has ended, or was not started
            return
        if fds:  # else it was lost on the way, recvmsg(2): this process may have no more open
            self._pidfd = fds[0]
            with contextlib.suppress(OSError):
                given = -1 if self._on_start is None else os.dup(self._pidfd)
                if self._on_start is not None:
                    self._on_start(given)
                self._known.set()
                return
        self._refused.set()

    async def sample(self, sampler: Sampler) -> None:
        await self._known.wait()
        await sampler.run(self._pidfd)

    async def watch(self) -> None:
        """Until cancelled.

        Raises:
            SetupError: It runs, and nothing can be done with it: there is no descriptor for that.
        """
        await self._refused.wait()
        raise SetupError("descriptors", errno.EMFILE, os.strerror(errno.EMFILE), "of a program that has started")

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class _Pipes:
    """The three pipes of an execution, ours and theirs."""

    def __init__(self) -> None:
        self._fds: set[int] = set()
        self._stdin = self.stdout = self.stderr = -1
        self.theirs = (-1, -1, -1)

    def open(self) -> None:
        """Make them.

        Raises:
            SetupError: This process may have no more open.
        """
        try:
            self._open()
        except OSError as exc:
            raise SetupError("stdio", exc.errno or errno.EMFILE, exc.strerror or "", "pipes") from exc

    def _open(self) -> None:
        their_stdin, self._stdin = self._pipe()
        self.stdout, their_stdout = self._pipe()
        self.stderr, their_stderr = self._pipe()
        self.theirs = (their_stdin, their_stdout, their_stderr)
        for fd in (self._stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._fds.update(ends)
        return ends

    def give_stdin(self, data: bytes) -> memoryview | None:
        """Write what fits at once, and close if that was all; else what is left, for `feed`."""
        written = 0
        if data:
            with contextlib.suppress(BlockingIOError):
                written = os.write(self._stdin, memoryview(data)[:_PIPE_BYTES])
        if written == len(data):
            self.close(self._stdin)
            return None
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, 1 << 20)
        return memoryview(data)[written:]

    def take_stdin(self) -> int:
        self._fds.discard(self._stdin)
        return self._stdin

    def close_theirs(self) -> None:
        for fd in self.theirs:
            self.close(fd)

    def close(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            os.close(fd)

    def close_all(self) -> None:
        for fd in tuple(self._fds):
            self.close(fd)


@contextlib.contextmanager
def _pipes() -> Iterator[_Pipes]:
    pipes = _Pipes()
    try:
        pipes.open()
        yield pipes
    finally:
        pipes.close_all()


def _start_failure(cell: Cell, order: Order, record: wire.Record, *, cold: bool) -> SandboxError | _StillbornError:
    """Whose fault it is: a program or directory that is not there is the caller's, all else the host's."""
    if record.stage is wire.Stage.WARM and not cold:
        return _StillbornError()
    if record.stage is wire.Stage.EXEC:
        return program_start_error(os.fsdecode(order.plan.argv[0]), record.error)
    if record.stage is wire.Stage.DIRECTORY:
        return program_start_error(order.plan.directory, record.error, "the working directory")
    if record.stage is wire.Stage.PROTOCOL and record.error == errno.ESRCH:  # it is dying, and will be heard of
        return cell.lost or NetworkError("the sandbox's PID 1 has died, and every process with it")
    if record.stage is wire.Stage.PROTOCOL and record.error == errno.EBUSY:
        return InvalidStateError("cannot execute: the sandbox is being suspended")
    return cell.failure(record, "starting the program")


def observe(cell: Cell, order: Order, record: wire.Record, dropped: int, sampler: Sampler) -> Observation:
    """All facts about an execution, from its record and from what was seen here."""

    def count(slot: CounterSlot) -> int:
        value = record.counters[slot]
        return 0 if value == wire.UNKNOWN else value

    user, system = record.user_us, record.system_us
    cpu_us = count(CounterSlot.CPU_USEC)
    if cpu_us:
        user, system = count(CounterSlot.USER_USEC), count(CounterSlot.SYSTEM_USEC)
    return Observation(
        wait_status=record.wait_status,
        reason=KillReason(record.reason),
        violation=_violation(record),
        oom_kills=count(CounterSlot.OOM_KILLS),
        processes_refused=_refused(cell, record),
        quota_full=_quota_full(cell, order.disk_slack_bytes),
        bytes_dropped=dropped,
        wall_seconds=record.wall_ns / 1e9,
        cpu_seconds=max(cpu_us / 1e6 or (user + system) / 1e6, sampler.cpu_seen),
        user_seconds=user / 1e6,
        system_seconds=system / 1e6,
        peak_memory_bytes=max(count(CounterSlot.MEMORY_PEAK), sampler.peak_memory_bytes),
        process_count_peak=max(count(CounterSlot.PIDS_PEAK), sampler.peak_processes),
        read_bytes=record.read_bytes,
        written_bytes=record.written_bytes,
        max_rss_bytes=record.max_rss_bytes,
        memory_limit_bytes=order.memory_bytes if order.enforce_memory else 0,
        cgroup_mode="none" if order.sampled else order.cgroup_mode,
        wall_limit_seconds=order.plan.wall_ns / 1e9,
        cpu_limit_seconds=order.cpu_seconds,
        output_limit_bytes=order.output_bytes,
        process_limit=order.process_limit,
        disk_limit_bytes=order.disk_bytes,
        file_size_limit_bytes=order.file_size_bytes,
    )


def _violation(record: wire.Record) -> Violation | None:
    if record.violation_number < 0 and not record.violation_arch:
        return None
    number, arch = record.violation_number, record.violation_arch
    return Violation(
        number=number, name=syscall_name(number, arch), architecture=abi_name(number, arch),
        arguments=record.violation_args,
    )  # fmt: skip


def _refused(cell: Cell, record: wire.Record) -> int:
    """Forks refused: by the execution's own limit, or else by the sandbox's, which several executions share."""
    own = record.counters[CounterSlot.PIDS_REFUSED]
    shared = record.counters[CounterSlot.SANDBOX_PIDS_REFUSED]
    before, cell.refused_before = cell.refused_before, 0 if shared == wire.UNKNOWN else shared
    if own not in (0, wire.UNKNOWN):
        return own
    return 0 if shared == wire.UNKNOWN else max(0, shared - before)


def _quota_full(cell: Cell, slack: int) -> bool:
    if cell.quota < 0:
        return False
    found = os.fstatvfs(cell.quota)
    return found.f_bavail * found.f_frsize <= slack or found.f_favail == 0
