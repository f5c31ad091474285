"""Watching a directory of a sandbox: every change once, in order, and a clear end."""

import errno
import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
import trio.testing

import nsbox
from nsbox import FileChange, FileOperationError


def told(changes: Iterable[FileChange], directory: str = "/workspace") -> list[str]:
    """One line each, with paths below the watched directory."""
    return [
        f"{change.kind} {change.path.removeprefix(f'{directory}/')}"
        + (f" {change.moved_to.removeprefix(f'{directory}/')}" if change.moved_to else "")
        for change in changes
    ]


def until_end(sandbox: nsbox.Sandbox, watch: nsbox.BlockingFileWatch, directory: str = "/workspace") -> list[str]:
    """What a watch tells up to a mark that is set now in its directory."""
    end = f"{directory}/end"
    sandbox.write_file(end, "")
    found = []
    for change in watch:
        if change.path == end:
            break
        found.append(change)
    sandbox.delete_file(end)
    assert next(watch).kind == "deleted"
    return told(found, directory)


W = "/workspace/w"
"""A directory that files can be moved into and out of: from one of the sandbox's places to another they are copied."""


@pytest.mark.lane_unified
def test_each_kind_of_change_is_told() -> None:
    """By programs and by the file API; what is written in one go is told once; what is below is not."""
    with nsbox.Sandbox() as sandbox:
        assert sandbox.shell("mkdir w").ok
        with sandbox.watch_files("w") as watch:
            assert sandbox.shell("cd w; mkdir d; touch d/x; touch a; echo x > a; mv a b; mv b ..; mv ../b c; rm c").ok
            assert until_end(sandbox, watch, W) == [
                "created d", "created a", "modified a", "moved a b", "deleted b", "created c", "deleted c",
            ]  # fmt: skip
            sandbox.write_file("w/f", "1")
            sandbox.write_file("w/f", "2")
            sandbox.delete_file("w/f")
            assert until_end(sandbox, watch, W) == ["created f", "modified f", "deleted f"]


TREE = """
import os
os.chdir('w')
for i in range(40):
    os.makedirs(f't{i}/a/b/c')
    for path in (f't{i}', f't{i}/a', f't{i}/a/b', f't{i}/a/b/c'):
        for j in range(3): open(f'{path}/{j}', 'x').close()
"""
MOVES = "cd w; mv t0 ..; touch ../t0/a/new; mv t1 u; touch u/a/b/new; mv ../t0/a .; rm -r u/a/b"


@pytest.mark.lane_unified
def test_directories_that_are_made_while_they_are_watched_are_watched() -> None:
    """However fast a program makes them: everything in them is told as created, and told once. A directory that is
    moved takes its watches along, one that is moved away is watched no more, and one that is moved in is new.
    """
    below = ["0", "1", "2", "c", "c/0", "c/1", "c/2"]
    with nsbox.Sandbox() as sandbox:
        assert sandbox.shell("mkdir w").ok
        with sandbox.watch_files("w", recursive=True) as watch:
            assert sandbox.execute(TREE).ok
            found = until_end(sandbox, watch, W)
            made = [f"t{i}{path}" for i in range(40) for path in ("", "/a", "/a/b", "/a/b/c")]
            expected = [f"created {path}" for path in (*made, *(f"{path}/{j}" for path in made for j in range(3)))]
            assert sorted(found) == sorted(expected)
            assert sandbox.shell(MOVES).ok
            found = until_end(sandbox, watch, W)
            assert found[:4] == ["deleted t0", "moved t1 u", "created u/a/b/new", "created a"]
            expected = [f"created a/{path}" for path in ("0", "1", "2", "new", "b", *(f"b/{path}" for path in below))]
            expected += [f"deleted u/a/b{path}" for path in ("", "/new", *(f"/{path}" for path in below))]
            assert sorted(found[4:]) == sorted(expected)
            assert found[-1] == "deleted u/a/b"


def test_what_was_there_before_is_watched_and_not_told() -> None:
    """Directories at any depth, beyond the longest path that the kernel takes at once."""
    deep = "/".join(["d" * 200] * 30)
    program = (
        "import os\nhere = os.open('.', os.O_RDONLY)\n"
        "for i in range(30):\n os.mkdir('d' * 200, dir_fd=here); here = os.open('d' * 200, os.O_RDONLY, dir_fd=here)\n"
    )
    with nsbox.Sandbox() as sandbox:
        assert sandbox.execute(program).ok
        with sandbox.watch_files(".", recursive=True) as watch:
            change = "import os\nfor i in range(30): os.chdir('d' * 200)\nopen('new', 'x').close()\n"
            assert sandbox.execute(change).ok
            assert until_end(sandbox, watch) == [f"created {deep}/new"]


def test_links_are_not_followed_into() -> None:
    """A link to a directory is an entry; what changes behind it is not told, even if it took a directory's place."""
    with nsbox.Sandbox() as sandbox:
        assert sandbox.shell("mkdir /tmp/t d; ln -s /tmp/t link").ok
        with sandbox.watch_files(".", recursive=True) as watch:
            assert sandbox.shell("touch link/x; rmdir d; ln -s /tmp/t d; touch d/y").ok
            assert until_end(sandbox, watch) == ["deleted d", "created d"]
        with sandbox.watch_files("link") as watch:
            assert sandbox.shell("touch /tmp/t/z").ok
            assert next(watch).path == "/workspace/link/z"


