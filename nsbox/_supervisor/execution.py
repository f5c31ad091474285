"""One execution: pipes, launcher, pumps, record, observation."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from nsbox._errors import InvalidStateError, NetworkError, SandboxError, SetupError, program_start_error
from nsbox._supervisor import wire
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.channel import Answer
from nsbox._supervisor.observing import observe
from nsbox._supervisor.order import Order, Outcome
from nsbox._supervisor.pipes import open_pipes
from nsbox._supervisor.pump import Budget, OutputPump, Sink, feed
from nsbox._supervisor.sampling import Sampler
from nsbox._verdict import KillReason

_KILL_SECONDS = 10.0
SHORT_SECONDS = 0.002
"""A program that has ended by then needs no tasks that read for it: what it wrote is in the pipes."""


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
    with open_pipes() as pipes:
        killer = Killer(cell, order.id)
        budget = Budget(order.bounds.output_bytes, killer.output_limit)
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
            cell, order, Killer(cell, order.id), stdio, close_stdio, [], at_once=True, terminal=terminal,
            on_start=on_start, on_sampler=on_sampler, cold=not order.warm,
        )  # fmt: skip
    except _StillbornError as exc:  # what it was given is closed already: its caller has to begin anew
        raise SetupError("warm", errno.ECHILD, "the interpreter died before it had forked the program") from exc
    return _outcome(cell, order, record, sampler, 0, b"", b"")


async def _carry_out(
    cell: Cell,
    order: Order,
    killer: Killer,
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
    bounds = order.bounds
    sampler = Sampler(
        memory_bytes=bounds.memory_bytes if bounds.enforce_memory else None, cpu_seconds=bounds.cpu_seconds,
        group=bounds.group, kill=killer.kill,
    )  # fmt: skip
    on_sampler(sampler)
    flags = _flags(warm=order.warm, cold=cold, terminal=terminal)
    start = _Start(on_start)
    try:
        if bounds.sampled or on_start is not None:
            flags |= wire.EXEC_TELL_START
            cell.channel.expect_start(order.id, start.settled)
            beside.append(start.watch)
        answer = await cell.begin(order.id, order.plan, order.argv, stdio, flags=flags)
        close_stdio()
        if bounds.sampled:
            beside.append(partial(start.sample, sampler))
            cell.samplers.append(sampler)
        try:
            if not at_once and not bounds.sampled:
                with trio.move_on_after(SHORT_SECONDS):
                    await answer.settled_event.wait()
            if not answer.settled:
                await wait_beside(answer.settled_event, beside)
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


async def wait_beside(event: trio.Event, tasks: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Wait for the event while `tasks` run; they end with it."""
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            await event.wait()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # KeyboardInterrupt is the caller's, and he knows of no nursery
            raise group.exceptions[0] from None
        raise


class Killer:
    """Kills an execution, also from where nothing can be awaited.

    Args:
        cell: Where it runs.
        id: The launcher's name for it.
    """

    def __init__(self, cell: Cell, id: int) -> None:
        self._cell = cell
        self._id = id
        self._output = trio.Event()

    def output_limit(self) -> None:
        """It has written too much: `run` kills it."""
        self._output.set()

    async def run(self) -> None:
        """Until cancelled."""
        await self._output.wait()
        await self.kill(KillReason.OUTPUT)

    async def kill(self, reason: KillReason) -> None:
        """Kill it; nothing, if it has ended."""
        with contextlib.suppress(NetworkError):  # no launcher, no execution
            await self._cell.kill(self._id, reason)


async def _kill_and_wait(killer: Killer, answer: Answer) -> None:
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


def _start_failure(cell: Cell, order: Order, record: wire.Record, *, cold: bool) -> SandboxError | _StillbornError:
    """Whose fault it is: a program or directory that is not there is the caller's, all else the host's."""
    if record.stage is wire.Stage.WARM and not cold:
        return _StillbornError()
    if record.stage is wire.Stage.EXEC:
        return program_start_error(os.fsdecode(order.argv[0]), record.error)
    if record.stage is wire.Stage.DIRECTORY:
        return program_start_error(order.plan.directory, record.error, "the working directory")
    if record.stage is wire.Stage.PROTOCOL and record.error == errno.ESRCH:  # it is dying, and will be heard of
        return cell.lost or NetworkError("the sandbox's PID 1 has died, and every process with it")
    if record.stage is wire.Stage.PROTOCOL and record.error == errno.EBUSY:
        return InvalidStateError("cannot execute: the sandbox is being suspended")
    return cell.failure(record, "starting the program")
