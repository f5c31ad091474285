"""Watching a directory by inotify(7): the descriptor, the watches, and the looks into directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import NoReturn

from nsbox._errors import UnsupportedHostError, file_operation_error
from nsbox._files import calls
from nsbox._files.changes import (
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_EXCL_UNLINK,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    ChangesLost,
    Found,
    Path,
    RawEvent,
    Translator,
    awaits_pair,
    parse_events,
)
from nsbox._files.resolve import Root, closing, named, refusal, reopen, retried, to_bytes
from nsbox._files.write import TemporaryNames
from nsbox._records import FileChange

MOST_WATCHES = 8192
"""Directories in one recursive watch. The kernel's own limit is for all that the application's user watches."""

_MASK = (
    IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
    | IN_ONLYDIR | IN_EXCL_UNLINK
)  # fmt: skip
_BUFFER_BYTES = 64 * 1024
_MOST_AT_ONCE = 4096  # events, before the caller gets some
_STEP_BYTES = 3000  # of a path that is looked up in one go: PATH_MAX is 4096
_ST_RDONLY = 1


class DirectoryWatch:
    """A watch on a directory of a sandbox; it has descriptors until it is closed.

    Args:
        root: The sandbox's; it may be closed afterwards.
        path: Absolute; a link is followed, within the root.
        recursive: Whether directories below are watched, those that are made later too.
        names: Of files that nobody is told of.

    Raises:
        FileOperationError: It is no directory of the sandbox.
        UnsupportedHostError: A limit of this host's; the remedy is in it.
    """

    def __init__(self, root: Root, path: str, *, recursive: bool, names: TemporaryNames) -> None:
        self.path = path
        self._recursive = recursive
        self._closed_mount = root.closed_mount
        self._name: bytes | None = None
        self._base = self.fd = -1
        with named(path):
            try:
                self._base = root.open(to_bytes(path), os.O_DIRECTORY)
                self.fd = _new_instance()
                watch = self._add(self._base, _MASK)
                self._translator = Translator(
                    path, watch, recursive=recursive, look=self._look, forget=self._forget, quiet=names.__contains__,
                    parent=self._watch_parent(), gone=self._is_gone,
                )  # fmt: skip
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End it; a second time, nothing."""
        for fd in (self.fd, self._base):
            if fd >= 0:
                os.close(fd)
        self.fd = self._base = -1

    @property
    def over(self) -> bool:
        """Whether the directory itself is gone, and nothing more will come."""
        return self._translator.over

    def begin(self, check: Callable[[], object]) -> None:
        """Watch what is below; of what is there now nothing is told.

        Args:
            check: Called for each directory; what it raises ends the work.

        Raises:
            FileOperationError: There are more than MOST_WATCHES directories.
            UnsupportedHostError: A limit of this host's.
        """
        if not self._recursive:
            return
        with named(self.path):
            for found in self._look(()):
                check()
                self._translator.learn(found)

    def read(self) -> list[RawEvent]:
        """What the kernel has to tell now; nothing, if there is nothing."""
        events: list[RawEvent] = []
        while len(events) < _MOST_AT_ONCE:
            try:
                data = os.read(self.fd, _BUFFER_BYTES)
            except BlockingIOError:
                break
            events += parse_events(data)
        return events

    def incomplete(self, events: list[RawEvent]) -> bool:
        """Whether it is worth while to wait a moment for the other half of a move."""
        return awaits_pair(events)

    def translate(self, events: list[RawEvent]) -> Iterator[FileChange]:
        """What they mean.

        Raises:
            FileOperationError: Changes were lost (EOVERFLOW), or there are more than MOST_WATCHES directories.
            UnsupportedHostError: A limit of this host's.
        """
        with named(self.path):
            try:
                yield from self._translator.translate(events)
            except ChangesLost:
                raise file_operation_error(
                    self.path, errno.EOVERFLOW,
                    "more has changed than the kernel keeps (fs.inotify.max_queued_events): some of it is lost; "
                    "list the directory, and watch it again",
                ) from None  # fmt: skip

    def _watch_parent(self) -> int | None:
        try:
            parent = calls.open_at(self._base, b"..", os.O_PATH, calls.RESOLVE_NO_XDEV | calls.RESOLVE_NO_SYMLINKS)
        except OSError as exc:
            if exc.errno == errno.EXDEV:  # something mounted, which no program can remove
                return None
            raise
        with closing(parent):
            self._name = _last_part(self._base)
            if calls.statx(parent).inode == calls.statx(self._base).inode:
                return None  # the root
            return self._add(parent, IN_DELETE | IN_ONLYDIR)

    def _is_gone(self, name: bytes) -> bool:
        return (self._name is None or name == self._name) and os.fstat(self._base).st_nlink == 0

    def _add(self, directory: int, mask: int) -> int:
        try:
            return calls.inotify_add(self.fd, directory, mask)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                _refuse("fs.inotify.max_user_watches", 1 << 20)
            raise

    def _forget(self, watch: int) -> None:
        calls.inotify_remove(self.fd, watch)

    def _look(self, path: Path) -> Iterator[Found]:
        """A directory and those in it, each watched before it is looked into, so that nothing is missed."""
        waiting = [path]
        while waiting:
            here = waiting.pop()
            try:
                found, below = self._look_into(here)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # gone, or replaced by something else, meanwhile
            except OSError as exc:
                if exc.errno == errno.ELOOP:
                    continue  # a link: it is not followed
                raise
            yield found
            waiting += [(*here, name) for name in below]

    def _look_into(self, path: Path) -> tuple[Found, list[bytes]]:
        with closing(self._open_below(path)) as place:
            if calls.is_pseudo(place) or calls.statx(place).mount == self._closed_mount:
                return Found(path, None, ()), []
            if len(self._translator) >= MOST_WATCHES:
                raise refusal(errno.ENOSPC, f"more than {MOST_WATCHES} directories to be watched")
            watch = self._add(place, _MASK) if path else None  # the base has one
            names, below = [], []
            with closing(reopen(place, os.O_RDONLY | os.O_DIRECTORY)) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    names.append(name)
                    if entry.is_dir(follow_symlinks=False) and self._worth(place, name):
                        below.append(name)
            return Found(path, watch, names), below

    def _open_below(self, path: Path) -> int:
        """A directory below the base, link by link refused: a program may have swapped any part."""
        place = os.dup(self._base)
        rest = list(path)
        while rest:
            step = rest.pop(0)
            while rest and len(step) + len(rest[0]) < _STEP_BYTES:
                step += b"/" + rest.pop(0)
            with closing(place):
                place = retried(
                    place, step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
                    calls.RESOLVE_BENEATH | calls.RESOLVE_NO_SYMLINKS,
                )  # fmt: skip
        return place

    def _worth(self, place: int, name: bytes) -> bool:
        """False for what is mounted read-only there: nothing changes in it, and it may be the host's whole /usr."""
        try:
            os.close(calls.open_at(place, name, os.O_PATH | os.O_NOFOLLOW, calls.RESOLVE_NO_XDEV))
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                return False
            with closing(calls.open_at(place, name, os.O_PATH | os.O_NOFOLLOW, 0)) as mounted:
                return not os.fstatvfs(mounted).f_flag & _ST_RDONLY
        return True


def _last_part(fd: int) -> bytes | None:
    """The name of a directory, as the kernel tells it; None for one whose path is too long to be told."""
    try:
        return os.path.basename(os.readlink(b"/proc/self/fd/%d" % fd))
    except OSError:
        return None


def _new_instance() -> int:
    try:
        return calls.inotify_init()
    except OSError as exc:
        if exc.errno == errno.EMFILE and _can_open():
            _refuse("fs.inotify.max_user_instances", 1024)
        raise


def _can_open() -> bool:
    """EMFILE has two meanings, inotify_init(2): this tells whether it is the number of descriptors."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _refuse(sysctl: str, enough: int) -> NoReturn:
    raise UnsupportedHostError(
        f"the limit {sysctl} of this user on this host is reached", remedies=(f"sysctl -w {sysctl}={enough}",)
    ) from None
