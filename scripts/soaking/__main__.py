"""Soak: mixed use for some time, or so often, then the numbers of before. The exit status is 1 where they are not."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

import leaks
import trio

import nsbox
from nsbox import AsyncSandbox, SandboxConfig
from scripts.soaking import counts
from scripts.soaking.uses import OWN, SHARED

AT_ONCE = 4
WARM_UP_SECONDS = 5.0
MOST_GROWTH = 1 << 20
"""Bytes of this process' memory that 100,000 uses may leave; attacks.md of the field calls less than that flat."""
SLACK = 8 << 20
"""Bytes that the allocator may keep, once."""


class Soak:
    """The uses so far.

    Args:
        seed: Of all choices.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  # choices of what to do, no secret
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    async def run(self, seconds: float, uses: int | None = None) -> None:
        """Use sandboxes, `AT_ONCE` at a time, for so long, and so often at most."""
        end = time.monotonic() + seconds
        config = SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_output_mb=2, max_concurrent_executions=16))
        async with AsyncSandbox(config, memory_mb=64) as shared, trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._worker, shared, config, end, uses)

    async def _worker(self, shared: AsyncSandbox, config: SandboxConfig, end: float, uses: int | None) -> None:
        while time.monotonic() < end and (uses is None or self.done.total() < uses):
            own = self._chance.random() < 0.5
            name = self._chance.choice(sorted(OWN if own else SHARED))
            try:
                if own:
                    async with AsyncSandbox(config, memory_mb=64) as sandbox:
                        await OWN[name](sandbox, self._chance)
                else:
                    await SHARED[name](shared, self._chance)
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is counted and told
                self.failures.append(f"{name}: {type(exc).__name__}: {exc}")
            self.done[name] += 1


def main() -> int:
    """Soak for as long as was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--uses", type=int, help="end after so many, if the seconds have not passed by then")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    trio.run(Soak(arguments.seed).run, WARM_UP_SECONDS)  # what is made once and kept: caches, pages, threads
    before, resident, dying = counts.snapshot(), counts.resident_bytes(), counts.dying_cgroups()
    soak = Soak(arguments.seed)
    started = time.monotonic()
    trio.run(soak.run, arguments.seconds, arguments.uses)
    took = time.monotonic() - started
    left = leaks.settled(before)
    growth = counts.resident_bytes() - resident
    total = soak.done.total()
    for name, count in sorted(soak.done.items()):
        print(f"{count:8} {name}")
    print(
        f"{total:8} uses in {took:.0f} s, {len(soak.failures)} with a wrong outcome; memory {growth / 2**20:+.1f} MiB"
    )
    print(f"dying cgroups: {dying.total()} before, {counts.dying_cgroups().total()} after")
    for line in (*soak.failures[:20], *(f"left behind: {one}" for one in left)):
        print(line)
    flat = growth <= SLACK + MOST_GROWTH * total / 100_000
    if not flat:
        print("memory has grown")
    return 0 if flat and not left and not soak.failures and total else 1


if __name__ == "__main__":
    sys.exit(main())
