"""Files into a sandbox and out of it: all or nothing, within bounds, while it runs and while it is suspended."""

import asyncio
import concurrent.futures
import errno
import os
import stat
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
from watching import Bell, until

import nsbox
from nsbox import FileOperationError, SandboxStatus

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


def names(sandbox: nsbox.Sandbox, directory: str = ".") -> list[str]:
    """What a directory has in it."""
    return [info.name for info in sandbox.list_files(directory)]


@pytest.mark.lane_unified
def test_bytes_go_in_and_come_out_as_they_are(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """By write, upload and download, text as UTF-8; the program finds them, owns them, and can change them."""
    data = bytes(range(256)) * 5000
    local = tmp_path / "local.bin"
    local.write_bytes(data)
    before = datetime.now(UTC) - timedelta(seconds=5)
    info = sandbox.upload_file(local, "in/sub/data.bin")
    assert (info.path, info.name, info.size, info.type) == ("/workspace/in/sub/data.bin", "data.bin", len(data), "file")
    assert (info.permissions, info.mime_type) == ("rw-r--r--", "application/octet-stream")
    assert before < info.created_at <= info.modified_at < datetime.now(UTC) + timedelta(seconds=5)
    assert sandbox.download_file("/workspace/in/sub/data.bin") == data
    assert sandbox.write_file("text.txt", "grüß dich\n").size == 12
    assert sandbox.write_file("raw", memoryview(b"\0\xff")).size == 2  # type: ignore[arg-type]
    seen = sandbox.shell(
        "stat -c '%U %G %a' in in/sub in/sub/data.bin text.txt; cat text.txt; echo more >> in/sub/data.bin"
    )
    assert seen.stdout == "user user 755\nuser user 755\nuser user 644\nuser user 644\ngrüß dich\n"
    assert sandbox.download_file("in/sub/data.bin") == data + b"more\n"
    assert sandbox.shell("rm -r in text.txt raw").ok


def test_a_file_can_be_written_where_programs_can(sandbox: nsbox.Sandbox) -> None:
    """In the working directory, home, /tmp and /dev/shm; elsewhere it is read-only for the owner as well."""
    for directory in ("/workspace", "/home/user", "/tmp", "/dev/shm"):
        sandbox.write_file(f"{directory}/x", directory)
        assert sandbox.shell(f"cat {directory}/x").stdout == directory
    for directory in ("/usr", "/etc", "/run/nsbox", "", "/usr/lib", "/dev"):
        with pytest.raises(FileOperationError, match="read-only in the sandbox") as caught:
            sandbox.write_file(f"{directory}/x", "x")
        assert (caught.value.errno, caught.value.path) == (errno.EROFS, f"{directory}/x")


@pytest.mark.lane_unified
def test_overwriting_is_asked_for(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """`upload_file` does not unless told to, `write_file` does unless told not to; a directory is never replaced."""
    local = tmp_path / "local"
    local.write_text("uploaded")
    sandbox.write_file("a", "first")
    with pytest.raises(FileExistsError) as caught:
        sandbox.upload_file(local, "a")
    assert isinstance(caught.value, FileOperationError)
    with pytest.raises(FileExistsError):
        sandbox.write_file("a", "x", overwrite=False)
    assert sandbox.download_file("a") == b"first"
    sandbox.upload_file(local, "a", overwrite=True)
    assert sandbox.download_file("a") == b"uploaded"
    sandbox.write_file("a", "written")
    assert sandbox.download_file("a") == b"written"
    sandbox.write_file("d/e", "")
    with pytest.raises(IsADirectoryError):
        sandbox.write_file("d", "x")
    with pytest.raises(NotADirectoryError):
        sandbox.write_file("a/b", "x")
    assert names(sandbox) == ["a", "d"]


def test_every_error_has_its_class_and_the_path_in_the_sandbox(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """Those of the standard library as well; only a local file is named as this machine has it."""
    for missing in (sandbox.download_file, sandbox.delete_file, sandbox.list_files):
        with pytest.raises(FileNotFoundError) as caught:
            missing("no/such")
        assert caught.value.filename == "/workspace/no/such"
    with pytest.raises(IsADirectoryError):
        sandbox.download_file("/workspace")
    with pytest.raises(NotADirectoryError):
        sandbox.list_files("/etc/passwd")
    with pytest.raises(FileNotFoundError, match="the local file") as caught:
        sandbox.upload_file(tmp_path / "none", "x")
    assert caught.value.filename == str(tmp_path / "none")
    (tmp_path / "large").write_bytes(bytes(MIB + 1))
    with pytest.raises(FileOperationError, match="max_size_mb=1;"):
        sandbox.upload_file(tmp_path / "large", "x", max_size_mb=1)
    with pytest.raises(nsbox.ConfigError, match="content"):
        sandbox.write_file("x", 1)  # type: ignore[arg-type]
    with pytest.raises(nsbox.ConfigError, match="max_size_mb"):
        sandbox.download_file("x", max_size_mb=0)
    assert names(sandbox) == []


def test_large_files_are_streamed(tmp_path: Path) -> None:
    """100 MiB: an upload takes a few MiB of memory, a download the content once."""
    local = tmp_path / "large"
    with local.open("wb") as file:
        for number in range(100):
            file.write(bytes([number]) * MIB)
    with nsbox.Sandbox(disk_mb=110) as sandbox:
        tracemalloc.start()
        try:
            assert sandbox.upload_file(local, "large").size == 100 * MIB
            _, peak = tracemalloc.get_traced_memory()
            assert peak < 8 * MIB
            content = sandbox.download_file("large")
            _, peak = tracemalloc.get_traced_memory()
            assert peak < 120 * MIB  # while it grows, an eighth is in reserve
        finally:
            tracemalloc.stop()
        assert content == local.read_bytes()


@pytest.mark.lane_unified
def test_what_does_not_fit_the_quota_leaves_nothing(tmp_path: Path) -> None:
    """ENOSPC; what had that name is as it was, and no more of the quota is used. The same for a quota of files."""
    local = tmp_path / "large"
    local.write_bytes(bytes(20 * MIB))
    disk = nsbox.DiskAllocation(quota_mb=16, quota_inodes=500)
    with nsbox.Sandbox(resources=nsbox.ResourceAllocation(disk=disk)) as sandbox:
        sandbox.write_file("a", "as it was")
        used = sandbox.metadata.total_disk_used
        for path in ("a", "new/dir/b"):
            with pytest.raises(FileOperationError, match="disk quota is used up") as caught:
                sandbox.upload_file(local, path, overwrite=True)
            assert caught.value.errno == errno.ENOSPC
        assert names(sandbox) == ["a"]
        assert sandbox.download_file("a") == b"as it was"
        assert sandbox.metadata.total_disk_used == used
        assert sandbox.execute(
            "i = 0\ntry:\n  while True: open(str(i), 'x'); i += 1\nexcept OSError as e: print(e.errno)"
        ).ok
        with pytest.raises(FileOperationError, match="disk quota is used up"):
            sandbox.write_file("b", "")


SEES = """
sizes = set()
open('/bell/ring', 'w').write('up\\n')
text = ''
while text != 'done':
    with open('a') as file: text = file.read()
    sizes.add(len(text))
print(sorted(sizes))
"""


def test_a_program_sees_the_old_content_or_the_new(bell: Bell) -> None:
    """Never a part of either, while a file is overwritten again and again."""
    with (
        nsbox.Sandbox(mounts=[bell.mount]) as sandbox,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        sandbox.write_file("a", "x" * MIB)
        future = pool.submit(sandbox.execute, SEES)
        bell.wait()
        for number in range(100):
            sandbox.write_file("a", "x" * (2 * MIB if number % 2 == 0 else MIB))
        sandbox.write_file("a", "done")
        result = future.result(30)
    assert result.ok, result.stderr
    assert set(result.stdout.strip("[]\n").split(", ")) <= {"4", str(MIB), str(2 * MIB)}


def test_entries_are_told_as_they_are(sandbox: nsbox.Sandbox) -> None:
    """Sorted by name; links, directories and what else there is as themselves; times that no calendar has."""
    assert sandbox.execute(
        "import os, socket\nos.mkdir('dir', 0o700); os.symlink('/nowhere', 'link'); os.mkfifo('fifo', 0o600)\n"
        "open('Z.csv', 'w').write('1,2'); os.utime('Z.csv', (2**35, 2**35)); os.chmod('Z.csv', 0o4640)\n"
        "open('b.py', 'w').close(); os.utime('b.py', (0, -2**40)); os.utime('dir', (1, 10**9))\n"
    ).ok
    found = {info.name: info for info in sandbox.list_files(".")}
    assert list(found) == ["Z.csv", "b.py", "dir", "fifo", "link"]
    assert [info.type for info in found.values()] == ["file", "file", "directory", "other", "symlink"]
    assert [info.mime_type for info in found.values()] == ["text/csv", "text/x-python", None, None, None]
    assert found["Z.csv"].permissions == "rwSr-----"
    assert (found["dir"].permissions, found["link"].size) == ("rwx------", len("/nowhere"))
    assert found["dir"].modified_at == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert found["dir"].path == "/workspace/dir"
    assert found["Z.csv"].modified_at > datetime(3000, 1, 1, tzinfo=UTC)
    assert {"workspace", "usr", "tmp"} <= set(names(sandbox, "/"))


def test_ten_thousand_entries_are_listed(sandbox: nsbox.Sandbox) -> None:
    """All of them, each once."""
    assert sandbox.execute("for i in range(10000): open(f'{i:05}.txt', 'x').close()").ok
    assert names(sandbox) == [f"{i:05}.txt" for i in range(10000)]


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_everything_works_while_the_sandbox_is_suspended(bell: Bell, tmp_path: Path) -> None:
    """And a running program goes on with what is there when it is resumed."""
    local = tmp_path / "local"
    local.write_text("uploaded")
    program = "echo > /bell/ring; read go < /bell/go; cat answer"
    with (
        nsbox.Sandbox(mounts=[bell.mount]) as sandbox,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        future = pool.submit(sandbox.shell, program)
        bell.wait()
        sandbox.suspend()
        with sandbox.watch_files(".") as watch:
            sandbox.upload_file(local, "answer")
            assert next(watch).path == "/workspace/answer"
        sandbox.write_file("b", "x")
        sandbox.delete_file("b")
        assert sandbox.download_file("answer") == b"uploaded"
        assert names(sandbox) == ["answer"]
        assert sandbox.status is SandboxStatus.SUSPENDED
        sandbox.resume()
        bell.go()
        assert future.result(20).stdout == "uploaded"


def test_only_a_living_sandbox_has_files() -> None:
    """Before `start` and after `terminate` each operation is an InvalidStateError; a reset sandbox is empty, a
    restarted one has its files.
    """
    sandbox = nsbox.Sandbox()
    with pytest.raises(nsbox.InvalidStateError, match="creating"):
        sandbox.write_file("x", "x")
    with sandbox:
        sandbox.write_file("x", "x")
        sandbox.restart()
        assert sandbox.download_file("x") == b"x"
        sandbox.write_file("y", "y")
        sandbox.reset()
        assert names(sandbox) == []
        sandbox.write_file("z", "z")
    for operation in (sandbox.download_file, sandbox.list_files, sandbox.delete_file):
        with pytest.raises(nsbox.InvalidStateError, match="terminated"):
            operation("z")
    with pytest.raises(nsbox.InvalidStateError):
        next(sandbox.watch_files("."))


def test_each_operation_is_told_as_an_event(sandbox: nsbox.Sandbox, tmp_path: Path) -> None:
    """Once it has been done; what failed is not told."""
    local = tmp_path / "local"
    local.write_text("xyz")
    events = sandbox.events()
    sandbox.upload_file(local, "a")
    info = sandbox.write_file("b", "1")
    sandbox.download_file("a")
    with pytest.raises(FileNotFoundError):
        sandbox.download_file("c")
    sandbox.delete_file("a")
    uploaded, written, downloaded, deleted = (next(events) for _ in range(4))
    assert isinstance(uploaded, nsbox.FileUploaded)
    assert uploaded.file_info.path == "/workspace/a"
    assert isinstance(written, nsbox.FileUploaded)
    assert written.file_info == info
    assert isinstance(downloaded, nsbox.FileDownloaded)
    assert (downloaded.path, downloaded.size) == ("/workspace/a", 3)
    assert isinstance(deleted, nsbox.FileDeleted)
    assert deleted.path == "/workspace/a"
    events.close()


def sparse(path: Path, megabytes: int) -> Path:
    """A local file of that size without content, which takes a while to copy."""
    with path.open("wb") as file:
        file.truncate(megabytes * MIB)
    return path


async def begun(sandbox: nsbox.AsyncSandbox) -> None:
    """Wait until an upload has written something."""
    written = partial(until, lambda: sandbox.metadata.total_disk_used >= 2 * MIB, "something is written")
    await trio.to_thread.run_sync(written)


async def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    """Neither a file nor used quota, nor the directories that were made for it; the sandbox stays usable."""
    local = sparse(tmp_path / "large", 900)
    async with nsbox.AsyncSandbox(disk_mb=1000) as sandbox:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(sandbox.upload_file, local, "a/b", max_size_mb=1000))
                await begun(sandbox)
                scope.cancel()
        assert scope.cancelled_caught
        assert await sandbox.list_files(".") == []
        assert sandbox.metadata.total_disk_used < MIB
        await sandbox.write_file("a", "x")


@pytest.mark.parametrize("end", ["terminate", "reset", "restart"])
async def test_an_operation_under_way_ends_with_the_sandbox(tmp_path: Path, end: str) -> None:
    """It is an InvalidStateError that says so, and the sandbox does not wait for the whole file."""
    local = sparse(tmp_path / "large", 900)
    errors: list[Exception] = []

    async def upload() -> None:
        with pytest.raises(nsbox.InvalidStateError, match="meanwhile") as caught:
            await sandbox.upload_file(local, "a", max_size_mb=1000)
        errors.append(caught.value)

    async with nsbox.AsyncSandbox(disk_mb=1000) as sandbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await begun(sandbox)
            await getattr(sandbox, end)()
        assert len(errors) == 1
        if end != "terminate":
            assert await sandbox.list_files(".") == []


def test_several_threads_write_to_one_name(sandbox: nsbox.Sandbox) -> None:
    """One of them makes it where nothing is to be overwritten; else each of them, and the last one stays, whole."""
    barrier = threading.Barrier(8)

    def write(number: int, overwrite: bool) -> bool:
        barrier.wait()
        try:
            sandbox.write_file("one", bytes([number]) * MIB, overwrite=overwrite)
        except FileExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for overwrite, expected in ((False, 1), (True, 8)):
            results = list(pool.map(write, range(8), [overwrite] * 8))
            assert sum(results) == expected
            content = sandbox.download_file("one")
            assert content == content[:1] * MIB
            assert names(sandbox) == ["one"]


def test_a_directory_of_the_callers_can_be_used(tmp_path: Path) -> None:
    """Mounted for writing it takes files, which are the program's; missing directories are not made there, and what is
    mounted read-only stays as it is.
    """
    given, fixed = tmp_path / "given", tmp_path / "fixed"
    for directory in (given, fixed):
        directory.mkdir()
        (directory / "f").write_text("x")
    mounts = [
        nsbox.Mount(source=given, target="/given", read_only=False),
        nsbox.Mount(source=fixed, target="/fixed"),
    ]
    with nsbox.Sandbox(mounts=mounts) as sandbox:
        sandbox.write_file("/given/new", "y")
        assert sandbox.shell("stat -c %U /given/new; echo more >> /given/new").stdout == "user\n"
        assert (given / "new").read_text() == "ymore\n"
        with pytest.raises(FileNotFoundError, match="only made where the disk quota counts"):
            sandbox.write_file("/given/a/b", "y")
        sandbox.delete_file("/given/f")
        for operation in (lambda: sandbox.write_file("/fixed/f", "y"), lambda: sandbox.delete_file("/fixed/f")):
            with pytest.raises(FileOperationError, match="read-only"):
                operation()
    assert (sorted(os.listdir(given)), (fixed / "f").read_text()) == (["new"], "x")
    assert not stat.S_IMODE((given / "new").stat().st_mode) & 0o111


@pytest.mark.needs_root
@pytest.mark.needs_loop
def test_a_disk_image_takes_files_as_well() -> None:
    """A quota on a loop device."""
    with nsbox.Sandbox(disk_mb=1100) as sandbox:
        sandbox.write_file("a/b", b"x" * 3 * MIB)
        sandbox.write_file("a/b", b"y")
        assert sandbox.shell("cat a/b; stat -c %U a/b a").stdout == "yuser\nuser\n"
        sandbox.delete_file("a")
        assert [info.name for info in sandbox.list_files(".")] == []


def test_asyncio_has_the_same(tmp_path: Path) -> None:
    """Upload, write, list, download, watch and delete; a watch that is left is closed."""
    local = tmp_path / "local"
    local.write_text("xyz")

    async def use() -> None:
        async with nsbox.AsyncSandbox() as sandbox, sandbox.watch_files(".") as watch:
            await sandbox.upload_file(local, "a")
            await sandbox.write_file("b", b"1")
            assert [info.name for info in await sandbox.list_files(".")] == ["a", "b"]
            assert await sandbox.download_file("a") == b"xyz"
            await sandbox.delete_file("a")
            found = []
            async for change in watch:
                found.append((change.kind, change.path))
                if change.kind == "deleted":
                    break
            waiting = asyncio.ensure_future(watch.__anext__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await sandbox.write_file("c", "")
            assert (await watch.__anext__()).path == "/workspace/c"
            assert found == [("created", "/workspace/a"), ("created", "/workspace/b"), ("deleted", "/workspace/a")]

    asyncio.run(use())
