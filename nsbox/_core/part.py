"""What a part of a sandbox is told about the sandbox's life."""

from __future__ import annotations

from nsbox._supervisor.cell import Cell
from nsbox._supervisor.supervisor import Supervisor


class Part:
    """Files, ports, metrics and their like: what belongs to a sandbox beside its executions.

    The core calls these in the supervisor's run; what a part does not need it leaves as it is. None of them raises.
    """

    def opened(self, supervisor: Supervisor, cell: Cell) -> None:
        """There are new processes: after `start`, `restart`, `reset`, and a recovery."""

    def suspended(self) -> None:
        """Every process stands still."""

    def resumed(self) -> None:
        """They go on."""

    def closed(self) -> None:
        """The processes of before are gone, or are about to be: before `restart` and `reset`, and when they died."""

    async def end(self) -> None:
        """The sandbox is about to be terminated: nothing may be left of the part. Not cancelled; called once."""
