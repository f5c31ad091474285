"""How exactly limits of time and the peak of memory are what they say, one program after the other."""

import sys

from nsbox import AsyncSandbox, EnforcementPolicy, ExecutionMetrics, ExecutionResult, Verdict
from scripts.benchmarks.measure import Goal, Report, Series

_WALL_SECONDS = 0.1
_CPU_SECONDS = 0.1
_TAKEN_MIB = 64
_LATEST_MS = 100.0
_MOST_CPU_MS = 50.0
_MOST_PERCENT = 5.0
_TAKE = "import sys; x = bytearray(b'x') * (int(sys.argv[1]) << 20)"


def _metrics(result: ExecutionResult, verdict: Verdict) -> ExecutionMetrics:
    if result.verdict is not verdict or result.metrics is None:
        raise RuntimeError(f"not {verdict.value}: {result!r}")
    return result.metrics


async def _peak(sandbox: AsyncSandbox, mib: int) -> float:
    result = await sandbox.run((sys.executable, "-c", _TAKE, str(mib)))
    return _metrics(result, Verdict.OK).peak_memory_bytes / 2**20


async def accuracy(runs: int) -> Report:
    """Each of the three, `runs` times."""
    wall, cpu, memory = [], [], []
    policy = EnforcementPolicy(max_cpu_seconds=_CPU_SECONDS)
    async with AsyncSandbox(memory_mb=256) as sandbox, AsyncSandbox(enforcement=policy) as short:
        without = sorted([await _peak(sandbox, 0) for _ in range(9)])[4]
        for _ in range(runs):
            slept = _metrics(await sandbox.run(("sleep", "100"), timeout=_WALL_SECONDS), Verdict.WALL_TIME_LIMIT)
            wall.append((slept.wall_seconds - _WALL_SECONDS) * 1e3)
            spun = _metrics(await short.shell("while :; do :; done"), Verdict.CPU_TIME_LIMIT)
            cpu.append(abs(spun.cpu_seconds - _CPU_SECONDS) * 1e3)
            memory.append(abs(await _peak(sandbox, _TAKEN_MIB) / (without + _TAKEN_MIB) - 1) * 100)
    series = {
        "wall clock": Series(samples=wall, unit="ms late"),
        "CPU time": Series(samples=cpu, unit="ms off"),
        "peak memory": Series(samples=memory, unit="% off"),
    }
    bounds = zip(series.items(), (_LATEST_MS, _MOST_CPU_MS, _MOST_PERCENT), strict=True)
    return Report(
        title=f"accuracy: limits of {_WALL_SECONDS:g} s, and the peak of a program that takes {_TAKEN_MIB} MiB",
        series=series,
        goals=[
            Goal(what=f"the worst, {name}", value=max(one.samples), bound=bound, unit=one.unit.split()[0])
            for (name, one), bound in bounds
        ],
    )
