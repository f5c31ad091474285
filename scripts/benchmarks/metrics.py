"""A thousand idle sandboxes whose counters are looked at each second: what of a core that takes."""

import os
import resource
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from nsbox import AsyncSandbox, Event
from scripts.benchmarks.measure import BLOCK, Goal, Report, Series

_LIVING = 1000
_FDS_EACH = 8
_SECONDS = 5.0


def _room() -> int:
    """As many as this process may have descriptors for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _LIVING if hard == resource.RLIM_INFINITY else min(_LIVING, (hard - 256) // _FDS_EACH)


async def _cost() -> float:
    """CPU time of this process, as a fraction of one core, over some seconds in which it has nothing else to do."""
    cpu, clock = time.process_time(), time.monotonic()
    await trio.sleep(_SECONDS)
    return (time.process_time() - cpu) / (time.monotonic() - clock)


async def metrics(runs: int) -> Report:
    """Sandboxes of which nobody wants to hear, and the same with a subscriber to each of the four events each."""
    living = _room()
    rounds = max(1, runs // (5 * BLOCK))
    silent: list[float] = []
    heard: list[float] = []
    events = 0

    def count(_: Event) -> None:
        nonlocal events
        events += 1

    async with AsyncExitStack() as stack:
        sandboxes = []
        for _ in range(living):
            sandbox = AsyncSandbox()
            await sandbox.start()
            stack.push_async_callback(sandbox.terminate)
            sandboxes.append(sandbox)
        await trio.sleep(2)  # what was put off is done
        descriptors = len(os.listdir("/proc/self/fd"))
        silent += [await _cost() for _ in range(rounds)]
        stop: list[Callable[[], None]] = []
        for sandbox in sandboxes:  # as a store does it: nothing but a call for each event
            for kind in ("metrics_updated", "resource_warning", "resource_exceeded", "disk_full"):
                stop.append(sandbox._core.emitter.subscribe(kind, count))  # noqa: PERF401
        await trio.sleep(2)
        opened = len(os.listdir("/proc/self/fd")) - descriptors
        before, begun = events, time.monotonic()
        heard += [await _cost() for _ in range(rounds)]
        rate = (events - before) / (time.monotonic() - begun)
        for one in stop:
            one()
    fraction = Series(samples=heard, unit="of a core")
    return Report(
        title=f"metrics: {living} idle sandboxes, looked at each second",
        series={"nobody listens": Series(samples=silent, unit="of a core"), "everybody does": fraction},
        goals=[
            Goal(what="CPU time of the looks", value=fraction.median, bound=0.1 * living / _LIVING, unit="of a core")
        ],
        notes=[f"{rate:.0f} looks a second, {opened / living:.1f} descriptors for the counters of each"],
    )
