"""Files of a sandbox, for its owner: upload, download, write, list, delete, watch.

Nothing of it needs a process of the sandbox, so it works while that is suspended. The work blocks and is done in
worker threads (`nsbox._files`); it looks at short intervals whether its caller was cancelled or the sandbox has ended.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from nsbox._config.validation import flag, host_path, megabytes, text
from nsbox._core.part import Part
from nsbox._core.watching import Watching
from nsbox._errors import ConfigError, InvalidStateError, UnsupportedHostError
from nsbox._events import FileDeleted, FileDownloaded, FileUploaded
from nsbox._files import (
    Root,
    TemporaryNames,
    Writing,
    absolute,
    delete,
    list_directory,
    named,
    open_local,
    owner_of_programs,
    read_file,
    write_file,
)
from nsbox._plan.root import HOME, QUOTA
from nsbox._records import FileInfo
from nsbox._states import ACTIVE, SandboxStatus

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

T = TypeVar("T")
Check = Callable[[], object]

_THREADS = 16  # so many operations at a time in one trio run; the others wait
_END_SECONDS = 5.0
_MODE = 0o644

_threads: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("nsbox file threads")


class Files(Part):
    """See `AsyncSandbox`, whose methods of the same names with "_file" these are.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core = core
        self._life = object()  # another one when the sandbox has other processes
        self._working = 0
        self._idle = trio.Event()
        self._idle.set()
        self._watches: weakref.WeakSet[Watching] = weakref.WeakSet()
        self.names = TemporaryNames()

    # ------------------------------------------------------------ what the sandbox goes through

    def closed(self) -> None:
        """Operations under way fail, watches end."""
        self._life = object()
        for watch in tuple(self._watches):
            watch.close()

    async def end(self) -> None:
        """As `closed`, and nothing of it is under way any more; but for a host file that cannot be read for seconds."""
        self.closed()
        with trio.move_on_after(_END_SECONDS):
            await self._idle.wait()

    # ------------------------------------------------------------ operations

    async def upload(
        self, local_path: str | Path, remote_path: str, *, overwrite: bool = False, max_size_mb: int = 100
    ) -> FileInfo:
        local = str(host_path("local_path", local_path, absolute=False))
        path = self.path("remote_path", remote_path)
        limit_mb = megabytes("max_size_mb", max_size_mb)
        replace = flag("overwrite", overwrite)

        def work(root: Root, check: Check) -> FileInfo:
            file = open_local(local, limit_mb)
            try:
                executable = os.fstat(file).st_mode & stat.S_IXUSR
                writing = Writing(
                    read=partial(os.read, file), overwrite=replace, mode=_MODE | 0o111 if executable else _MODE,
                    owner=self._owner(root), limit_mb=limit_mb, check=check, names=self.names,
                )  # fmt: skip
                return write_file(root, path, writing)
            finally:
                os.close(file)

        info = await self.perform("upload a file", path, work)
        self._core.emitter.emit(FileUploaded, file_info=info)
        return info

    async def write(self, remote_path: str, content: str | bytes, *, overwrite: bool = True) -> FileInfo:
        path = self.path("remote_path", remote_path)
        data = memoryview(_as_bytes(content))
        replace = flag("overwrite", overwrite)

        def work(root: Root, check: Check) -> FileInfo:
            offset = 0

            def read(count: int) -> memoryview:
                nonlocal offset
                offset += count
                return data[offset - count : offset]

            writing = Writing(
                read=read, overwrite=replace, mode=_MODE, owner=self._owner(root), limit_mb=None, check=check,
                names=self.names,
            )  # fmt: skip
            return write_file(root, path, writing)

        info = await self.perform("write a file", path, work)
        self._core.emitter.emit(FileUploaded, file_info=info)
        return info

    async def download(self, remote_path: str, *, max_size_mb: int = 100) -> bytes:
        path = self.path("remote_path", remote_path)
        limit_mb = megabytes("max_size_mb", max_size_mb)
        content = await self.perform(
            "download a file", path, lambda root, check: read_file(root, path, limit_mb, check)
        )
        self._core.emitter.emit(FileDownloaded, path=path, size=len(content))
        return content

    async def list(self, directory: str = "/") -> list[FileInfo]:
        path = self.path("directory", directory)
        return await self.perform("list files", path, lambda root, check: list_directory(root, path, check))

    async def delete(self, remote_path: str) -> None:
        path = self.path("remote_path", remote_path)

        def work(root: Root, check: Check) -> None:
            self._owner(root)
            delete(root, path, check)

        await self.perform("delete a file", path, work)
        self._core.emitter.emit(FileDeleted, path=path)

    def watch(self, directory: str, *, recursive: bool = False) -> Watching:
        path = self.path("directory", directory)
        watch = Watching(self, path, recursive=flag("recursive", recursive))
        self._watches.add(watch)
        return watch

    # ------------------------------------------------------------ what they have in common

    def path(self, field: str, path: str) -> str:
        """A path of the caller's from the root of the sandbox; a relative one is below its working directory.

        Raises:
            ConfigError: It is empty, no str, or has a NUL byte in it, which no path can have.
        """
        return absolute(text(field, path, empty=False), self._core.config.working_directory)

    async def perform(self, action: str, path: str, work: Callable[[Root, Check], T]) -> T:
        """Do work in a thread, on the root of the living sandbox.

        Cancellation is seen by the work when it calls its second argument; this waits until it has cleaned up.

        Args:
            action: What it is, as a verb, for the error.
            path: What it is about, for errors.
            work: Called in the thread.

        Raises:
            InvalidStateError: The sandbox is neither active nor suspended, or ended meanwhile.
        """
        self._core.machine.require(*ACTIVE, SandboxStatus.SUSPENDED, action=action)
        _, cell = self._core.living()
        life = self._life

        def check() -> None:
            trio.from_thread.check_cancelled()
            if self._life is not life:
                raise InvalidStateError(f"cannot {action}: the sandbox has ended, or was started anew, meanwhile")

        with named(path):
            root = Root.duplicate(cell.root, QUOTA)
        with root:
            return await self.in_thread(work, root, check)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call something in one of the threads for files; `end` waits for it."""
        try:
            limiter = _threads.get()
        except LookupError:
            limiter = trio.CapacityLimiter(_THREADS)
            _threads.set(limiter)
        with self._under_way():
            return await trio.to_thread.run_sync(function, *args, limiter=limiter)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._working += 1
        if self._idle.is_set():
            self._idle = trio.Event()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    def _owner(self, root: Root) -> tuple[int, int]:
        """Who programs are, on the host.

        Raises:
            UnsupportedHostError: Somebody in whose name this process cannot write.
        """
        owner = owner_of_programs(root, HOME)
        if os.geteuid() not in (0, owner[0]):
            raise UnsupportedHostError(
                "files of a sandbox with subordinate ids cannot be changed from outside without root",
                remedies=(
                    "write them by a program in the sandbox: sandbox.run(['tee', path], stdin=content)",
                    "or remove this user's line from /etc/subuid: the sandbox then has this user's own id",
                ),
            )
        return owner


def _as_bytes(content: str | bytes) -> bytes:
    if isinstance(content, str):
        try:
            return content.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as exc:
            raise ConfigError(f"content: must be a str that UTF-8 can encode ({exc.reason} at {exc.start})") from None
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ConfigError(f"content: must be a str or bytes, not {type(content).__name__}")
    return bytes(content)
