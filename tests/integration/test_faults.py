"""A sample of what `scripts/faults` and `scripts/kills` try whole: each call of a set-up fails, each part is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERY = 61
ROUNDS = 15


def run(module: str, *arguments: str) -> str:
    """What a script says that must find nothing wrong."""
    command = [sys.executable, "-m", module, *arguments]
    path = os.pathsep.join([str(ROOT / "tests" / "support"), *filter(None, sys.path)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs_root
@pytest.mark.needs_tool("strace")
@pytest.mark.needs_tool("cc")
def test_a_call_that_fails_leaves_no_program_with_less_around_it() -> None:
    """T3: it runs as otherwise, or there is an error of nsbox's; nothing hangs, nothing is left, the next one works."""
    said = run("scripts.faulting", "--every", str(EVERY))
    tried, outcomes = said.splitlines()[0], said.splitlines()[-1]
    assert int(tried.split()[0]) > 20
    assert "0 with a wrong outcome" in outcomes
    assert "SetupError" in outcomes


def test_whatever_is_killed_at_whatever_moment_nothing_is_lost_or_left() -> None:
    """T4: the application, the launcher, a PID 1, a warm interpreter; the next use, or the next application, works."""
    said = run("scripts.faulting.kills", "--rounds", str(ROUNDS))
    assert f"{ROUNDS} kills" in said.splitlines()[-1]
    assert "0 with a wrong outcome" in said.splitlines()[-1]
