"""More than a host is made for: many executions at once, many sandboxes alive, sandboxes made and destroyed in a row.

No result may be wrong, nothing may be left, and what a sandbox takes may not grow from the first part to the last. Else
the exit status is 1.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import leaks
import trio

import nsbox
from nsbox import AsyncSandbox, SandboxConfig, Verdict
from scripts.soaking import counts, uses

_Use = Callable[[], Awaitable[None]]

_CONFIG = SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_output_mb=2))
AT_ONCE = 64
LIVING = 1000
CHURNING = 8
_MOST_GROWTH = 3.0
"""How many times as long the last tenth may take as the first: a machine is noisy, and what piles up goes on and on."""
_HONEST = (uses.calculates, uses.runs_a_command, uses.fails, uses.uses_files, uses.streams)
_BOMBS = (uses.takes_too_much_memory, uses.floods, uses.daemonises, uses.takes_too_long)


class Load:
    """What was done.

    Args:
        seed: Of all choices.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  # choices of what to do, no secret
        self.milliseconds: list[float] = []
        self.wrong: list[str] = []

    async def concurrent(self, seconds: float) -> None:
        """AT_ONCE sandboxes at a time, each used once, every tenth by a bomb."""
        await self._many(AT_ONCE, seconds, self._use)

    async def churn(self, seconds: float) -> None:
        """One after the other, CHURNING at a time, each with one command."""
        await self._many(CHURNING, seconds, self._run_true)

    async def living(self, _: float) -> None:
        """LIVING at the same time: each made, used when all are there, and ended."""
        alive: list[AsyncSandbox] = []
        try:
            for _number in range(LIVING):
                begun = trio.current_time()
                alive.append(await AsyncSandbox.create(memory_mb=64))
                self.milliseconds.append((trio.current_time() - begun) * 1000)
            for sandbox in alive:
                await self._check(partial(uses.runs_a_command, sandbox, self._chance))
        finally:
            with trio.CancelScope(shield=True):
                for sandbox in alive:
                    await sandbox.terminate()

    async def _many(self, at_once: int, seconds: float, use: _Use) -> None:
        end = trio.current_time() + seconds

        async def worker() -> None:
            while trio.current_time() < end:
                begun = trio.current_time()
                await self._check(use)
                self.milliseconds.append((trio.current_time() - begun) * 1000)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(worker)

    async def _check(self, use: _Use) -> None:
        try:
            await use()
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is counted and told
            self.wrong.append(f"{type(exc).__name__}: {exc}")

    async def _use(self) -> None:
        use = self._chance.choice(_BOMBS if self._chance.random() < 0.1 else _HONEST)
        async with AsyncSandbox(_CONFIG, memory_mb=64) as sandbox:
            await use(sandbox, self._chance)

    async def _run_true(self) -> None:
        async with AsyncSandbox(memory_mb=64) as sandbox:
            uses.expect(await sandbox.run(["true"]), Verdict.OK, "")


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _tell(name: str, load: Load, took: float) -> bool:
    """One paragraph; whether it did not slow down."""
    times = load.milliseconds
    tenth = max(1, len(times) // 10)
    growth = statistics.median(times[-tenth:]) / statistics.median(times[:tenth])
    print(
        f"{name}: {len(times)} in {took:.0f} s, {len(load.wrong)} with a wrong outcome; ms: median "
        f"{statistics.median(times):.1f}, 99 of 100 below {_quantile(times, 0.99):.1f}, longest {max(times):.1f}; "
        f"the last tenth takes {growth:.2f} of the first"
    )
    for line in load.wrong[:10]:
        print(f"  {line[:200]}")
    return growth <= _MOST_GROWTH


def main() -> int:
    """Load as was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/load", description=__doc__)
    kinds = ("concurrent", "living", "churn")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kinds)}; none: all")
    parser.add_argument("--seconds", type=float, default=120, help="of concurrent, and of churn (120)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(kinds):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    good = True
    trio.run(Load(arguments.seed).churn, 3.0)  # what is made once and kept: caches, pages, threads
    for kind in arguments.kinds or kinds:
        before, dying = counts.snapshot(), counts.dying_cgroups()
        load = Load(arguments.seed)
        started = time.monotonic()
        trio.run(getattr(load, kind), arguments.seconds)
        flat = _tell(kind, load, time.monotonic() - started)
        left = leaks.settled(before)
        print(f"  dying cgroups: {dying.total()} before, {counts.dying_cgroups().total()} after")
        for line in left:
            print(f"  left behind: {line}")
        good = good and flat and not left and not load.wrong and bool(load.milliseconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
