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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import trio

from nsbox._config.validation import flag, host_path, megabytes, text
from nsbox._core.part import Part
from nsbox._core.watching import Watching
from nsbox._errors import ConfigError, InvalidStateError, SandboxPermissionError
from nsbox._events import FileDeleted, FileDownloaded, FileUploaded
from nsbox._files import (
    Answer,
    Order,
    Root,
    TemporaryNames,
    absolute,
    carry_out,
    carry_out_by_agent,
    closing,
    named,
    open_local,
)
from nsbox._plan.root import HOME, QUOTA
from nsbox._records import FileInfo
from nsbox._states import ACTIVE, SandboxStatus

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

T = TypeVar("T")
Check = Callable[[], object]
Operation = Literal["write", "read", "list", "delete"]

_THREADS = 16  # so many operations at a time in one trio run; the others wait
_END_SECONDS = 5.0

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
        if not self._idle.is_set():
            with trio.move_on_after(_END_SECONDS):
                await self._idle.wait()

    # ------------------------------------------------------------ operations

    async def upload(
        self, local_path: str | Path, remote_path: str, *, overwrite: bool = False, max_size_mb: int = 100
    ) -> FileInfo:
        local = str(host_path("local_path", local_path, absolute=False))
        limit_mb = megabytes("max_size_mb", max_size_mb)
        order = self._order("write", remote_path, overwrite=flag("overwrite", overwrite), limit_mb=limit_mb)

        def work(root: Root, check: Check) -> Answer:
            with closing(open_local(local, limit_mb)) as file:
                executable = os.fstat(file).st_mode & stat.S_IXUSR
                return self._carry_out(replace(order, mode=0o755 if executable else 0o644), root, file, check)

        (info,) = (await self.perform("upload a file", order.path, work)).infos
        self._core.emitter.emit(FileUploaded, file_info=info)
        return info

    async def write(self, remote_path: str, content: str | bytes, *, overwrite: bool = True) -> FileInfo:
        order = self._order("write", remote_path, overwrite=flag("overwrite", overwrite), mode=0o644)
        (info,) = (await self._do("write a file", order, _as_bytes(content))).infos
        self._core.emitter.emit(FileUploaded, file_info=info)
        return info

    async def download(self, remote_path: str, *, max_size_mb: int = 100) -> bytes:
        order = self._order("read", remote_path, limit_mb=megabytes("max_size_mb", max_size_mb))
        content = (await self._do("download a file", order)).content
        self._core.emitter.emit(FileDownloaded, path=order.path, size=len(content))
        return content

    async def list(self, directory: str = "/") -> list[FileInfo]:
        return [*(await self._do("list files", self._order("list", directory, field="directory"))).infos]

    async def delete(self, remote_path: str) -> None:
        order = self._order("delete", remote_path)
        await self._do("delete a file", order)
        self._core.emitter.emit(FileDeleted, path=order.path)

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

    def _order(self, do: Operation, path: str, *, field: str = "remote_path", **fields: Any) -> Order:
        return Order(do=do, path=self.path(field, path), home=HOME, quota=QUOTA, **fields)

    async def _do(self, action: str, order: Order, content: bytes = b"") -> Answer:
        return await self.perform(action, order.path, lambda root, check: self._carry_out(order, root, content, check))

    def _carry_out(self, order: Order, root: Root, content: int | bytes, check: Check) -> Answer:
        """In this thread, or where that has no right to it, by an agent. `content`: itself, or a descriptor of it."""
        by_agent = root.member >= 0
        if not by_agent or order.do in ("read", "list"):  # most of what there is can be read by all
            try:
                return carry_out(order, root, _reader(content), check, self.names)
            except SandboxPermissionError:
                if not by_agent:
                    raise
        if isinstance(content, int):
            return carry_out_by_agent(order, root, content, check, self.names)
        with named(order.path), closing(os.memfd_create("nsbox-content")) as file:
            with open(file, "wb", closefd=False) as stream:
                stream.write(content)
            os.lseek(file, 0, os.SEEK_SET)
            return carry_out_by_agent(order, root, file, check, self.names)

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
        supervisor, cell = self._core.living()
        foreign = supervisor.ids.count > 1 and not supervisor.ids.ranges
        life = self._life

        def check() -> None:
            trio.from_thread.check_cancelled()
            if self._life is not life:
                raise InvalidStateError(f"cannot {action}: the sandbox has ended, or was started anew, meanwhile")

        with named(path):
            hidden = self._core.config.writable_root  # by the /run of its own, where root inside makes what it likes
            root = Root.duplicate(
                cell.root, HOME if hidden else QUOTA, supervisor.launcher_pidfd if foreign else -1, closed=not hidden
            )
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


def _reader(content: int | bytes) -> Callable[[int], bytes | memoryview]:
    if isinstance(content, int):
        return partial(os.read, content)
    rest = memoryview(content)

    def read(count: int) -> memoryview:
        nonlocal rest
        part, rest = rest[:count], rest[count:]
        return part

    return read


def _as_bytes(content: str | bytes) -> bytes:
    if isinstance(content, str):
        try:
            return content.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as exc:
            raise ConfigError(f"content: must be a str that UTF-8 can encode ({exc.reason} at {exc.start})") from None
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ConfigError(f"content: must be a str or bytes, not {type(content).__name__}")
    return bytes(content)
