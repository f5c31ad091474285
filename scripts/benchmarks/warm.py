"""Python programs in sandboxes with a warm interpreter, against bare processes of the same interpreter."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import trio

from nsbox import AsyncSandbox
from scripts.benchmarks.measure import Goal, Report, Series, in_turn
from scripts.benchmarks.peers import run_process

_PROGRAM = "print(1)"
_NUMPY = "import numpy\nprint((numpy.arange(1000) + numpy.arange(1000))[-1])\n"
_MOST_PSS_MIB = 10.0
_WARM_SECONDS = 60.0


async def wait_until_warm(sandbox: AsyncSandbox) -> None:
    """Run programs until the interpreter is there."""
    with trio.fail_after(_WARM_SECONDS):
        while sandbox.isolation["interpreter"] != "warm":
            (await sandbox.execute(_PROGRAM)).raise_for_verdict()
            await trio.sleep(0.01)


async def _execute(sandbox: AsyncSandbox, program: str, output: str) -> None:
    result = await sandbox.execute(program)
    if result.raise_for_verdict().stdout != output:
        raise RuntimeError(f"a wrong result: {result!r}")


async def _fresh(program: str, output: str, preload: tuple[str, ...] = ()) -> None:
    async with AsyncSandbox(preload=preload) as sandbox:
        await _execute(sandbox, program, output)


def _ratio(series: dict[str, Series], bound: float) -> Goal:
    return Goal(what="nsbox / bare", value=series["nsbox"].median / series["bare process"].median, bound=bound)


def _least(series: dict[str, Series]) -> str:
    least = min(series["nsbox"].samples) / min(series["bare process"].samples)
    return f"the fastest of each: nsbox / bare = {least:.2f}"


async def warm_living(runs: int) -> Report:
    """In one sandbox that is there already."""
    async with AsyncSandbox() as sandbox:
        await wait_until_warm(sandbox)
        contenders = {
            "nsbox": partial(_execute, sandbox, _PROGRAM, "1\n"),
            "bare process": partial(run_process, (sys.executable, "-c", _PROGRAM)),
        }
        series = await in_turn(contenders, runs)
    return Report(
        title="warm-living: execute('print(1)') in a living sandbox", series=series, goals=[_ratio(series, 0.30)],
        notes=[_least(series)],
    )  # fmt: skip


async def warm_fresh(runs: int) -> Report:
    """A sandbox made, used once, and gone."""
    async with AsyncSandbox() as sandbox:
        await wait_until_warm(sandbox)
        contenders = {
            "nsbox": partial(_fresh, _PROGRAM, "1\n"),
            "bare process": partial(run_process, (sys.executable, "-c", _PROGRAM)),
        }
        series = await in_turn(contenders, runs)
    return Report(
        title="warm-fresh: a fresh sandbox, execute('print(1)'), terminate", series=series,
        goals=[_ratio(series, 0.5)], notes=[_least(series)],
    )  # fmt: skip


async def warm_numpy(runs: int) -> Report:
    """The same with a program that imports numpy and adds two arrays."""
    title = "warm-numpy: a fresh sandbox with preload=['numpy'], two arrays added, terminate"
    if importlib.util.find_spec("numpy") is None:
        return Report(title=title, series={}, goals=[], notes=["left out: numpy is not installed"])
    fresh = partial(_fresh, _NUMPY, "1998\n", ("numpy",))
    contenders = {"nsbox": fresh, "bare process": partial(run_process, (sys.executable, "-c", _NUMPY))}
    series = await in_turn(contenders, runs)
    return Report(
        title=title, series=series, goals=[_ratio(series, 0.06)], notes=[_least(series)],
    )  # fmt: skip


def _memory_mib(pid: int) -> tuple[float, float]:
    """Its share of what it has in memory, and what it alone has, proc_pid_smaps(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
    return sizes["Pss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"]


def _interpreters() -> list[int]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if directory.joinpath("cmdline").read_bytes().startswith(b"nsbox-launcher interpreter"):
                    found.append(int(directory.name))
            except OSError:
                continue  # it has ended
    return found


async def warm_memory(_: int) -> Report:
    """What a warm interpreter that waits takes, and what each child of it that is parked in a sandbox adds."""
    before = set(_interpreters())
    async with AsyncSandbox() as sandbox:
        await wait_until_warm(sandbox)
        for _ in range(3):
            await _execute(sandbox, _PROGRAM, "1\n")
        await trio.sleep(0.2)  # until the next one is parked
        found = {pid: _memory_mib(pid) for pid in set(_interpreters()) - before}
    added = [private for pid, (_, private) in found.items() if pid != min(found)]
    interpreter = sum(pss for pss, _ in found.values()) - sum(added)  # as if it were alone: its children share with it
    series = {"interpreter": Series(samples=[interpreter], unit="MiB")}
    if added:
        series["each parked child"] = Series(samples=added, unit="MiB")
    goal = Goal(what="PSS of the interpreter", value=interpreter, bound=_MOST_PSS_MIB, unit="MiB")
    return Report(title="warm-memory: what waits", series=series, goals=[goal])
