"""A program that was started before anybody had asked for it: it waits for one byte on its stdin, and is used once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable

import trio

from nsbox._errors import InvalidStateError, NetworkError
from nsbox._supervisor import wire
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import SHORT_SECONDS, Killer, run_interactive, wait_beside
from nsbox._supervisor.order import Order, Outcome
from nsbox._supervisor.pipes import Pipes
from nsbox._supervisor.pump import Budget, OutputPump, Sink, feed
from nsbox._supervisor.turn import Mark, Resident
from nsbox._verdict import Observation

_GO = b"\n"
_END_SECONDS = 10.0


class Standby:
    """The supervisor's hold on it. What it runs has the limits and the counters of a program that starts then.

    Args:
        cell: Where.
        order: What is started. Its limits of time are not kept until it is used.
        on_end: Called once it has ended, used or not.

    Raises:
        SetupError: This process may have no more descriptors.
    """

    def __init__(self, cell: Cell, order: Order, on_end: Callable[[], object]) -> None:
        self._cell = cell
        self._on_end = on_end
        self._pipes = Pipes()
        self._resident = Resident(cell, order)
        self._killer = Killer(cell, order.id)
        self._outcome: Outcome | None = None
        self._failure: Exception | None = None
        self._ended = trio.Event()
        self._living = trio.CancelScope()
        self._taken = False
        self.order = order
        try:
            self._pipes.open()
        except BaseException:
            self._pipes.close_all()
            raise

    @property
    def alive(self) -> bool:
        """Whether it waits, as far as is known."""
        return not self._ended.is_set()

    @property
    def failure(self) -> Exception | None:
        """Why it could not be started, or was lost; while it is alive, None."""
        return self._failure if self._ended.is_set() else None

    def start(self) -> None:
        """Send it on its way; returns at once."""
        self._living = start_soon(self._live)

    async def _live(self) -> None:
        self._failure = InvalidStateError("the supervisor has ended")
        try:
            self._outcome = await run_interactive(
                self._cell, self.order, self._pipes.theirs, terminal=False, close_stdio=self._pipes.close_theirs,
                on_start=None, on_sampler=self._resident.take_sampler,
            )  # fmt: skip
            self._failure = None
        except Exception as exc:  # noqa: BLE001  # it is raised where somebody waits
            self._failure = exc
        finally:
            self._ended.set()
            if not self._taken:
                self._pipes.close_all()
            self._on_end()

    async def end(self) -> None:
        """Kill it, and wait for that. Not cancelled."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_SECONDS):
            self._living.cancel()  # no kill by its number: it may not have been asked for yet
            await self._ended.wait()

    async def run(self, order: Order, sink: Sink) -> Outcome | None:
        """Let it go, and return how it ended; None: it was dead before, and nothing has run. To be called once.

        Cancellation kills it, waits for that, and goes on its way.

        Args:
            order: With the limits that hold from now on.
            sink: Gets the output as it is written.

        Raises:
            NetworkError: The launcher or the sandbox's PID 1 died.
        """
        self._taken = True
        try:
            mark = await self._begin(order)
            if mark is None:  # it is dead, or was never heard of as alive
                await self.end()
                return None
            return await self._go(order, sink, mark)
        except BaseException:
            await self.end()
            raise
        finally:
            self._pipes.close_all()

    async def _begin(self, order: Order) -> Mark | None:
        resident, cpu_seen = self._resident, self._resident.cpu_seen
        begun = await resident.begin(order.plan.wall_ns / 1e9, order.bounds.cpu_seconds, grace_seconds=0.0)
        record, _ = await begun.wait()
        return None if record.type is wire.Up.FAILED else resident.mark(begun, cpu_seen)

    async def _go(self, order: Order, sink: Sink, mark: Mark) -> Outcome | None:
        pipes, killer = self._pipes, self._killer
        budget = Budget(order.bounds.output_bytes, killer.output_limit)
        stdout, stderr = (
            OutputPump(name, fd, budget, keep=order.keep_output, sink=sink)
            for name, fd in (("stdout", pipes.stdout), ("stderr", pipes.stderr))
        )
        try:
            rest = pipes.give_stdin(_GO + order.stdin)
        except BrokenPipeError:
            await self._ended.wait()
            return None
        beside: list[Callable[[], Awaitable[object]]] = [stdout.run, stderr.run, killer.run]
        if rest:
            beside.append(lambda: feed(pipes.take_stdin(), rest))
        elif not sink.wanted:
            with trio.move_on_after(SHORT_SECONDS):
                await self._ended.wait()
        if self.alive:
            await wait_beside(self._ended, beside)
        with contextlib.suppress(OSError):
            stdout.drain()
            stderr.drain()
        if self._failure is not None:
            raise self._failure
        if self._outcome is None:
            raise NetworkError("it was given up")
        return dataclasses.replace(
            self._outcome,
            observation=within(mark.since(self._outcome.observation), order, budget.dropped),
            stdout=bytes(stdout.kept),
            stderr=bytes(stderr.kept),
            suspended_seconds=max(0.0, self._outcome.suspended_seconds - mark.suspended_seconds),
        )


def within(seen: Observation, order: Order, dropped: int) -> Observation:
    """The observation of what was started with other limits than it had at its end.

    Args:
        seen: What was seen.
        order: With the limits that held at the end.
        dropped: Bytes beyond the output limit.
    """
    return dataclasses.replace(
        seen,
        bytes_dropped=dropped,
        output_limit_bytes=order.bounds.output_bytes,
        wall_limit_seconds=order.plan.wall_ns / 1e9,
        cpu_limit_seconds=order.bounds.cpu_seconds,
    )
