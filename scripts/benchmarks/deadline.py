"""How late a kill at its deadline is, also while a thread of the application holds the GIL for two seconds.

The programs tell themselves how long they lived: each writes the monotonic clock, which is the same inside and outside,
every half millisecond. What the last one says, minus when the execution was sent on its way, minus the limit, is how
late the kill was, with the way to the launcher on top, and at most that half millisecond less than the truth.
"""

import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import trio

from nsbox import EnforcementPolicy, ExecutionResult, Sandbox, Verdict
from scripts.benchmarks.measure import Goal, Report, Series

_LIMIT = 0.5
_HOLD_SECONDS = 2.0
_AT_ONCE = 4  # more would wait for each other on a small machine, which is not nsbox's doing
_LATEST_MS = 20.0
_PROGRAM = """
import os, struct, time
while True:
    os.write(1, struct.pack("q", time.monotonic_ns()))
    time.sleep(0.0005)
"""


def _hold_gil(length: int) -> float:
    """Match a pattern whose work doubles with each character, in C, without ever letting the GIL go; seconds."""
    begun = time.monotonic()
    re.match(r"(?:a+)+$", "a" * length + "b")
    return time.monotonic() - begun


def _length_for(seconds: float) -> int:
    """How long the text has to be to take at least so many seconds here."""
    length = 20
    while (took := _hold_gil(length)) < 0.1:
        length += 1
    while took < seconds:
        length += 1
        took *= 2
    return length


def _lateness_ms(result: ExecutionResult, started_at: float) -> tuple[float, float]:
    """How late the kill was by the program's clock, and by nsbox's own."""
    if result.verdict is not Verdict.WALL_TIME_LIMIT or result.metrics is None:
        raise RuntimeError(f"not killed at its deadline: {result!r}")
    last = struct.unpack_from("q", result.stdout_bytes, len(result.stdout_bytes) // 8 * 8 - 8)[0] / 1e9
    return (last - started_at - _LIMIT) * 1e3, (result.metrics.wall_seconds - _LIMIT) * 1e3


def _started(sandbox: Sandbox) -> dict[str, float]:
    """When each of the executions, of which all have to be running, was sent on its way; on the monotonic clock."""
    while len(sandbox.executions) < _AT_ONCE:
        time.sleep(0.002)
    offset = time.time() - time.monotonic()
    return {name: one.started_at.timestamp() - offset for name, one in sandbox.executions.items() if one.started_at}


def _round(sandbox: Sandbox, length: int | None) -> list[tuple[float, float]]:
    """Several kills at the same deadline; with `length`, the GIL is held from before it until after it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        calls = [pool.submit(partial(sandbox.execute, _PROGRAM, timeout=_LIMIT)) for _ in range(_AT_ONCE)]
        started = _started(sandbox)
        if length is not None:
            time.sleep(0.1)  # by then the programs run
            held_from = time.monotonic()
            held_to = held_from + _hold_gil(length)
            deadlines = [at + _LIMIT for at in started.values()]
            if held_from > min(deadlines) or held_to < max(deadlines) + _HOLD_SECONDS / 2:
                raise RuntimeError("the GIL was not held around the deadline; is the machine busy with something else?")
        results = [call.result() for call in calls]
    return [_lateness_ms(result, started[result.execution_id]) for result in results]


def _measure(runs: int) -> dict[str, Series]:
    policy = EnforcementPolicy(max_concurrent_executions=_AT_ONCE)
    rounds = -(-runs // _AT_ONCE)
    found: dict[str, list[float]] = {}
    length = _length_for(_HOLD_SECONDS)
    with Sandbox(enforcement=policy, cpus=2) as sandbox:
        for kind, hold in (("", None), (", GIL held", length)):
            late = [pair for _ in range(rounds) for pair in _round(sandbox, hold)]
            found[f"program's clock{kind}"] = [pair[0] for pair in late]
            found[f"nsbox's clock{kind}"] = [pair[1] for pair in late]
    return {name: Series(samples=samples, unit="ms late") for name, samples in found.items()}


async def deadline(runs: int) -> Report:
    """Blocking calls from threads, as an application with a thread that calculates would make them."""
    series = await trio.to_thread.run_sync(partial(_measure, runs))
    return Report(
        title=f"deadline: a kill {_LIMIT:g} s after the start, {_AT_ONCE} at the same time",
        series=series,
        goals=[
            Goal(what=f"the latest, {name}", value=max(one.samples), bound=_LATEST_MS, unit="ms")
            for name, one in series.items()
        ],
    )
