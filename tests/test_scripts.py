"""The scripts that the lanes stand on: an exit status must not get lost, and nothing may stay behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import leaks
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def run_uml(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`scripts/uml`, bounded in time."""
    command = [sys.executable, str(SCRIPTS / "uml"), *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def summary(log: str) -> tuple[int, str]:
    """Exit status and last line of `scripts/summary.py`."""
    command = [sys.executable, str(SCRIPTS / "summary.py")]
    ended = subprocess.run(command, input=log, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.needs_tool("linux.uml")
def test_user_mode_linux_passes_output_and_exit_status_through_unchanged() -> None:
    """Bytes that a terminal would change arrive as they are; the status is the command's, and the kernel is another."""
    before = leaks.snapshot()
    ended = run_uml("--", "sh", "-c", r"uname -r; printf 'a\nb\r\000\004\377'; printf 'c\td' >&2; exit 3")
    assert ended.returncode == 3
    release, _, rest = ended.stdout.partition(b"\n")
    assert release.decode() != os.uname().release
    assert rest == b"a\nb\r\000\004\377"
    assert ended.stderr == b"c\td"
    assert leaks.left_behind(before, leaks.snapshot()) == []


@pytest.mark.slow
@pytest.mark.needs_tool("linux.uml")
def test_user_mode_linux_ends_in_time_and_with_the_script() -> None:
    """124 after the time given; and when the script is killed, its kernel dies with it and its directory is removed."""
    assert run_uml("--timeout", "4", "--", "sleep", "100").returncode == 124
    command = [sys.executable, str(SCRIPTS / "uml"), "--", "sh", "-c", "echo up; exec sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == b"up\n"
        (keeper,) = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
        (kernel,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[:1]
        directory = Path(Path("/proc", kernel, "cmdline").read_text().split("uml_dir=")[1].split("\0")[0])
        assert directory.is_dir()
        script.send_signal(signal.SIGKILL)
        script.stdout.read()  # ends when the last of them has closed it
    assert not Path("/proc", kernel).exists()
    assert not directory.exists()


def test_the_summary_adds_up_the_lanes_and_is_green_only_when_all_is() -> None:
    """Only the last summary line of a lane counts."""
    good = "== lane a\n= 1 failed, 9 passed in 0.1s =\n=== 5 passed, 1 skipped in 0.2s ===\n== exit 0\n"
    assert summary(good) == (0, "5 passed, 0 failed")
    bad = "== lane b\n=== 1 failed, 2 passed, 3 errors in 61.50s (0:01:01) ===\n== exit 1\n"
    assert summary(good + bad) == (1, "7 passed, 4 failed")


@pytest.mark.parametrize("log", ["Segmentation fault\n== exit 139", "=== 3 passed in 1.0s ===\n== exit 124", ""])
def test_a_lane_that_ends_badly_without_a_failed_test_counts_as_one_failure(log: str) -> None:
    """A crash, a time-out, and a log that stops."""
    code, line = summary(f"== lane a\n{log}\n")
    assert code == 1
    assert line.endswith(" 1 failed")


def test_no_lane_at_all_is_no_success() -> None:
    """Nothing that ran has nothing to be green about."""
    assert summary("") == (1, "0 passed, 0 failed")


def test_a_lane_ends_with_its_command_whatever_that_leaves_running(tmp_path: Path) -> None:
    """A leftover that holds the output open is killed, and turns success into failure; without one, 0 is 0."""
    lane = [sys.executable, str(SCRIPTS / "lane.py"), str(tmp_path / "log"), "30"]
    clean = subprocess.run([*lane, "sh", "-c", "echo clean"], capture_output=True, timeout=60, check=False)
    assert (clean.returncode, clean.stdout) == (0, b"clean\n")
    before = leaks.snapshot()
    dirty = subprocess.run(
        [*lane, "sh", "-c", "setsid sleep 100 & echo dirty"], capture_output=True, timeout=60, check=False
    )
    assert dirty.returncode == 1
    assert b"was left running, and killed: " in dirty.stdout
    assert (tmp_path / "log").read_bytes() == b"clean\ndirty\n"
    assert leaks.left_behind(before, leaks.snapshot()) == []


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_half_a_minute_of_mixed_use_leaves_nothing() -> None:
    """Every outcome is the one it must be, and everything is as it was: processes, descriptors, mounts, memory."""
    ended = subprocess.run(
        [SCRIPTS / "soak", "--seconds", "30"], capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^ +\d{2,} uses in \d+ s, 0 with a wrong outcome", ended.stdout, re.MULTILINE)
