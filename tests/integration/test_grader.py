"""The demo is a grader, and what it says about every submission is right."""

import os
import re
import select
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsbox import Verdict

ROOT = Path(__file__).resolve().parents[2]
GRADER = ROOT / "scripts" / "grader"
SECONDS = 100


def run_grader(folder: Path) -> subprocess.CompletedProcess[str]:
    """The demo without its set-up."""
    command = [sys.executable, "-m", "scripts.grader", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def make_folder(target: Path, problem: str, expected: dict[str, tuple[str, str]]) -> Path:
    """A folder to grade, with some of the demo's submissions to one problem, and other expectations."""
    lines = [f'{name} = {{ grade = "{grade}", verdict = "{verdict}" }}' for name, (grade, verdict) in expected.items()]
    (target / "problems").mkdir()
    (target / "submissions" / problem).mkdir(parents=True)
    shutil.copy(GRADER / "problems" / f"{problem}.toml", target / "problems")
    for name in expected:
        shutil.copy(GRADER / "submissions" / problem / f"{name}.py", target / "submissions" / problem)
    (target / "expected.toml").write_text("\n".join([f"[{problem}]", *lines]))
    return target


def run_on_host(submission: str, directory: Path, stdin: str) -> subprocess.CompletedProcess[str]:
    """A submission without a sandbox, for the positive control."""
    command = [sys.executable, str(GRADER / "submissions" / f"{submission}.py")]
    return subprocess.run(
        command, cwd=directory, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@contextmanager
def ending(pid_file: Path) -> Iterator[None]:
    """Kill the process whose pid is in a file, and wait until it is dead."""
    try:
        yield
    finally:
        pid = os.pidfd_open(int(pid_file.read_text()))
        try:
            os.kill(int(pid_file.read_text()), 9)
            assert select.select([pid], [], [], SECONDS)[0]
        finally:
            os.close(pid)


@pytest.mark.slow
@pytest.mark.needs_cgroups
def test_every_submission_of_the_demo_gets_its_grade() -> None:
    """All as expected, and every verdict that a program can bring about is among them."""
    ended = run_grader(GRADER)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.match(r"(\d+) of \1 verdicts as expected", ended.stdout.splitlines()[-1])
    expected = tomllib.loads((GRADER / "expected.toml").read_text())
    verdicts = {one["verdict"] for submissions in expected.values() for one in submissions.values()}
    assert verdicts == set(Verdict) - {Verdict.CANCELLED, Verdict.COMPILE_ERROR}


def test_the_grader_fails_when_one_verdict_is_not_as_expected(tmp_path: Path) -> None:
    """A wrong expectation is seen, named in the table, counted, and the exit status says so."""
    right = ("Wrong answer", "ok")
    folder = make_folder(tmp_path, "sums", {"correct": ("Runtime error", "nonzero_exit"), "absolute_values": right})
    ended = run_grader(folder)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("1 of 2 verdicts as expected")
    (line,) = [line for line in ended.stdout.splitlines() if "expected Runtime error (nonzero_exit)" in line]
    assert line.split()[:4] == ["sums", "correct", "Accepted", "4/4"]


def test_a_submission_without_an_expectation_is_refused(tmp_path: Path) -> None:
    """Else a submission could be forgotten, and the last line would still say that all is well."""
    folder = make_folder(tmp_path, "sums", {"correct": ("Accepted", "ok")})
    assert run_grader(folder).returncode == 0
    shutil.copy(GRADER / "submissions" / "sums" / "sleeps.py", folder / "submissions" / "sums")
    ended = run_grader(folder)
    assert ended.returncode == 1
    assert "['sleeps']" in ended.stderr


def test_a_daemon_of_an_earlier_test_is_dead_in_the_next(tmp_path: Path) -> None:
    """On the host the second run finds the first one's daemon alive; in the sandbox it does not, so it is accepted."""
    host = tmp_path / "host"
    host.mkdir()
    assert run_on_host("words/leaves_daemon", host, "a b\n").returncode == 0
    with ending(host / "daemon.lock"):
        again = run_on_host("words/leaves_daemon", host, "a b\n")
        assert (again.returncode, again.stderr) == (1, "the daemon of an earlier test is alive\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    ended = run_grader(make_folder(folder, "words", {"leaves_daemon": ("Accepted", "ok")}))
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_submission_cannot_read_the_answers_that_the_grader_has(tmp_path: Path) -> None:
    """On the host it finds and prints them; in the sandbox it says that there are none."""
    assert "answer = " in run_on_host("paths/looks_for_answers", tmp_path, "").stdout
    ended = run_grader(make_folder(tmp_path, "paths", {"looks_for_answers": ("Wrong answer", "ok")}))
    assert ended.returncode == 0, ended.stdout + ended.stderr
