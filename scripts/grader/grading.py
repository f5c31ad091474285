"""From a submission to its grade: one fresh sandbox, test after test, until the first that is not passed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from nsbox import ExecutionResult, Verdict
from scripts.grader.problems import Case, Submission

AT_ONCE = 4
"""How many submissions are graded at the same time."""

_GRADES: Mapping[Verdict, str] = {
    Verdict.NONZERO_EXIT: "Runtime error",
    Verdict.SIGNALED: "Crash",
    Verdict.CPU_TIME_LIMIT: "CPU time limit",
    Verdict.WALL_TIME_LIMIT: "Wall time limit",
    Verdict.MEMORY_LIMIT: "Memory limit",
    Verdict.OUTPUT_LIMIT: "Output limit",
    Verdict.PROCESS_LIMIT: "Process limit",
    Verdict.DISK_LIMIT: "Disk limit",
    Verdict.SECURITY_VIOLATION: "Forbidden call",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What became of a submission.

    Attributes:
        submission: The submission.
        grade: For its author.
        verdict: What nsbox said about the last test that was run.
        detail: What the grade is about: the exception, the signal, the system call.
        passed: How many tests it passed.
        wall_seconds: The longest test.
        cpu_seconds: The test that took the most.
        peak_memory_bytes: The test that took the most.
    """

    submission: Submission
    grade: str
    verdict: Verdict
    detail: str
    passed: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int

    @property
    def as_expected(self) -> bool:
        """Whether both the grade and the verdict are what the expectations say."""
        return (self.grade, self.verdict.value) == (self.submission.grade, self.submission.verdict)


def grade_of(result: ExecutionResult, case: Case) -> str:
    """The grade for one test. Pure."""
    if not result.ok:
        return _GRADES[result.verdict]
    return "Accepted" if result.stdout.split() == case.answer.split() else "Wrong answer"


def detail_of(result: ExecutionResult) -> str:
    """One word about what went wrong, from the kernel's evidence or from the exception."""
    if result.verdict is Verdict.SECURITY_VIOLATION:
        return str(result.evidence["syscall"])
    if result.verdict is Verdict.SIGNALED:
        return str(result.evidence["signal_name"])
    if result.verdict is Verdict.NONZERO_EXIT:
        return f"exit code {result.exit_code}" if result.error is None else result.error.name
    return ""


async def grade(submission: Submission) -> Graded:
    """Grade one submission; nothing of it is left afterwards."""
    results: list[ExecutionResult] = []
    grades: list[str] = []
    async with submission.problem.sandbox() as sandbox:
        for case in submission.problem.cases:
            result = await sandbox.execute(submission.source, stdin=case.stdin)
            results.append(result)
            grades.append(grade_of(result, case))
            if grades[-1] != "Accepted":
                break
    used = [result.metrics for result in results if result.metrics is not None]
    return Graded(
        submission=submission,
        grade=grades[-1],
        verdict=results[-1].verdict,
        detail=detail_of(results[-1]),
        passed=grades.count("Accepted"),
        wall_seconds=max(one.wall_seconds for one in used),
        cpu_seconds=max(one.cpu_seconds for one in used),
        peak_memory_bytes=max(one.peak_memory_bytes for one in used),
    )


async def grade_all(submissions: Sequence[Submission]) -> list[Graded]:
    """Grade them all, `AT_ONCE` at a time; the results are in the order of the submissions."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    results: dict[int, Graded] = {}

    async def one(index: int, submission: Submission) -> None:
        async with limiter:
            results[index] = await grade(submission)

    async with trio.open_nursery() as nursery:
        for index, submission in enumerate(submissions):
            nursery.start_soon(one, index, submission)
    return [results[index] for index in sorted(results)]
