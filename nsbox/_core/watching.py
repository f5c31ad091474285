"""Changes in a directory of a sandbox, as they happen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import trio

from nsbox._errors import InvalidStateError, SandboxError
from nsbox._files import DirectoryWatch, RawEvent, Root
from nsbox._records import FileChange

if TYPE_CHECKING:
    from nsbox._core.files import Files

_PAIR_SECONDS = 0.02  # the kernel writes both halves of a move within microseconds
_CHANGES_AT_ONCE = 1000


class Watching:
    """A watch, for one task at a time. It begins with `start`, else with the first `next`.

    It ends when the directory is removed or moved, and when the sandbox is terminated, reset or restarted.

    Args:
        files: Of the sandbox.
        path: Absolute.
        recursive: Whether directories below are watched, too.
    """

    def __init__(self, files: Files, path: str, *, recursive: bool) -> None:
        self._files = files
        self._path = path
        self._recursive = recursive
        self._watch: DirectoryWatch | None = None
        self._events: list[RawEvent] = []  # read, and not yet translated: none is lost when a caller is cancelled
        self._changes: Iterator[FileChange] | None = None
        self._ready: deque[FileChange] = deque()
        self._failure: Exception | None = None
        self._over = False
        self._busy = False
        self._waiting = trio.CancelScope()

    def __del__(self) -> None:
        if self._watch is not None:  # nobody has closed it
            self._watch.close()

    async def start(self) -> None:
        """Begin: what changes from here on will be told.

        Raises:
            FileOperationError: There is no such directory, or there are too many to be watched (ENOSPC).
            UnsupportedHostError: A limit of this host is reached; the remedy is in it.
            InvalidStateError: The sandbox is neither active nor suspended.
        """
        with self._alone():
            await self._begin()

    async def next(self) -> FileChange | None:
        """The next change, as soon as there is one; None: the watch has ended.

        Cancellation: no change is lost.

        Raises:
            FileOperationError: As `start`; and changes were lost (EOVERFLOW). The watch has ended.
            UnsupportedHostError: As `start`. The watch has ended.
            InvalidStateError: As `start`; or another task is waiting already.
        """
        with self._alone():
            await trio.lowlevel.checkpoint()
            await self._begin()
            while not self._ready:
                if self._over:
                    failure, self._failure = self._failure, None
                    if failure is not None:
                        raise failure
                    return None
                await self._fetch()
            return self._ready.popleft()

    def close(self) -> None:
        """End it; a `next` that waits ends; what was read already can still be had. In the run of the supervisor."""
        self._over = True
        self._waiting.cancel()
        if not self._busy:
            self._close()

    async def aclose(self) -> None:
        """As `close`, for who calls from elsewhere."""
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise InvalidStateError("another task waits for the changes of this watch already")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._over:
                self._close()

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = self._changes = None

    async def _begin(self) -> None:
        if self._watch is not None or self._over:
            return

        def work(root: Root, check: Callable[[], object]) -> DirectoryWatch:
            watch = DirectoryWatch(root, self._path, recursive=self._recursive, names=self._files.names)
            try:
                watch.begin(check)
            except BaseException:
                watch.close()
                raise
            return watch

        try:
            self._watch = await self._files.perform("watch files", self._path, work)
        except SandboxError:
            self._over = True
            raise

    async def _fetch(self) -> None:
        if self._changes is None:
            await self._read()
        if self._changes is None:
            return
        if self._recursive:  # new directories are looked into
            await self._files.in_thread(self._take)
        else:
            self._take()

    def _take(self) -> None:
        assert self._changes is not None
        assert self._watch is not None
        before = len(self._ready)
        try:
            self._ready.extend(islice(self._changes, _CHANGES_AT_ONCE))
        except SandboxError as exc:  # told after what came before it
            self._failure, self._over = exc, True
        if len(self._ready) - before < _CHANGES_AT_ONCE:
            self._changes = None
            self._over = self._over or self._watch.over

    async def _read(self) -> None:
        """Wait for events, and have them translated."""
        watch = self._watch
        while watch is not None and not self._over and self._changes is None:
            if not self._events:
                await self._wait_readable(watch)
                self._events += self._more(watch)
                continue
            if watch.incomplete(self._events):
                with trio.move_on_after(_PAIR_SECONDS):
                    await self._wait_readable(watch)
                self._events += self._more(watch)
            events, self._events = self._events, []
            self._changes = watch.translate(events)

    def _more(self, watch: DirectoryWatch) -> list[RawEvent]:
        return [] if self._over else watch.read()

    async def _wait_readable(self, watch: DirectoryWatch) -> None:
        with trio.CancelScope() as self._waiting:
            await trio.lowlevel.wait_readable(watch.fd)
