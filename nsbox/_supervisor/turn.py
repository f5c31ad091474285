"""An execution that lives on, and has its limits and its counters anew for each thing that it does: native/turn.c."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nsbox._cgroups import CounterSlot
from nsbox._supervisor import wire
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.channel import Answer
from nsbox._supervisor.observing import observe
from nsbox._supervisor.order import Order
from nsbox._supervisor.sampling import Sampler
from nsbox._verdict import KillReason, Observation

GRACE_SECONDS = 2.0
"""From the interrupt at a limit to the kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What an execution had used when a turn began."""

    wall_seconds: float = 0.0
    suspended_seconds: float = 0.0
    cpu_seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    processes_refused: int = 0

    def since(self, seen: Observation) -> Observation:
        """The part of an observation that came after. Peaks are those of the whole life: the kernel keeps no others."""
        return dataclasses.replace(
            seen,
            wall_seconds=max(0.0, seen.wall_seconds - self.wall_seconds),
            cpu_seconds=max(0.0, seen.cpu_seconds - self.cpu_seconds),
            user_seconds=max(0.0, seen.user_seconds - self.user_seconds),
            system_seconds=max(0.0, seen.system_seconds - self.system_seconds),
            processes_refused=max(0, seen.processes_refused - self.processes_refused),
        )


class Resident:
    """The supervisor's hold on such an execution.

    Args:
        cell: Where it runs.
        order: What it was started with.
    """

    def __init__(self, cell: Cell, order: Order) -> None:
        self._cell = cell
        self.order = order
        self.sampler: Sampler | None = None

    def take_sampler(self, sampler: Sampler) -> None:
        """Called before it is started."""
        self.sampler = sampler

    @property
    def cpu_seen(self) -> float:
        """CPU time so far, in seconds, where it has to be sampled."""
        return 0.0 if self.sampler is None else self.sampler.cpu_seen

    async def begin(
        self, wall_seconds: float, cpu_seconds: float | None, *, grace_seconds: float = GRACE_SECONDS
    ) -> Answer:
        """Begin a turn; the answer, which need not be waited for, is for `mark`.

        Args:
            wall_seconds: Until it is interrupted; `grace_seconds` later it is killed.
            cpu_seconds: The same of CPU time; None: not limited.
            grace_seconds: 0: it is killed at once.

        Raises:
            NetworkError: The launcher is gone.
        """
        payload = wire.Payload()
        payload.u64(max(1, round(wall_seconds * 1e9)))
        payload.u64(0 if cpu_seconds is None else max(1, round(cpu_seconds * 1e6)))
        payload.u64(round(grace_seconds * 1e9))
        answer = self._cell.channel.expect(wire.Down.TURN, self.order.id)
        await self._cell.channel.send(wire.Down.TURN, self.order.id, payload=payload.join())
        return answer

    def mark(self, answer: Answer, cpu_seen: float) -> Mark:
        """What had been used when it began; nothing, where the execution had ended by then."""
        if not answer.settled:
            return Mark(cpu_seconds=cpu_seen)
        record, _ = answer.take()
        user, system = (_count(record, slot) / 1e6 for slot in (CounterSlot.USER_USEC, CounterSlot.SYSTEM_USEC))
        return Mark(
            wall_seconds=record.wall_ns / 1e9,
            suspended_seconds=record.suspended_ns / 1e9,
            cpu_seconds=max(_count(record, CounterSlot.CPU_USEC) / 1e6, cpu_seen),
            user_seconds=user,
            system_seconds=system,
            processes_refused=_count(record, CounterSlot.PIDS_REFUSED),
        )

    async def end(self) -> wire.Record | None:
        """End the turn: no limit holds any more. None: the execution has ended. Not cancelled.

        Raises:
            NetworkError: The launcher is gone.
        """
        record, _ = await self._cell.channel.request(wire.Down.TURN_END, self.order.id)
        return record if record.type is wire.Up.DONE else None

    def observe(self, record: wire.Record, order: Order, status: int, dropped: int, mark: Mark) -> Observation:
        """The facts about a turn that has ended.

        Args:
            record: Of `end`.
            order: With the limits of the turn.
            status: How it ended by what the program says.
            dropped: Bytes beyond the output limit.
            mark: Of its begin.
        """
        assert self.sampler is not None
        ended = dataclasses.replace(record, wait_status=status << 8)
        return mark.since(observe(self._cell, order, ended, dropped, self.sampler))

    async def interrupt(self, reason: KillReason) -> None:
        """SIGINT to its process group; nothing, if no turn goes on.

        Args:
            reason: Kept, if it is the first one of the turn: it is killed for that, if it has not ended GRACE_SECONDS
                later. NONE: it is not.

        Raises:
            NetworkError: The launcher is gone.
        """
        await self._cell.channel.send(wire.Down.INTERRUPT, self.order.id, flags=reason)

    async def kill(self, reason: KillReason) -> None:
        """End the execution."""
        await self._cell.kill(self.order.id, reason)


def _count(record: wire.Record, slot: CounterSlot) -> int:
    value = record.counters[slot]
    return 0 if value == wire.UNKNOWN else value
