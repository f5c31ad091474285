"""The 164 problems of HumanEval: every reference solution is graded OK, every broken one for what breaks it."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from nsbox import AsyncSandbox, ExecutionResult, Verdict

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "HumanEval.jsonl.gz"
AT_ONCE = 4
WALL_SECONDS = 25.0  # of which a solution needs 0.2; on a busy machine a loop must get its CPU time within it
CPU_SECONDS = 0.2  # eight times what the start of the interpreter takes
MEMORY_MB = 64

BROKEN: Sequence[tuple[str, Verdict]] = (
    ("    pass\n", Verdict.NONZERO_EXIT),
    ("    while True:\n        pass\n", Verdict.CPU_TIME_LIMIT),
    ("    kept = []\n    while True:\n        kept.append(bytearray(1 << 20))\n", Verdict.MEMORY_LIMIT),
)
"""Bodies that are no solution, in turn, and the verdict on each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to grade.

    Attributes:
        name: The problem's.
        source: A function and the test that calls it.
        cpu_timeout: Seconds; None: not limited.
    """

    name: str
    source: str
    cpu_timeout: float | None = None


def read_problems() -> list[Mapping[str, str]]:
    """All problems; without the file, the test is skipped."""
    if not DATA.exists():
        pytest.skip(f"the data set {DATA.name} is not in the directory shared/data beside the checkout")
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def program(problem: Mapping[str, str], body: str) -> str:
    """A problem's function with a body, its test, and the call of the test."""
    return f"{problem['prompt']}{body}\n{problem['test']}\ncheck({problem['entry_point']})\n"


async def grade(programs: Sequence[Program]) -> dict[str, ExecutionResult]:
    """Run each in a sandbox of its own, `AT_ONCE` at a time."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    results: dict[str, ExecutionResult] = {}

    async def one(item: Program) -> None:
        async with limiter, AsyncSandbox(memory_mb=MEMORY_MB, timeout=WALL_SECONDS) as sandbox:
            results[item.name] = await sandbox.execute(item.source, cpu_timeout=item.cpu_timeout)

    async with trio.open_nursery() as nursery:
        for item in programs:
            nursery.start_soon(one, item)
    return results


@pytest.mark.slow
async def test_all_reference_solutions_are_ok() -> None:
    """Exit code 0, and not a word on stderr."""
    problems = read_problems()
    programs = [Program(name=one["task_id"], source=program(one, one["canonical_solution"])) for one in problems]
    results = await grade(programs)
    assert len(results) == 164
    assert {name: result for name, result in results.items() if not result.ok or result.stderr_bytes} == {}


@pytest.mark.slow
@pytest.mark.needs_cgroups
async def test_all_broken_solutions_get_the_verdict_on_what_breaks_them() -> None:
    """A body that does nothing fails the test that calls it, a loop uses up its CPU time, an allocation its memory."""
    problems = read_problems()
    programs, expected = [], {}
    for index, problem in enumerate(problems):
        body, verdict = BROKEN[index % len(BROKEN)]
        cpu_timeout = CPU_SECONDS if verdict is Verdict.CPU_TIME_LIMIT else None
        programs.append(Program(name=problem["task_id"], source=program(problem, body), cpu_timeout=cpu_timeout))
        expected[problem["task_id"]] = verdict
    results = await grade(programs)
    assert len(results) == 164
    wrong = {name: result for name, result in results.items() if result.verdict is not expected[name]}
    assert wrong == {}
    # The function returns None, which the test either compares or computes with; anything else would not be its doing.
    failed = [result.error for result in results.values() if result.verdict is Verdict.NONZERO_EXIT]
    assert {None if error is None else error.name for error in failed} == {"AssertionError", "TypeError"}
