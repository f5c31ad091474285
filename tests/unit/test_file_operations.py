"""The file API's work on a directory that stands for a sandbox's root: what needs neither a sandbox nor root."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nsbox import FileOperationError
from nsbox._files import Root, TemporaryNames, absolute, deletion
from nsbox._files.calls import Status, open_at, statx
from nsbox._files.deletion import delete
from nsbox._files.listing import describe, list_directory, mime_type, moment
from nsbox._files.read import read_file
from nsbox._files.resolve import open_entry
from nsbox._files.write import Writing, write_file

MIB = 1 << 20


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Iterator[Root]:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        # None of its mounts is closed: 0 is no mount's id.
        with Root(os.dup(fd), 0, statx(fd).device) as root:
            yield root
    finally:
        os.close(fd)


def nothing() -> None:
    """A caller that never changes its mind."""


def writing(content: bytes, **fields: Any) -> Writing:
    """How a file is written, unless a test says otherwise."""
    settings: dict[str, Any] = {"overwrite": True, "mode": 0o644, "limit_mb": None, "check": nothing, **fields}
    return Writing(read=io.BytesIO(content).read, owner=(os.geteuid(), os.getegid()), **settings)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", "/workspace/a"),
        ("./a//b/", "/workspace/a/b"),
        ("/", "/"),
        ("//x/./y", "/x/y"),
        ("../x", "/workspace/../x"),
        ("/workspace2", "/workspace2"),
        (".", "/workspace"),
    ],
)
def test_a_relative_path_is_below_the_working_directory(path: str, expected: str) -> None:
    """Two dots stay for the kernel, which alone knows what is a link."""
    assert absolute(path, "/workspace") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "text/plain"), ("a.PNG", "image/png"), ("a", None), ("a.tar.gz", "application/gzip"), (".json", None),
        ("data:text.html", "text/html"), ("data:,x", None), ("\udcff.json", "application/json"),
        ("a.b\n.csv", "text/csv"),
    ],
)  # fmt: skip
def test_the_mime_type_is_that_of_the_name(name: str, expected: str | None) -> None:
    """A name that looks like a URL is a name."""
    assert mime_type(name) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (2**62, datetime.max.replace(tzinfo=UTC)),
        (-(2**63), datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_every_time_that_a_program_can_set_is_a_datetime(seconds: int, expected: datetime) -> None:
    """utimensat(2) takes any 64-bit number of seconds."""
    assert moment(seconds, 0) == expected


def test_permissions_and_kinds_are_told_as_ls_does() -> None:
    """With set-uid bits, and "other" for what is neither file nor directory nor link."""
    status = Status(
        mode=0o104755, uid=0, gid=0, size=3, born=(1, 5000), modified=(2, 0), device=(0, 1), inode=1, mount=1
    )
    info = describe("/a/b.py", status)
    assert (info.name, info.type, info.permissions, info.size) == ("b.py", "file", "rwsr-xr-x", 3)
    assert info.created_at == datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)


def test_statx_says_what_stat_says(tmp_path: Path) -> None:
    """The layout of the structure is right: every field of it that os.stat has as well is the same."""
    (tmp_path / "f").write_bytes(b"xyz")
    expected = (tmp_path / "f").stat()
    fd = os.open(tmp_path, os.O_PATH)
    try:
        found = statx(fd, b"f")
    finally:
        os.close(fd)
    assert (found.mode, found.size, found.inode) == (expected.st_mode, 3, expected.st_ino)
    assert (found.uid, found.gid) == (expected.st_uid, expected.st_gid)
    assert found.modified[0] * 10**9 + found.modified[1] == expected.st_mtime_ns
    assert os.makedev(*found.device) == expected.st_dev


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
def test_a_file_is_made_or_replaced_at_once(root: Root, tmp_path: Path, unnamed: bool) -> None:
    """With O_TMPFILE, and as where the file system does not have it; nothing else is in the directory afterwards."""
    for content in (b"one", b"\0two"):
        info = write_file(root, "/a", writing(content, unnamed=unnamed))
        assert (info.path, info.size, info.permissions) == ("/a", len(content), "rw-r--r--")
        assert (tmp_path / "a").read_bytes() == content
    with pytest.raises(FileExistsError):
        write_file(root, "/a", writing(b"three", unnamed=unnamed, overwrite=False))
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"\0two"


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
def test_a_writer_who_gives_up_leaves_nothing(root: Root, tmp_path: Path, unnamed: bool) -> None:
    """Neither the file, nor a temporary one, nor the directories that were made for it; nor a descriptor."""
    (tmp_path / "a").write_text("as it was")
    descriptors = os.listdir("/proc/self/fd")
    for path in ("/a", "/new/b/c"):
        calls = iter(range(3))

        def give_up(calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_file(root, path, writing(bytes(9 * MIB), unnamed=unnamed, check=give_up))
    with pytest.raises(FileOperationError, match="max_size_mb=1"):
        write_file(root, "/new/b/c", writing(bytes(MIB + 1), unnamed=unnamed, limit_mb=1))
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "as it was"
    assert os.listdir("/proc/self/fd") == descriptors
    assert write_file(root, "/new/b/c", writing(bytes(MIB), unnamed=unnamed, limit_mb=1)).size == MIB


def test_what_appears_in_the_last_moment_is_not_replaced(root: Root, tmp_path: Path) -> None:
    """Between the first look and the end something takes the name: without `overwrite` it stays as it is."""

    def appear() -> None:
        (tmp_path / "a").write_text("theirs")

    with pytest.raises(FileExistsError):
        write_file(root, "/a", writing(b"ours", overwrite=False, check=appear))
    assert (tmp_path / "a").read_text() == "theirs"
    (tmp_path / "b").symlink_to("/etc/passwd")

    def swap() -> None:
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("b")

    with pytest.raises(FileOperationError, match="symbolic link"):
        write_file(root, "/a", writing(b"", check=swap))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_file_that_is_open_for_writing_elsewhere_is_waited_for(root: Root, tmp_path: Path) -> None:
    """A child that was forked while the file was written holds a copy of its descriptor until its exec."""
    copies: list[int] = []
    looks = 0

    def fork_and_exec() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            copies.extend(
                os.dup(fd) for fd in map(int, os.listdir("/proc/self/fd")) if _target(fd).startswith(str(tmp_path))
            )
        if looks == 10:
            for fd in copies:
                os.close(fd)

    write_file(root, "/run", writing(b"#!/bin/sh\nexit 3\n", mode=0o755, check=fork_and_exec))
    assert len(copies) >= 1
    assert looks == 10
    assert subprocess.run([tmp_path / "run"], check=False).returncode == 3


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_no_more_is_read_than_the_limit_however_the_file_grows(root: Root, tmp_path: Path) -> None:
    """What counts is what was read: the file was small when it was opened."""
    path = tmp_path / "log"
    path.write_bytes(bytes(MIB))
    assert len(read_file(root, "/log", 1, nothing)) == MIB
    grown = 0

    def grow() -> None:
        nonlocal grown
        grown += 1
        with path.open("ab") as file:
            file.write(bytes(MIB))

    with pytest.raises(FileOperationError, match="max_size_mb=8") as caught:
        read_file(root, "/log", 8, grow)
    assert (caught.value.errno, caught.value.path) == (errno.EFBIG, "/log")
    assert grown == 8


def test_a_tree_goes_with_all_that_is_in_it(root: Root, tmp_path: Path) -> None:
    """Links themselves and not what they lead to, directories without permissions, names of every kind."""
    (tmp_path / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/b/c/-rf\n").write_text("x")
    (tree / "a/link").symlink_to("../../kept")
    (tree / "a/up").symlink_to("..")
    os.mkfifo(tree / "fifo")
    (tree / "closed/in").mkdir(parents=True)
    (tree / "closed").chmod(0)
    delete(root, "/tree", nothing)
    assert os.listdir(tmp_path) == ["kept"]
    with pytest.raises(FileNotFoundError):
        delete(root, "/tree", nothing)


def test_a_program_that_keeps_adding_cannot_keep_the_caller_for_ever(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After twice as many steps as there could have been files it is an error that says what to do."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "first").mkdir()
    added = 0

    def add() -> None:
        nonlocal added
        for _ in range(300):
            added += 1
            (tree / f"d{added}").mkdir()

    monkeypatch.setattr(deletion, "most_steps", lambda _: 3000)
    with pytest.raises(FileOperationError, match="keeps adding to it; suspend the sandbox first; a part of it is gone"):
        delete(root, "/tree", add)
    assert 3000 < added < 4000
    delete(root, "/tree", nothing)


def test_a_listing_is_sorted_and_survives_what_goes_meanwhile(root: Root, tmp_path: Path) -> None:
    """An entry that is removed between the names and the looks is left out."""
    for name in ("b", "a", "c"):
        (tmp_path / name).write_text(name)
    calls = iter(range(1))

    def remove() -> None:
        if next(calls, None) is None:
            (tmp_path / "b").unlink(missing_ok=True)

    assert [info.name for info in list_directory(root, "/", remove)] == ["a", "c"]


def test_temporary_names_are_kept_in_bounds() -> None:
    """The newest are known."""
    names = TemporaryNames()
    made = [names.new() for _ in range(5000)]
    assert len(set(made)) == 5000
    assert made[-1] in names
    assert made[0] not in names


def test_an_entry_is_never_followed(root: Root, tmp_path: Path) -> None:
    """The link itself is opened; the control follows it."""
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to("target")
    for fd, expected in ((open_entry(root.fd, b"link"), 0o120000), (open_at(root.fd, b"link", os.O_PATH, 0), 0o100000)):
        assert os.fstat(fd).st_mode & 0o170000 == expected
        os.close(fd)


LIMITS = """
import os, sys
from pathlib import Path
from nsbox import UnsupportedHostError
from nsbox._files import DirectoryWatch, Root, TemporaryNames
from nsbox._files.calls import statx
fd = os.open(sys.argv[1], os.O_PATH)
root = Root(fd, 0, statx(fd).device)
DirectoryWatch(root, "/", recursive=True, names=TemporaryNames()).close()
for name, limit in (("max_inotify_instances", 0), ("max_inotify_watches", 1)):
    path = Path("/proc/sys/user", name)
    before = path.read_text()
    path.write_text(str(limit))
    try:
        watch = DirectoryWatch(root, "/", recursive=True, names=TemporaryNames())
        watch.begin(lambda: None)
    except UnsupportedHostError as exc:
        print(exc.remedies)
    path.write_text(before)
"""


@pytest.mark.needs_user_namespace
def test_the_hosts_limits_on_watches_are_named_when_they_are_reached(tmp_path: Path) -> None:
    """In a user namespace whose limits are small: first no instance, then no second watch. Before, both are there."""
    (tmp_path / "below").mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITS, tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "fs.inotify.max_user_instances" in first
    assert "fs.inotify.max_user_watches" in second
