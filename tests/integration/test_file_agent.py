"""Files of ids over which this process has no right, through a process in a user namespace that has one."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watching import until

from nsbox import FileInfo, FileOperationError, SetupError
from nsbox._files import Answer, Order, Root, TemporaryNames, carry_out_by_agent

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("unshare")]

OWNER = 2_001_000
MIB = 1 << 20


def nothing() -> None:
    """A caller that never changes its mind."""


class Place:
    """A directory of OWNER's, as the root of which the host's own stands, and a namespace in which OWNER is 1001."""

    def __init__(self, directory: Path, member: int) -> None:
        self.directory = directory
        root = os.open("/", os.O_PATH)
        try:
            self.root = Root.duplicate(root, "/proc", member)  # another mount, which is then not entered
        finally:
            os.close(root)

    def do(self, do: Any, name: str, content: int = -1, check: Callable[[], object] = nothing, **fields: Any) -> Answer:
        """Carry an order out."""
        home = str(self.directory / "home")
        order = Order(do=do, path=str(self.directory / name), home=home, quota="/proc", **fields)
        return carry_out_by_agent(order, self.root, content, check, TemporaryNames())


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "of the other"
    for path in (directory, directory / "home"):
        path.mkdir(mode=0o700)
        os.chown(path, OWNER, OWNER)
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for name in ("uid_map", "gid_map"):  # as newuidmap(1) would for a user: himself, and a range
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 1\n1 2000000 65536")
        member = os.pidfd_open(process.pid)
        place = Place(directory, member)
        os.close(member)
        yield place
        place.root.close()
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(name="content")
def _content() -> Iterator[int]:
    fd = os.memfd_create("content")
    os.ftruncate(fd, 200 * MIB)
    yield fd
    os.close(fd)


def test_each_operation_is_done_by_the_agent(place: Place, content: int) -> None:
    """What it writes belongs to the other, what only he may read is read, names are kept; errors come back whole."""
    (info,) = place.do("write", "\udcff\n", content, mode=0o640, limit_mb=200).infos
    made = place.directory / "\udcff\n"
    assert isinstance(info, FileInfo)
    assert (info.path, info.size, info.permissions) == (str(made), 200 * MIB, "rw-r-----")
    assert (made.stat().st_uid, made.stat().st_gid) == (OWNER, OWNER)
    made.write_bytes(b"\0\nmore" * 100_000)
    made.chmod(0)
    assert place.do("read", made.name, limit_mb=1).content == b"\0\nmore" * 100_000
    assert [info.name for info in place.do("list", "").infos] == ["home", "\udcff\n"]
    with pytest.raises(FileExistsError) as caught:
        place.do("write", made.name, content)
    assert isinstance(caught.value, FileOperationError)
    assert caught.value.path == str(made)
    os.lseek(content, 0, os.SEEK_SET)
    with pytest.raises(FileOperationError, match="max_size_mb=1"):
        place.do("write", "new", content, limit_mb=1)
    place.do("delete", made.name)
    with pytest.raises(FileNotFoundError):
        place.do("delete", made.name)
    assert os.listdir(place.directory) == ["home"]


def test_the_agent_has_no_right_that_its_namespace_does_not_give(place: Place) -> None:
    """A file of an id that is not mapped there cannot be read, though this process is root and can."""
    secret = place.directory / "secret"
    secret.write_text("x")
    secret.chmod(0)
    for owner, allowed in ((OWNER, True), (4_000_000, False)):
        os.chown(secret, owner, owner)
        if allowed:
            assert place.do("read", "secret", limit_mb=1).content == b"x"
        else:
            with pytest.raises(PermissionError):
                place.do("read", "secret", limit_mb=1)
    assert secret.read_text() == "x"


def test_an_agent_whose_caller_gives_up_leaves_nothing(place: Place, content: int) -> None:
    """The exception of the caller is raised when the agent has ended, and nothing of its work is there."""
    os.ftruncate(content, 4000 * MIB)
    begun = os.statvfs(place.directory).f_bfree

    def give_up() -> None:
        until(lambda: os.statvfs(place.directory).f_bfree < begun - 4 * MIB // 4096, "something is written")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.do("write", "large", content, check=give_up)
    assert os.listdir(place.directory) == ["home"]


def test_a_namespace_that_cannot_be_joined_is_an_error(place: Place) -> None:
    """It is not the file's fault."""
    ended = subprocess.Popen(["true"])
    gone = os.pidfd_open(ended.pid)
    ended.wait()
    place.root.member, member = gone, place.root.member
    with pytest.raises(SetupError, match="file-agent"):
        place.do("list", "")
    os.close(gone)
    place.root.member = member
    assert [info.name for info in place.do("list", "").infos] == ["home"]