@pytest.mark.parametrize("command", ["rm -r d", "mv d e"])
def test_the_watch_ends_with_its_directory(command: str) -> None:
    """Removed or moved; what came before is told. A directory that is not there cannot be watched."""
    with nsbox.Sandbox() as sandbox:
        sandbox.write_file("d/x", "")
        with sandbox.watch_files("d") as watch:
            assert sandbox.shell(f"touch d/y; {command}").ok
            assert told(watch)[0] == "created d/y"
            assert list(watch) == []
        with pytest.raises(FileNotFoundError):
            next(sandbox.watch_files("d"))
        with pytest.raises(NotADirectoryError):
            next(sandbox.watch_files("/etc/passwd"))


@pytest.mark.parametrize("end", ["terminate", "reset", "restart"])
@pytest.mark.parametrize("recursive", [False, True])
async def test_the_watch_ends_with_the_sandboxs_processes(end: str, recursive: bool) -> None:
    """A reader that waits is told the end; one that comes later, too."""
    ended = []
    async with nsbox.AsyncSandbox() as sandbox:
        watch = sandbox.watch_files(".", recursive=recursive)
        idle = sandbox.watch_files(".", recursive=recursive)
        async with trio.open_nursery() as nursery, watch, idle:

            async def read() -> None:
                ended.append([change async for change in watch])

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await getattr(sandbox, end)()
        assert ended == [[]]
        assert [change async for change in idle] == []


async def test_who_leaves_early_leaves_nothing_open() -> None:
    """Neither a loop that is left, nor a cancelled step, nor `aclose` from another task; no change is lost by the
    second. That nothing is open afterwards is what the fixture of all these tests checks.
    """
    async with nsbox.AsyncSandbox() as sandbox:
        await sandbox.write_file("before", "")
        async with sandbox.watch_files(".") as watch:
            await sandbox.write_file("a", "")
            await sandbox.write_file("b", "")
            async for change in watch:
                assert change.path == "/workspace/a"
                break
            with trio.CancelScope() as scope:
                scope.cancel()
                await watch.__anext__()
            assert (await watch.__anext__()).path == "/workspace/b"
            with trio.move_on_after(0.01):
                await watch.__anext__()
            await sandbox.write_file("c", "")
            assert (await watch.__anext__()).path == "/workspace/c"
        loose = sandbox.watch_files(".")
        with trio.move_on_after(0.01):
            await loose.__anext__()
        await sandbox.write_file("d", "")
        assert (await loose.__anext__()).path == "/workspace/d"
        del loose, watch
        closing = sandbox.watch_files(".")
        async with trio.open_nursery() as nursery, closing:

            async def read() -> None:
                assert [change async for change in closing] == []

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(nsbox.InvalidStateError, match="another task"):
                await closing.__anext__()
            await closing.aclose()


FLOOD = "import os\nfor i in range(20000): os.mkdir('x'); os.rmdir('x')\n"


def test_changes_that_were_lost_are_an_error() -> None:
    """After those that were not; then the watch is over, and a new one works."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with nsbox.Sandbox() as sandbox:
        if queue < 40_000:  # as by default
            with sandbox.watch_files(".") as watch:
                assert sandbox.execute(FLOOD).ok
                kept = list(itertools.islice(watch, queue))
                assert {change.path for change in kept} == {"/workspace/x"}
                with pytest.raises(FileOperationError, match="list the directory, and watch it again") as caught:
                    next(watch)
                assert caught.value.errno == errno.EOVERFLOW
                assert list(watch) == []
        with sandbox.watch_files(".") as watch:
            assert sandbox.shell("touch a").ok
            assert told([next(watch)]) == ["created a"]


def test_the_number_of_watched_directories_is_bounded() -> None:
    """A program that makes more ends the watch with an error, and takes no more of the host's limit."""
    with nsbox.Sandbox() as sandbox:
        with sandbox.watch_files(".", recursive=True) as watch:
            assert sandbox.execute("import os\nfor i in range(9000): os.mkdir(str(i))").ok
            with pytest.raises(FileOperationError, match="more than 8192 directories") as caught:
                for _ in watch:
                    pass
            assert (caught.value.errno, caught.value.path) == (errno.ENOSPC, "/workspace")
        with pytest.raises(FileOperationError, match="more than 8192 directories"):
            next(sandbox.watch_files(".", recursive=True))
        with sandbox.watch_files(".") as watch:
            assert until_end(sandbox, watch) == []


def test_the_whole_sandbox_can_be_watched() -> None:
    """From "/" on, all that can change: not the host's /usr, not /proc, and each place once."""
    with nsbox.Sandbox() as sandbox, sandbox.watch_files("/", recursive=True) as watch:
        assert sandbox.shell("touch /workspace/a /tmp/b /home/user/c /dev/shm/d").ok
        assert [next(watch).path for _ in range(4)] == ["/workspace/a", "/tmp/b", "/home/user/c", "/dev/shm/d"]
