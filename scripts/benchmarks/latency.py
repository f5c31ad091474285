"""One program at a time: in a fresh sandbox, in a fresh one after a pause, and in a living one."""

from nsbox import AsyncSandbox
from scripts.benchmarks.measure import Goal, Report, in_turn
from scripts.benchmarks.peers import TRUE, run_bare, run_bubblewrap

_PAUSE = 0.05
_LIMITS = {"memory_mb": 256, "processes": 32, "disk_mb": 64, "timeout": 10.0}


async def run_fresh() -> None:
    """A sandbox with all limits and the filter, made, used once, and gone."""
    async with AsyncSandbox(**_LIMITS) as sandbox:
        (await sandbox.run((TRUE,))).raise_for_verdict()


async def fresh(runs: int) -> Report:
    """Back to back."""
    contenders = {"nsbox": run_fresh, "bare process": run_bare, "bubblewrap": run_bubblewrap}
    series = await in_turn(contenders, runs)
    ratio = series["nsbox"].median / series["bubblewrap"].median
    goal = Goal(what="nsbox / bubblewrap", value=ratio, bound=0.35)
    return Report(title="fresh: a fresh sandbox, /bin/true, terminate", series=series, goals=[goal])


async def paused(runs: int) -> Report:
    """After 50 ms of quiet, when the CPUs are idle and a process that is moved between cgroups waits long."""
    contenders = {"nsbox": run_fresh, "bare process": run_bare, "bubblewrap": run_bubblewrap}
    series = await in_turn(contenders, runs, pause=_PAUSE)
    ratio = series["nsbox"].median / series["bubblewrap"].median
    goal = Goal(what="nsbox / bubblewrap", value=ratio, bound=0.55)
    return Report(title="paused: the same, 50 ms of quiet before every run", series=series, goals=[goal])


async def living(runs: int) -> Report:
    """In one sandbox that is there already."""
    async with AsyncSandbox(**_LIMITS) as sandbox:

        async def run_living() -> None:
            (await sandbox.run((TRUE,))).raise_for_verdict()

        series = await in_turn({"nsbox": run_living, "bare process": run_bare}, runs)
    ratio = series["nsbox"].median / series["bare process"].median
    goal = Goal(what="nsbox / bare process", value=ratio, bound=1.8)
    return Report(title="living: /bin/true in a living sandbox", series=series, goals=[goal])
