"""Two hundred living sandboxes: whether the last is made as fast as the first, and what they take in memory."""

import resource
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from nsbox import AsyncSandbox
from scripts.benchmarks.measure import BLOCK, Goal, Report, Series

_LIVING = 200
_FDS_EACH = 8


def _pss_kib(pid: int) -> int:
    """The proportional set size of a process: what is shared counts in parts (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _raise_fd_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _LIVING * _FDS_EACH + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def scale(runs: int) -> Report:
    """Rounds of 200; the first and the last 20 of each are compared."""
    _raise_fd_limit()
    first: list[float] = []
    last: list[float] = []
    own: list[float] = []
    theirs: list[float] = []
    async with AsyncSandbox():  # the launcher is there, its kind of sandbox known
        for _ in range(max(1, runs // BLOCK)):
            took = []
            async with AsyncExitStack() as stack:
                for _ in range(_LIVING):
                    sandbox = AsyncSandbox()
                    begun = time.perf_counter_ns()
                    await sandbox.start()
                    took.append((time.perf_counter_ns() - begun) / 1e6)
                    stack.push_async_callback(sandbox.terminate)
                processes = psutil.Process().children(recursive=True)
                theirs.append(sum(_pss_kib(process.pid) for process in processes) / _LIVING)
                own.append(_pss_kib(psutil.Process().pid) / _LIVING)
            first += took[:BLOCK]
            last += took[-BLOCK:]
    series = {
        f"first {BLOCK}": Series(samples=first, unit="ms"),
        f"last {BLOCK}": Series(samples=last, unit="ms"),
        "launcher and PID 1s": Series(samples=theirs, unit="KiB each"),
        "this process": Series(samples=own, unit="KiB each"),
    }
    ratio = series[f"last {BLOCK}"].median / series[f"first {BLOCK}"].median
    memory = (series["launcher and PID 1s"].median + series["this process"].median) / 1024
    return Report(
        title=f"scale: {_LIVING} living sandboxes",
        series=series,
        goals=[
            Goal(what="creation, last / first", value=ratio, bound=1.5),
            Goal(what="memory of a sandbox (PSS)", value=memory, bound=1.0, unit="MiB"),
        ],
        notes=[f"{len(processes)} processes below this one at the end"],
    )
