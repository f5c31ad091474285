"""How many fresh sandboxes a second, eight at a time."""

import time
from collections.abc import Callable

import trio

from scripts.benchmarks.latency import run_fresh
from scripts.benchmarks.measure import BLOCK, Goal, Report, Series
from scripts.benchmarks.peers import BUBBLEWRAP, TRUE, run_many

AT_ONCE = 8
_PER_ROUND = 5 * BLOCK


async def _run_ours(count: int) -> None:
    left = count

    async def worker() -> None:
        nonlocal left
        while left:
            left -= 1
            await run_fresh()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(worker)


async def throughput(runs: int) -> Report:
    """Rounds of 100, in turn; the rate of each round is one sample."""
    rates: dict[str, list[float]] = {"nsbox": [], "bare process": [], "bubblewrap": []}

    def note(name: str, begun: int) -> None:
        rates[name].append(_PER_ROUND / (time.perf_counter_ns() - begun) * 1e9)

    def run_theirs(name: str, run: Callable[[], None]) -> None:
        begun = time.perf_counter_ns()
        run()
        note(name, begun)

    await _run_ours(AT_ONCE)
    for _ in range(max(3, runs // BLOCK)):
        begun = time.perf_counter_ns()
        await _run_ours(_PER_ROUND)
        note("nsbox", begun)
        await trio.sleep(0.1)
        run_theirs("bare process", lambda: run_many((TRUE,), _PER_ROUND, AT_ONCE))
        run_theirs("bubblewrap", lambda: run_many(BUBBLEWRAP, _PER_ROUND, AT_ONCE))
        await trio.sleep(0.1)
    series = {name: Series(samples=found, unit="per s") for name, found in rates.items()}
    ratio = series["nsbox"].median / series["bubblewrap"].median
    return Report(
        title=f"throughput: fresh sandboxes with /bin/true, {AT_ONCE} at a time, rounds of {_PER_ROUND}",
        series=series,
        goals=[Goal(what="nsbox / bubblewrap", value=ratio, bound=2.5, side="at least")],
    )
