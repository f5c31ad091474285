"""`nsbox gc`: what dead applications left goes, what belongs to living ones stays."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from needs import mounts
from watching import command_line, until

import nsbox
from nsbox._supervisor.directory import candidates
from nsbox._supervisor.garbage import collect, temporary_directory

NSBOX = [sys.executable, "-m", "nsbox._cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
NAME = "nsbox-1-0123456789abcdef"
APPLICATION = """
import nsbox, sys
from watching import parts_of_nsbox
sandbox = nsbox.Sandbox.create()
process = sandbox.spawn(["sleep", "60"])
print(*parts_of_nsbox(), flush=True)
sys.stdin.readline()
"""


def gc(*arguments: str) -> dict[str, Any]:
    """What the command says."""
    done = subprocess.run(
        [*NSBOX, "gc", "--json", *arguments], capture_output=True, check=True, timeout=60, env=ENVIRONMENT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def left_of(pid: int) -> list[str]:
    """The cgroups and sockets of a process."""
    points = [Path(point) for point, kind, _ in mounts() if kind.startswith("cgroup")]
    cgroups = [directory for point in points for directory, _, _ in os.walk(point)]
    found = [directory for directory in cgroups if Path(directory).name.startswith(f"nsbox-{pid}-")]
    return found + [str(path) for directory in candidates() for path in directory.glob(f"nsbox-{pid}-*")]


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_what_a_killed_application_and_its_launcher_left_is_removed_by_hand() -> None:
    """A dry run shows it and leaves it; a living sandbox is in neither list, and works on."""
    with nsbox.Sandbox() as living:
        application = subprocess.Popen(
            [sys.executable, "-c", APPLICATION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=ENVIRONMENT,
        )  # fmt: skip
        assert application.stdout is not None
        with application:
            launcher = int(application.stdout.readline().split()[0])
            os.kill(launcher, signal.SIGSTOP)  # so that it cleans nothing up
            application.kill()
            application.wait()
            os.kill(launcher, signal.SIGKILL)
        left = left_of(application.pid)
        assert len(left) >= 2
        until(lambda: not command_line(launcher), "the launcher is dead")  # who reaps it is not known
        would = {row["path"] for row in gc("--dry-run")["garbage"]}
        assert {path for path in left if Path(path).exists()} <= would
        assert not [path for path in would if f"nsbox-{os.getpid()}-" in path]
        found = gc()
        assert found["removed"] is True
        assert left_of(application.pid) == []
        assert left_of(os.getpid())
        assert living.shell("echo on").stdout == "on\n"


def test_temporary_directories_belong_to_who_holds_their_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pid in the name says nothing: 1 lives, and has nothing to do with it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{NAME}-abcdefgh"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_text("x")
    (tmp_path / f"{NAME}-toolongforit").mkdir()
    (tmp_path / f"{NAME}-linklink").symlink_to(tmp_path / f"{NAME}-toolongforit")
    with temporary_directory(NAME) as held:
        (held / "file").write_text("x")
        seen = [one.path for one in collect(remove=False) if tmp_path in one.path.parents]
        assert seen == [left]
        assert left.exists()
        removed = [(one.kind, one.path) for one in collect() if tmp_path in one.path.parents]
        assert removed == [("directory", left)]
        assert (held / "file").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}-linklink", f"{NAME}-toolongforit"]


def test_a_disk_image_that_somebody_has_open_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left alone until it is closed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = tmp_path / "nsbox-image-abcdefgh"
    with image.open("wb"):
        assert [one for one in collect() if tmp_path in one.path.parents] == []
        assert image.exists()
    assert [(one.kind, one.path) for one in collect() if tmp_path in one.path.parents] == [("file", image)]
    assert not image.exists()


@pytest.mark.needs_root
def test_what_another_user_calls_like_ours_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /tmp everybody may; our own of the same kind is removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, uid in (("aaaaaaaa", 65534), ("bbbbbbbb", 0)):
        directory, image = tmp_path / f"{NAME}-{name}", tmp_path / f"nsbox-image-{name}"
        directory.mkdir()
        image.write_text("")
        os.chown(directory, uid, uid)
        os.chown(image, uid, uid)
    assert len([one for one in collect() if tmp_path in one.path.parents]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}-aaaaaaaa", "nsbox-image-aaaaaaaa"]


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    """In words, with status 0."""
    done = subprocess.run(
        [*NSBOX, "gc"], capture_output=True, check=False, timeout=60, text=True,
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == "nothing was left behind\n" or "removed" in done.stdout
