"""H: the file API reaches nothing outside of the sandbox, and no program makes it wait, run over or fail oddly."""

import concurrent.futures
import contextlib
import errno
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ParamSpec

import pytest
from watching import Bell

import nsbox
from nsbox import FileOperationError

P = ParamSpec("P")
MIB = 1 << 20


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    directory = tmp_path / "bell"
    directory.mkdir()
    bell = Bell(directory)
    yield bell
    bell.close()


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox() as sandbox:
        yield sandbox


def refused(operation: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> int:
    """The errno with which an operation has to fail."""
    with pytest.raises(FileOperationError) as caught:
        operation(*args, **kwargs)
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.mark.lane_unified
def test_links_lead_nowhere_outside(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """H01: absolute, relative, through a directory, and the magic ones of /proc, for reading, writing, listing,
    deleting and watching. The same links lead out on the host, and those to a place inside lead there.
    """
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    up = "../" * 20
    links = {"absolute": f"{secret}", "relative": f"{up}{secret}", "directory": f"{tmp_path}", "top": f"{up}"}
    magic = {"root": "/proc/1/root", "self": "/proc/self/root", "cwd": "/proc/1/cwd", "fd": "/dev/fd/0"}
    program = f"import os\nfor n, t in { ({**links, **magic, 'inside': '/etc/hostname'})!r}.items(): os.symlink(t, n)\n"
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, target in links.items():
        (outside / name).symlink_to(target)
    for path in ("absolute", "relative", "directory/secret", f"top{secret}"):
        assert (outside / path).read_text() == "of the host"
    assert sandbox.execute(program).ok
    assert sandbox.download_file("inside") == b"sandbox\n"
    paths = ["absolute", "relative", "directory/secret", *(f"{one}{secret}" for one in ("top", *magic))]
    nowhere = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
    for path in paths:
        assert refused(sandbox.download_file, path) in nowhere
        assert refused(sandbox.delete_file, f"{path}/x") in nowhere
    for directory in (f"{one}{tmp_path}" for one in ("top", *magic)):
        assert refused(sandbox.list_files, directory) in nowhere
        assert refused(next, sandbox.watch_files(directory)) in nowhere
    for directory in ("directory", *(f"{one}{tmp_path}" for one in magic)):
        assert refused(sandbox.write_file, f"{directory}/new", "x") in nowhere
    sandbox.write_file(f"top{tmp_path}/new", "inside")  # from the sandbox's root on, where directories are made
    assert sandbox.download_file(f"{tmp_path}/new") == b"inside"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "secret"]


SWAP = """
import os, ctypes
libc = ctypes.CDLL(None)
os.mkdir('real'); open('real/f', 'w').write('inside')
os.symlink({outside!r}, 'link')
os.rename('real', 'd')
open('/bell/ring', 'w').write('up\\n')
while True:
    libc.renameat2(-100, b'd', -100, b'link', 2)  # RENAME_EXCHANGE
"""


def test_a_directory_that_is_swapped_with_a_link_all_the_time_leads_nowhere(bell: Bell, tmp_path: Path) -> None:
    """H02: what is read is the file inside or nothing, and what is written, listed or deleted is inside. Both sides of
    the swap are met.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("of the host")
    seen = {"inside": 0, "nothing": 0}
    with (
        nsbox.Sandbox(mounts=[bell.mount], timeout=120) as sandbox,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        future = pool.submit(sandbox.execute, SWAP.format(outside=str(outside)))
        bell.wait()
        while min(seen.values()) < 100:
            try:
                assert sandbox.download_file("d/f") == b"inside"
                seen["inside"] += 1
            except FileNotFoundError:
                seen["nothing"] += 1
            for change in (
                partial(sandbox.write_file, "d/g", "x"), partial(sandbox.delete_file, "d/g"),
                partial(sandbox.list_files, "d"),
            ):  # fmt: skip
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the link, or nothing at the moment
                    change()
        (execution,) = sandbox.executions
        sandbox.terminate_execution(execution)
        assert future.result(20).verdict is nsbox.Verdict.CANCELLED
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"f": "of the host"}


@pytest.mark.lane_unified
def test_nothing_is_written_through_a_link(sandbox: nsbox.Sandbox) -> None:
    """H03: a dangling link as the target is refused, and so is one that leads somewhere; its target is as it was."""
    assert sandbox.shell("ln -s /tmp/new dangling; echo old > target; ln -s target good").ok
    for name in ("dangling", "good"):
        assert refused(sandbox.write_file, name, "x") == errno.ELOOP
        assert refused(sandbox.write_file, name, "x", overwrite=False) == errno.EEXIST
        refused(sandbox.write_file, f"{name}/x", "x")
    assert sandbox.shell("cat target; test -e /tmp/new || echo none").stdout == "old\nnone\n"
    sandbox.delete_file("dangling")
    assert sandbox.write_file("dangling", "x").type == "file"


@pytest.mark.lane_unified
def test_a_fifo_keeps_nobody_waiting(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """H04: neither in the sandbox nor as the local file. The control: an ordinary open waits until somebody writes."""
    local = tmp_path / "fifo"
    os.mkfifo(local)
    opened = threading.Event()

    def read() -> None:
        with local.open("rb"):
            opened.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert not opened.wait(0.2)
    assert refused(sandbox.upload_file, local, "x") == errno.ENXIO
    with local.open("wb"):
        thread.join()
    assert sandbox.shell("mkfifo f; ln -s f link").ok
    for path in ("f", "link"):
        assert refused(sandbox.download_file, path) == errno.ENXIO
    assert refused(sandbox.write_file, "f", "x") == errno.EEXIST
    (info,) = [info for info in sandbox.list_files(".") if info.name == "f"]
    assert (info.type, info.size) == ("other", 0)
    sandbox.delete_file("f")


@pytest.mark.needs_root
def test_only_regular_files_pass_and_set_uid_bits_do_not(tmp_path: Path) -> None:
    """H05: neither devices nor sockets are opened, set-uid bits stay behind. The control: these can be opened here."""
    given = tmp_path / "given"
    given.mkdir()
    os.mknod(given / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(given / "socket"))
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o6755)
    assert (given / "device").read_bytes() == b""
    with nsbox.Sandbox(mounts=[nsbox.Mount(source=given, target="/given")]) as sandbox:
        for path in ("/given/device", "/given/socket", "/dev/zero", "/dev/tty"):
            assert refused(sandbox.download_file, path) == errno.ENXIO
        assert {info.type for info in sandbox.list_files("/given")} == {"other"}
        for local in (given / "device", given / "socket"):
            assert refused(sandbox.upload_file, local, "x") == errno.ENXIO
        assert sandbox.upload_file(tool, "tool").permissions == "rwxr-xr-x"
        assert sandbox.shell("stat -c '%a %U' tool").stdout == "755 user\n"


def test_what_is_read_is_bounded_whatever_size_a_file_says_it_has() -> None:
    """H06: a sparse file of 4 GiB is refused at once, one of the limit's size is read; a hard link is a file like any.
    That growth while it is read changes nothing is shown in tests/unit/test_file_operations.py.
    """
    processes = nsbox.ProcessAllocation(max_file_size_mb=8192)
    with nsbox.Sandbox(resources=nsbox.ResourceAllocation(processes=processes)) as sandbox:
        assert sandbox.shell("truncate -s 4G huge; truncate -s 2M two; ln two hard; echo >> hard").ok
        for path, limit in (("huge", 100), ("hard", 2)):
            with pytest.raises(FileOperationError, match=f"max_size_mb={limit}") as caught:
                sandbox.download_file(path, max_size_mb=limit)
            assert (caught.value.errno, caught.value.path) == (errno.EFBIG, f"/workspace/{path}")
        assert len(sandbox.download_file("two", max_size_mb=3)) == 2 * MIB + 1
        sizes = {info.name: info.size for info in sandbox.list_files(".")}
        assert sizes["huge"] == 4096 * MIB


NAMES = [
    b"new\nline",
    b"spa ce",
    b"-rf",
    b"\xff\xfe",
    "\N{GRINNING FACE}".encode(),
    b"\x1b[31mred",
    b"*",
    b"n" * 255,
    b"...",
]
MAKE = f"""
import os
for name in {NAMES!r}:
    with open(name, 'wb') as file: file.write(name)
os.mkdir('many')
for i in range(5000): open(f'many/{{i:04}}', 'w').close()
os.mkdir('deep')
here = os.open('deep', os.O_RDONLY)
for i in range(1500):
    os.mkdir('d' * 100, dir_fd=here)
    below = os.open('d' * 100, os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
os.mkdir('closed'); open('closed/f', 'w').write('x'); os.chmod('closed/f', 0); os.chmod('closed', 0)
os.utime('-rf', (2**40, 2**40))
"""


@pytest.mark.lane_unified
def test_no_name_depth_number_or_mode_is_too_much(sandbox: nsbox.Sandbox) -> None:
    """H07: names come back as they are and lead back to their files; NUL is refused; 5,000 entries; a tree of 1,500
    directories, in which os.walk fails, goes away.
    """
    assert sandbox.execute(MAKE).ok
    listed = {info.name: info for info in sandbox.list_files(".")}
    assert set(map(os.fsencode, listed)) == {*NAMES, b"many", b"deep", b"closed"}
    for name in NAMES:
        text = name.decode("utf-8", "surrogateescape")
        assert sandbox.download_file(listed[text].path) == name
        sandbox.delete_file(text)
        sandbox.write_file(text, name)
    assert sandbox.execute(f"import os; print(set(os.listdir(b'.')) >= set({NAMES!r}))").stdout == "True\n"
    assert [info.name for info in sandbox.list_files("many")] == [f"{i:04}" for i in range(5000)]
    for bad in ("a\0b", "", "\ud800"):
        with pytest.raises(nsbox.ConfigError):
            sandbox.download_file(bad)
    assert refused(sandbox.write_file, "n" * 256, "x") == errno.ENAMETOOLONG
    for directory in ("deep", "many", "closed"):
        sandbox.delete_file(directory)
    assert {os.fsencode(info.name) for info in sandbox.list_files(".")} == set(NAMES)


@pytest.mark.lane_unified
def test_dots_and_prefixes_lead_nowhere_outside(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """H08: ".." stops at the sandbox's root, what is percent-encoded is a name, and no prefix decides anything."""
    (tmp_path / "secret").write_text("of the host")
    control = "/" + "../" * 20 + f"{tmp_path}/secret"
    assert Path(control).read_text() == "of the host"
    for path in (
        control,
        "../" * 20 + f"{tmp_path}/secret",
        f"/workspace/../..{tmp_path}/secret",
        f"%2e%2e/{tmp_path}",
    ):
        assert refused(sandbox.download_file, path) == errno.ENOENT
    assert sandbox.download_file("../" * 20 + "etc/hostname") == b"sandbox\n"
    sandbox.write_file("../../tmp/x", "inside")
    assert sandbox.shell("cat /tmp/x").stdout == "inside"
    assert refused(sandbox.write_file, "/workspace2/x", "x") == errno.ENOENT
    assert refused(sandbox.write_file, "..", "x") == errno.EINVAL
    for path in ("/usr/new", "/etc/passwd", "/bin/sh", "/run/nsbox/x", "/x"):
        assert refused(sandbox.write_file, path, "x") in (errno.EROFS, errno.ELOOP)
        refused(sandbox.delete_file, path)


def test_neither_proc_nor_the_quotas_own_mount_is_entered(sandbox: nsbox.Sandbox) -> None:
    """H01: what is read from /proc depends on who reads, and some of it blocks; in the other there are the same
    directories again, unprotected. Also after a restart. A program may read the former.
    """
    assert sandbox.shell("cat /proc/version; ln -s /proc p; ln -s /run/quota q; ln -s /dev/pts t").ok
    for _ in range(2):
        for path in ("/proc/version", "/proc/kmsg", "p/version", "/proc/sys/kernel/hostname"):
            assert refused(sandbox.download_file, path) == errno.EACCES
        for directory in ("/proc", "p", "/run/quota", "q", "q/workspace"):
            assert refused(sandbox.list_files, directory) == errno.EACCES
            assert refused(sandbox.write_file, f"{directory}/x", "x") == errno.EACCES
            assert refused(sandbox.delete_file, f"{directory}/x") == errno.EACCES
            assert refused(next, sandbox.watch_files(directory)) == errno.EACCES
        refused(sandbox.write_file, "t/x", "x")
        sandbox.restart()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that it forks is the point
def test_a_file_can_be_executed_as_soon_as_it_is_uploaded(tmp_path: Path) -> None:
    """H09: by eight threads, while this process forks children all the time, which get copies of every descriptor until
    their exec. The control: a file that somebody has open for writing cannot be executed.
    """
    local = tmp_path / "tool"
    local.write_text("#!/bin/sh\nexit 0\n")
    local.chmod(0o755)
    with local.open("ab"), pytest.raises(OSError, match="Text file busy"):
        subprocess.run([local], check=True)
    enforcement = nsbox.EnforcementPolicy(max_concurrent_executions=8)
    over = threading.Event()

    def fork() -> None:
        while not over.is_set():
            subprocess.run(["true"], check=True, preexec_fn=partial(time.sleep, 0.02))  # a fork, and an exec much later

    def use(number: int) -> bool:
        for turn in range(15):
            sandbox.upload_file(local, f"tool-{number}", overwrite=turn > 0)
            if not sandbox.run([f"/workspace/tool-{number}"]).ok:
                return False
        return True

    with nsbox.Sandbox(enforcement=enforcement) as sandbox, concurrent.futures.ThreadPoolExecutor(9) as pool:
        forking = pool.submit(fork)
        try:
            assert all(pool.map(use, range(8)))
        finally:
            over.set()
        forking.result()


def test_a_mount_is_neither_deleted_nor_replaced(tmp_path: Path) -> None:
    """H02: what is mounted stays, and so does all that is in it. The control: to the kernel a mount that the caller's
    own namespace does not have is no obstacle, and a plain rmdir(2) takes it away from the sandbox.
    """
    given = tmp_path / "given"
    given.mkdir()
    (given / "f").write_text("of the host")
    alone = tmp_path / "alone"
    alone.write_text("of the host")
    mounts = [
        nsbox.Mount(source=given, target="/workspace/data/in", read_only=False),
        nsbox.Mount(source=alone, target="/workspace/data/alone"),
    ]
    config = nsbox.SandboxConfig(mounts=mounts, working_directory="/home/user/a/b")
    with nsbox.Sandbox(config) as sandbox:
        for path in ("/workspace", "/workspace/data", "/workspace/data/in", "/workspace/data/alone", "/home/user/a",
                     "/home/user/a/b", "/home/user", "/tmp", "/home", "/"):  # fmt: skip
            assert refused(sandbox.delete_file, path) in (errno.EBUSY, errno.EROFS)
        assert refused(sandbox.write_file, "/workspace/data/alone", "x") == errno.EBUSY
        assert sandbox.shell("cat /workspace/data/in/f /workspace/data/alone; pwd").stdout == (
            "of the host" * 2 + "/home/user/a/b\n"
        )
        sandbox.delete_file("/workspace/data/in/f")
        _, cell = sandbox._core.living()
        plain = os.open("workspace/data", os.O_PATH, dir_fd=cell.root)
        os.rmdir("in", dir_fd=plain)
        os.close(plain)
        assert not sandbox.shell("test -e /workspace/data/in").ok
    assert (alone.read_text(), os.listdir(given)) == ("of the host", [])
