"""Reading a folder of problems, submissions and expectations."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nsbox import AsyncSandbox, EnforcementPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test of a problem.

    Attributes:
        stdin: What the program can read.
        answer: What it has to print; only the words count, not the white space between them.
    """

    stdin: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is asked.

    Attributes:
        name: The file's name, and the name of the folder of its submissions.
        cpu_seconds: CPU time of the whole process tree, for each test.
        wall_seconds: Wall clock, for each test.
        memory_mb: MiB.
        disk_mb: MiB of all that can be written.
        output_mb: MiB of stdout and stderr together, for each test.
        processes: Processes and threads.
        cases: The tests, in the order they are run.
    """

    name: str
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    disk_mb: int
    output_mb: int
    processes: int
    cases: tuple[Case, ...]

    def sandbox(self) -> AsyncSandbox:
        """A sandbox for one submission, not started yet."""
        policy = EnforcementPolicy(
            max_execution_seconds=self.wall_seconds,
            max_cpu_seconds=self.cpu_seconds,
            max_output_mb=self.output_mb,
        )
        return AsyncSandbox(
            enforcement=policy, cpus=2, memory_mb=self.memory_mb, disk_mb=self.disk_mb, processes=self.processes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was handed in.

    Attributes:
        problem: What it should solve.
        name: The file's name.
        source: Its text.
        grade: The grade that it is expected to get.
        verdict: The verdict that the grade is expected to rest on.
    """

    problem: Problem
    name: str
    source: str
    grade: str
    verdict: str


def read_problem(path: Path) -> Problem:
    """Read problems/<name>.toml."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    cases = tuple(Case(stdin=one["stdin"], answer=one["answer"]) for one in found["tests"])
    return Problem(name=path.stem, cases=cases, **found["limits"])


def read_submissions(folder: Path) -> list[Submission]:
    """All submissions to all problems, in order of their names.

    Raises:
        ValueError: The files and the expectations are not about the same submissions.
    """
    expected = tomllib.loads((folder / "expected.toml").read_text(encoding="utf-8"))
    found = []
    for path in sorted((folder / "problems").glob("*.toml")):
        problem = read_problem(path)
        sources = {
            file.stem: file.read_text(encoding="utf-8")
            for file in sorted((folder / "submissions" / problem.name).glob("*.py"))
        }
        wanted: Mapping[str, Mapping[str, str]] = expected.get(problem.name, {})
        if wanted.keys() != sources.keys():
            raise ValueError(f"{problem.name}: only files or only expected: {sorted(wanted.keys() ^ sources.keys())}")
        found += [
            Submission(problem=problem, name=name, source=source, **wanted[name]) for name, source in sources.items()
        ]
    return found
