"""Grade a folder and print the table: `python -m scripts.grader [FOLDER]`, run from the checkout.

The exit status is 0 when every grade and verdict is the expected one, 1 when not, 2 when this host cannot do it.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from nsbox import SandboxError
from scripts.grader.grading import Graded, grade_all
from scripts.grader.problems import read_submissions


def table_of(graded: Sequence[Graded]) -> Table:
    """One line for each submission."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (
        *(("problem", "left"), ("submission", "left"), ("grade", "left"), ("tests", "right"), ("verdict", "left")),
        *(("wall s", "right"), ("CPU s", "right"), ("peak MiB", "right"), ("", "left")),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    for one in graded:
        problem = one.submission.problem
        table.add_row(
            problem.name,
            one.submission.name,
            f"[{'green' if one.grade == 'Accepted' else 'red'}]{one.grade}[/]"
            + (f" ({one.detail})" if one.detail else ""),
            f"{one.passed}/{len(problem.cases)}",
            one.verdict.value,
            f"{one.wall_seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.peak_memory_bytes / 2**20:.1f}",
            "" if one.as_expected else f"[bold red]expected {one.submission.grade} ({one.submission.verdict})",
        )
    return table


def main() -> int:
    """Read, grade, print."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    started = time.monotonic()
    graded: list[Graded] = []
    failures: tuple[BaseException, ...] = ()
    try:
        graded = trio.run(grade_all, read_submissions(folder))
    except* SandboxError as group:
        failures = group.exceptions
    if failures:
        print(f"{failures[0]}\nWhat this host lacks, and how to mend it: nsbox doctor", file=sys.stderr)
        return 2
    # Into a file or a pipe, the table is as wide as it needs to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table_of(graded))
    good = sum(one.as_expected for one in graded)
    console.print(f"{good} of {len(graded)} verdicts as expected, in {time.monotonic() - started:.1f} s")
    if any((one.verdict, one.submission.verdict) == ("wall_time_limit", "cpu_time_limit") for one in graded):
        load = f"the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        console.print(f"CPU time limits were not reached within the wall clock limits: this machine is busy ({load}).")
    return 0 if graded and good == len(graded) else 1


if __name__ == "__main__":
    sys.exit(main())
