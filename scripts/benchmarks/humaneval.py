"""The reference solutions of HumanEval, each graded in a fresh sandbox, against one bare process each."""

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

import trio

from nsbox import AsyncPool, AsyncSandbox, ExecutionResult
from scripts.benchmarks.measure import Goal, Report, Series
from scripts.benchmarks.peers import run_each

AT_ONCE = 8
_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "HumanEval.jsonl.gz"
_ROUNDS = 5


def _programs() -> list[str]:
    with gzip.open(_DATA, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    return [
        f"{one['prompt']}{one['canonical_solution']}\n{one['test']}\ncheck({one['entry_point']})\n" for one in problems
    ]


def _write(directory: Path, programs: list[str]) -> list[tuple[str, ...]]:
    """Each into a file. Returns the commands that run them."""
    commands: list[tuple[str, ...]] = []
    for number, program in enumerate(programs):
        path = directory / f"{number}.py"
        path.write_text(program, encoding="utf-8")
        commands.append((sys.executable, str(path)))
    return commands


async def _grade(sandbox: AsyncSandbox, program: str) -> ExecutionResult:
    return (await sandbox.execute(program)).raise_for_verdict()


async def _run_ours(pool: AsyncPool, programs: list[str]) -> None:
    async with pool.map(_grade, programs, concurrency=AT_ONCE) as outcomes:
        async for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def humaneval(runs: int) -> Report:
    """Rounds of all of them, in turn; the rate of each round is one sample."""
    title = f"humaneval: 164 reference solutions, each in a fresh sandbox, {AT_ONCE} at a time"
    if not _DATA.exists():
        return Report(title=title, series={}, goals=[], notes=[f"left out: {_DATA.name} is not there"])
    programs = _programs()
    rates: dict[str, list[float]] = {"nsbox": [], "bare process": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        commands = _write(Path(directory), programs)
        async with AsyncPool(size=AT_ONCE) as pool:
            await _run_ours(pool, programs[:AT_ONCE])
            for _ in range(max(1, min(_ROUNDS, runs // 20))):
                await trio.sleep(0.2)
                begun = time.perf_counter_ns()
                await _run_ours(pool, programs)
                rates["nsbox"].append(len(programs) / (time.perf_counter_ns() - begun) * 1e9)
                await trio.sleep(0.2)
                begun = time.perf_counter_ns()
                run_each(commands, AT_ONCE)
                rates["bare process"].append(len(programs) / (time.perf_counter_ns() - begun) * 1e9)
    series = {name: Series(samples=found, unit="per s") for name, found in rates.items()}
    ratio = series["nsbox"].median / series["bare process"].median
    best = max(rates["nsbox"]) / max(rates["bare process"])
    return Report(
        title=title,
        series=series,
        goals=[Goal(what="nsbox / bare", value=ratio, bound=2.5, side="at least")],
        notes=[f"the best round of each: nsbox / bare = {best:.2f}"],
    )
