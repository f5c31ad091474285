"""Roots that are built from Debian's packages, by the command."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nsbox
from nsbox._rootfs import Cache

pytestmark = [pytest.mark.needs_tool("mmdebstrap"), pytest.mark.slow]
NSBOX = (sys.executable, "-m", "nsbox._cli")
SECONDS = 280


def command(cache: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`nsbox`, run to its end."""
    return subprocess.run(
        [*NSBOX, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS,
        env={**os.environ, "NSBOX_CACHE_DIR": str(cache), **options},
    )  # fmt: skip


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The cache with the smallest root of a language, and what the command has said; as the user who runs the tests."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, command(cache, "rootfs", "build", "bash", "--name", "small")


@pytest.fixture(name="root")
def _root(
    built: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    cache, done = built
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(cache))
    (record,) = json.loads(command(cache, "rootfs", "list", "--json").stdout)["roots"]
    return Path(record["path"]), record


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_a_root_is_built_from_a_recipe(root: tuple[Path, dict[str, Any]]) -> None:
    """Its record says what is in it, nothing in it is newer than the recipe says, and nothing tells of the host."""
    place, record = root
    assert (record["name"], record["kind"], record["source"]) == ("small", "recipe", "bash")
    assert {"bash", "coreutils", "dpkg", "libc6"} <= record["packages"].keys()
    assert "apt" not in record["packages"]
    epoch = record["details"]["recipe"]["epoch"]
    newer = [path for path in place.rglob("*") if path.lstat().st_mtime > epoch]
    assert newer == []
    assert [*place.glob("etc/apt/sources.list*/*"), *place.glob("var/log/*"), *place.glob("dev/*")] == []
    assert (place / "etc/hostname").read_text() == "sandbox\n"
    assert not [path for path in place.rglob("*") if path.is_file() and path.lstat().st_mode & 0o6000]


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_programs_run_in_it(root: tuple[Path, dict[str, Any]]) -> None:
    """As an account that it has, which sees its files and can change none."""
    assert root[0].is_dir()
    with nsbox.Sandbox(rootfs="small", runtime="bash", timeout=60) as sandbox:
        result = sandbox.execute("whoami; echo $((6 * 7)) | sed s/4/X/; touch /usr/x; grep -c . /etc/hosts")
        assert result.stdout.split() == ["user", "X2", "2"], result.stderr
        assert "Read-only file system" in result.stderr
        assert sandbox.run(["dpkg", "--status", "bash"]).ok
        with pytest.raises(nsbox.UnsupportedHostError, match="python3"):
            sandbox.execute("print(1)", language="python")


def left(cache: Path) -> list[str]:
    """What a build could leave in its cache."""
    return [str(path.relative_to(cache)) for pattern in ("new-*", "trees/*", "names/*") for path in
            (cache / "rootfs").glob(pattern)]  # fmt: skip


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    level = {pid}
    while level:
        level = {
            int(child)
            for one in level
            for path in Path(f"/proc/{one}/task").glob("*/children")
            for child in path.read_text().split()
        }
        found |= level
    return found


def await_true(condition: Callable[[], object]) -> None:
    """Wait, bounded."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """By a signal that asks at once; killed, mmdebstrap ends with it, and the next one removes what it made."""
    process = subprocess.Popen(
        [*NSBOX, "rootfs", "build", "bash"], env={**os.environ, "NSBOX_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await_true(lambda: [*tmp_path.glob("rootfs/new-*/scratch.d/mmdebstrap.*")])
        tools = [os.pidfd_open(pid) for pid in descendants(process.pid)]
        assert tools
        process.send_signal(number)
        assert process.wait(SECONDS) == (128 + number if number == signal.SIGTERM else -number)
        for fd in tools:
            assert select.select([fd], [], [], SECONDS)[0]  # readable: it has ended, pidfd_open(2)
            os.close(fd)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGKILL:
        assert left(tmp_path) != []
        Cache(tmp_path / "rootfs").sweep()  # as whoever builds, imports or removes something does first
    assert left(tmp_path) == []


@pytest.mark.needs_root
def test_what_cannot_be_built_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """A release that the host has no source of; mmdebstrap that is not installed."""
    (tmp_path / "old.toml").write_text('base = "base"\nsuite = "no-such-suite"\n')
    done = command(tmp_path / "cache", "rootfs", "build", f"{tmp_path}/old.toml")
    assert done.returncode == 125
    assert "the host's apt has no source of 'no-such-suite' with main" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.needs_rootless
def test_a_user_without_a_range_of_uids_is_told_what_to_do(tmp_path: Path) -> None:
    """Nothing weaker is done instead."""
    done = command(tmp_path, "rootfs", "build", "bash")
    assert done.returncode == 125
    assert "mmdebstrap needs a range of uids and gids" in done.stderr
    assert "usermod --add-subuids" in done.stderr
    assert left(tmp_path) == []
