"""A gigabyte of output that nobody keeps: how fast, and in how much memory."""

import resource
import subprocess
import time
from pathlib import Path

from nsbox import AsyncSandbox, EnforcementPolicy
from scripts.benchmarks.measure import BLOCK, Goal, Report, Series

_MIB = 1024
_COMMAND = ("head", "-c", "1G", "/dev/zero")
_PIPE = "head -c 1G /dev/zero | cat >/dev/null"
_MOST_GROWTH_MB = 8.0  # two buffers of a MiB, and what the allocator rounds up


def _resident_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def _start_watching() -> int:
    """Let the high-water mark start anew (proc_pid_clear_refs(5)); the resident set of now in KiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident_kib("VmRSS")


def _time_pipe() -> float:
    """The shell's way; seconds."""
    begun = time.perf_counter()
    subprocess.run(["sh", "-c", _PIPE], check=True)
    return time.perf_counter() - begun


async def stream(runs: int) -> Report:
    """In turn; a tenth of the runs, for each moves a gigabyte."""
    rates: dict[str, list[float]] = {"nsbox": [], "head | cat": []}
    growth = []
    policy = EnforcementPolicy(max_output_mb=2048, max_execution_seconds=60)
    async with AsyncSandbox(enforcement=policy, cpus=2) as sandbox:
        (await sandbox.run(("head", "-c", "1M", "/dev/zero"), capture_output=False)).raise_for_verdict()
        for _ in range(max(5, runs // (BLOCK // 2))):
            before = _start_watching()
            begun = time.perf_counter()
            (await sandbox.run(_COMMAND, capture_output=False)).raise_for_verdict()
            rates["nsbox"].append(_MIB / (time.perf_counter() - begun))
            growth.append((_resident_kib("VmHWM") - before) / 1024)
            rates["head | cat"].append(_MIB / _time_pipe())
    series = {name: Series(samples=found, unit="MiB/s") for name, found in rates.items()}
    ratio = series["nsbox"].median / series["head | cat"].median
    return Report(
        title="stream: 1 GiB of stdout through run, nothing kept",
        series={**series, "growth of nsbox": Series(samples=growth, unit="MiB")},
        goals=[
            Goal(what="nsbox / head | cat", value=ratio, bound=1.0, side="at least"),
            Goal(what="most growth of the resident set", value=max(growth), bound=_MOST_GROWTH_MB, unit="MiB"),
        ],
        notes=[f"the most this process ever had: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"],
    )
