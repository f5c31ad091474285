"""One cell of a context: its way down and up, beside `run_execution`, whose process ends with it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Awaitable, Callable

import trio

from nsbox._contexts.frames import Done, Dropped, FrameError, Output, pack
from nsbox._core.output import OutputSink
from nsbox._core.residence import Ends, Residence
from nsbox._errors import NetworkError
from nsbox._outputs import CodeError, RichOutput
from nsbox._supervisor import wire
from nsbox._supervisor.order import Order, Outcome, Reported
from nsbox._supervisor.pump import Budget, OutputPump
from nsbox._supervisor.standby import within
from nsbox._supervisor.turn import GRACE_SECONDS, Mark
from nsbox._verdict import KillReason, Observation

_SHORT_SECONDS = 0.002
"""A cell that is done by then needs no tasks that read for it: what it wrote is in the pipes."""
_LOOK_SECONDS = 0.05
_UNKNOWN = 1
"""The status of a cell of which its program says nothing any more."""


class CellRun:
    """See the module.

    Args:
        residence: The program.
        ends: Those of the context.
        order: With the limits of the cell.
        number: What it is called in frames.
        sink: Gets the output as it is written.
    """

    def __init__(self, residence: Residence, ends: Ends, order: Order, number: int, sink: OutputSink) -> None:
        self._residence = residence
        self._ends = ends
        self._order = order
        self._number = number
        self._excess = trio.Event()
        self._budget = Budget(order.bounds.output_bytes, self._excess.set)
        self._stdout, self._stderr = (
            OutputPump(name, fd, self._budget, keep=order.keep_output, sink=sink)
            for name, fd in (("stdout", ends.stdout), ("stderr", ends.stderr))
        )
        self._outputs: list[RichOutput] = []
        self._done: Done | None = None
        self._broken: str | None = None
        self._asked = False
        self._scope = trio.CancelScope()  # of what goes on beside `_read`
        self.interrupted = False

    async def run(self, request: bytes) -> Outcome:
        """Run it to its end.

        Cancellation interrupts it, kills the context if it goes on for GRACE_SECONDS, and goes on its way.

        Args:
            request: What the program is told.

        Raises:
            NetworkError: The launcher or the sandbox's PID 1 died.
        """
        resident = self._residence.resident
        cpu_seen = resident.cpu_seen
        try:
            begun = await resident.begin(self._order.plan.wall_ns / 1e9, self._order.bounds.cpu_seconds)
            self._asked = True
            await self._ends.send(request)
            with trio.move_on_after(_SHORT_SECONDS):
                await self._read()
            if not self._is_over:
                await self._read_beside()
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self._give_up()
            raise
        return await self._finish(lambda: resident.mark(begun, cpu_seen))

    @property
    def _is_over(self) -> bool:
        return self._done is not None or self._broken is not None

    async def stop(self) -> None:
        """Interrupt it; kill the context, if it does not help."""
        await self._residence.resident.interrupt(KillReason.CANCELLED)

    # ------------------------------------------------------------ what it says

    async def _read(self) -> None:
        """Until it is done. Cancelled, it can be called again."""
        while not self._is_over:
            try:
                frame = await self._ends.receive()
            except FrameError as exc:
                self._broken = f"the program has sent {exc}"
                return
            match frame:
                case None:
                    self._broken = "the program has closed its channel"
                case Output(cell=self._number):
                    self._take(frame)
                    await self._ends.send(pack("taken"))
                case Dropped(cell=self._number, size=size):
                    self._budget.take(max(size, self._budget.left + 1))
                    await self._ends.send(pack("taken"))
                case Done(cell=self._number):
                    self._done = frame
                    return
                case _:
                    self._broken = "the program has sent a frame that is not the answer to anything"
            await trio.lowlevel.checkpoint()  # who sends without end must not keep the others waiting

    def _take(self, output: Output) -> None:
        """It comes after all that was written before."""
        self._stdout.drain()
        self._stderr.drain()
        size = output.size
        if self._budget.take(size) == size and self._order.keep_output:
            self._outputs.append(
                RichOutput(
                    data=output.data,
                    is_main_result=output.is_main_result,
                    stdout_position=len(self._stdout.kept),
                    stderr_position=len(self._stderr.kept),
                )
            )

    async def _read_beside(self) -> None:
        """The same, with the pipes read meanwhile."""
        tasks: list[Callable[[], Awaitable[object]]] = [
            self._stdout.run, self._stderr.run, self._stop_excess, self._watch_death,
        ]  # fmt: skip
        if self._order.bounds.sampled and self._order.bounds.cpu_seconds is not None:
            tasks.append(self._watch_cpu)
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for task in tasks:
                    nursery.start_soon(task)
                await self._read()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:  # KeyboardInterrupt is the caller's, and he knows of no nursery
                raise group.exceptions[0] from None
            raise

    async def _watch_death(self) -> None:
        """A child of it may hold the channel open."""
        await self._residence.ended.wait()
        if not self._is_over:
            self._broken = "the program has ended"
        self._scope.cancel()

    async def _stop_excess(self) -> None:
        await self._excess.wait()
        await self._residence.resident.interrupt(KillReason.OUTPUT)

    async def _watch_cpu(self) -> None:
        """Where no cgroup counts it, the launcher cannot see it."""
        resident = self._residence.resident
        limit = resident.cpu_seen + (self._order.bounds.cpu_seconds or 0.0)
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if resident.cpu_seen >= limit:
                break
        await resident.interrupt(KillReason.CPU_TIME)

    # ------------------------------------------------------------ how it ends

    async def _give_up(self) -> None:
        """The caller has gone: the context is left ready for the next one, or dead."""
        with trio.CancelScope(shield=True), contextlib.suppress(NetworkError):
            if self._asked and not self._is_over and not self._residence.ended.is_set():
                await self.stop()
                with trio.move_on_after(GRACE_SECONDS * 2 + 1):
                    await self._read_beside()
            if self._asked and self._done is None:
                await self._residence.kill(KillReason.CANCELLED)
            else:
                await self._residence.resident.end()
            self._drain()

    def _drain(self) -> None:
        self._stdout.drain()
        self._stderr.drain()

    async def _finish(self, find_mark: Callable[[], Mark]) -> Outcome:
        record = await self._residence.resident.end() if self._done is not None else None
        self._drain()
        if record is not None and self._done is not None:
            record, mark = self._without_idle_interrupt(record), find_mark()
            seen = self._residence.resident.observe(record, self._order, self._done.status, self._budget.dropped, mark)
            if not seen.oom_kills:
                return self._outcome(seen, mark, record.suspended_ns / 1e9, self._done.error, alive=True)
            await self._residence.kill(KillReason.MEMORY)  # version 1 has killed one process of it, not all
        return await self._finish_dead(find_mark)

    def _without_idle_interrupt(self, record: wire.Record) -> wire.Record:
        """Who was asked to stop and had ended well by then was not stopped."""
        assert self._done is not None
        if record.reason == KillReason.CANCELLED and self._done.status == 0:
            return dataclasses.replace(record, reason=KillReason.NONE)
        if record.reason == KillReason.NONE and self.interrupted and self._done.status:
            return dataclasses.replace(record, reason=KillReason.CANCELLED)
        return record

    async def _finish_dead(self, find_mark: Callable[[], Mark]) -> Outcome:
        """The context has ended with the cell, or has to: nobody knows what its program would say next."""
        residence = self._residence
        died = await residence.wait_death()
        await residence.kill(KillReason.NONE)
        self._drain()
        if residence.failure is not None:
            raise residence.failure
        assert residence.outcome is not None
        mark = find_mark()
        seen = within(mark.since(residence.outcome.observation), self._order, self._budget.dropped)
        error = None if self._done is None else self._done.error
        if self.interrupted and seen.reason is KillReason.NONE and seen.signal == signal.SIGINT:
            seen = dataclasses.replace(seen, reason=KillReason.CANCELLED)
        # The signal was ours, or the status another process': neither says anything about the cell.
        own = died and residence.is_first(self._ends)
        if seen.reason is KillReason.NONE and not seen.oom_kills and not own:
            seen = dataclasses.replace(seen, wait_status=_UNKNOWN << 8)
            error = CodeError(name="BrokenContext", value=self._broken or "", traceback="")
        return self._outcome(seen, mark, residence.outcome.suspended_seconds, error, alive=False)

    def _outcome(
        self, seen: Observation, mark: Mark, suspended_seconds: float, error: CodeError | None, *, alive: bool
    ) -> Outcome:
        return Outcome(
            observation=seen,
            stdout=bytes(self._stdout.kept),
            stderr=bytes(self._stderr.kept),
            suspended_seconds=max(0.0, suspended_seconds - mark.suspended_seconds),
            reported=Reported(outputs=tuple(self._outputs), error=error, alive=alive),
        )
