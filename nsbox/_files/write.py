"""Writing a file: all of it at once, or not at all.

The content goes to a file without a name (open(2), O_TMPFILE), which gets its owner, its mode and at last its name by
linkat(2), which never replaces anything. Where there is something to be replaced, it gets an unpredictable name first,
and rename(2) puts it into place. On file systems without O_TMPFILE it has such a name from the start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from nsbox._files import calls
from nsbox._files.listing import describe
from nsbox._files.read import CHUNK_BYTES, MIB, too_large
from nsbox._files.resolve import Root, closing, named, open_entry, refusal, reopen, to_bytes
from nsbox._records import FileInfo

Read = Callable[[int], bytes | memoryview]
DIRECTORY_MODE = 0o755
_TRIES = 100
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)  # EISDIR: the flag is not known, open(2)
_NAMES_KEPT = 4096
_LEASE_TRIES = 1000
_LEASE_SECONDS = 0.001


class TemporaryNames:
    """The names that files have before they get their own, so that a watch can keep quiet about them.

    Args:
        first: What is given out first.
    """

    def __init__(self, first: Iterable[bytes] = ()) -> None:
        self._first = list(first)
        self._names: OrderedDict[bytes, None] = OrderedDict()

    def new(self) -> bytes:
        """One that nothing has had."""
        name = self._first.pop() if self._first else b".nsbox-" + secrets.token_hex(16).encode()
        self._names[name] = None
        while len(self._names) > _NAMES_KEPT:
            self._names.popitem(last=False)
        return name

    def __contains__(self, name: bytes) -> bool:
        return name in self._names


@dataclass(slots=True, kw_only=True)
class Writing:
    """What is written.

    Attributes:
        read: Gives up to so many bytes of the content; none at its end.
        overwrite: Whether a regular file of that name is replaced.
        mode: Its permissions.
        owner: Uid and gid of the sandbox's program, on the host.
        limit_mb: The most that is written, in MiB; None: the quota alone decides.
        check: Called before each MiB; what it raises ends the writing, and nothing of it is left.
        names: Where names for a moment come from.
        unnamed: Whether to try O_TMPFILE.
    """

    read: Read
    overwrite: bool
    mode: int
    owner: tuple[int, int]
    limit_mb: int | None
    check: Callable[[], object]
    names: TemporaryNames = field(default_factory=TemporaryNames)
    unnamed: bool = True


def write_file(root: Root, path: str, writing: Writing) -> FileInfo:
    """Make a file, or replace one.

    Directories that are missing on the way are made, in the sandbox's own places. A link as the last part of the path
    is refused; links on the way are followed, within the root.

    Args:
        root: The sandbox's.
        path: Absolute.
        writing: How, and what.

    Returns:
        What is there now.

    Raises:
        FileOperationError: It cannot be; whatever had that name is as it was, and nothing else is left.
    """
    with named(path), _made_directories() as made:
        parent, name = _parent(root, to_bytes(path), writing, made)
        with closing(parent):
            _look(parent, name, overwrite=writing.overwrite)
            with _draft(parent, writing) as draft:
                _fill(draft.fd, writing)
                _close_for_writing(draft, writing.check)
                _give(draft.fd, writing.owner, writing.mode)
                _put(parent, draft, name, writing)
                status = calls.statx(draft.fd)
    return describe(path, status)


@contextlib.contextmanager
def _made_directories() -> Iterator[list[tuple[int, bytes]]]:
    """Directories that are removed again when what they were made for fails: each with a descriptor of its parent."""
    made: list[tuple[int, bytes]] = []
    try:
        yield made
    except BaseException:
        for place, name in reversed(made):
            with contextlib.suppress(OSError):  # not empty: a program has put something there
                os.rmdir(name, dir_fd=place)
        raise
    finally:
        for place, _ in made:
            os.close(place)


@dataclass(slots=True)
class _Draft:
    fd: int
    name: bytes | None


@contextlib.contextmanager
def _draft(parent: int, writing: Writing) -> Iterator[_Draft]:
    """A new file in a directory, and nothing of it afterwards but what has its own name by then."""
    draft = _Draft(-1, None)
    try:
        if writing.unnamed:
            try:
                draft.fd = reopen(parent, os.O_TMPFILE | os.O_RDWR)
            except OSError as exc:
                if exc.errno not in _NO_TMPFILE:
                    raise
        if draft.fd < 0:
            name = writing.names.new()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            draft.fd = os.open(name, flags, 0o600, dir_fd=parent)
            draft.name = name
        os.fchmod(draft.fd, 0o600)  # O_TMPFILE without a mode would leave it to chance
        yield draft
    finally:
        if draft.name is not None:
            with contextlib.suppress(OSError):  # the program may have removed it
                os.unlink(draft.name, dir_fd=parent)
        if draft.fd >= 0:
            os.close(draft.fd)


def _fill(fd: int, writing: Writing) -> None:
    written = 0
    limit = None if writing.limit_mb is None else writing.limit_mb * MIB
    while True:
        writing.check()
        chunk = writing.read(CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit - written + 1))
        if not chunk:
            return
        written += len(chunk)
        if limit is not None and written > limit:
            raise too_large(writing.limit_mb or 0)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(fd, rest) :]


def _close_for_writing(draft: _Draft, check: Callable[[], object]) -> None:
    """Close the file, and keep one descriptor of it for reading: a file that anybody has open for writing cannot be
    executed (execve(2), ETXTBSY).

    A child that the application forks has a copy of the descriptor until its exec. A read lease is to be had only when
    there is none left (fcntl(2), F_SETLEASE), and without a name none can be added.
    """
    reading = reopen(draft.fd, os.O_RDONLY)
    os.close(draft.fd)
    draft.fd = reading
    for _ in range(_LEASE_TRIES):
        check()
        try:
            fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            time.sleep(_LEASE_SECONDS)
            continue
        except OSError:  # EINVAL: a file system without leases; EACCES: no right to it
            return
        fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return


def _give(fd: int, owner: tuple[int, int], mode: int) -> None:
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != owner:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)  # after the owner: a change of owner takes bits away, chown(2)


def _look(parent: int, name: bytes, *, overwrite: bool) -> bool:
    """Whether there is a regular file to be replaced. What may come in between is never followed, and never opened.

    Raises:
        OSError: There is something that is not to be replaced.
    """
    try:
        entry = open_entry(parent, name)
    except FileNotFoundError:
        return False
    with closing(entry):
        mode = os.fstat(entry).st_mode
    if not overwrite:
        raise refusal(errno.EEXIST)
    if stat.S_ISDIR(mode):
        raise refusal(errno.EISDIR)
    if stat.S_ISLNK(mode):
        raise refusal(errno.ELOOP, "a symbolic link, which is not written through; delete it, or name what it leads to")
    if not stat.S_ISREG(mode):
        raise refusal(errno.EEXIST, "not a regular file, so it is not replaced; delete it first")
    return True


def _put(parent: int, draft: _Draft, name: bytes, writing: Writing) -> None:
    for _ in range(_TRIES):
        if _link(parent, draft, name):
            return
        if not _look(parent, name, overwrite=writing.overwrite):
            continue  # gone meanwhile
        if draft.name is None:
            temporary = writing.names.new()
            if not _link(parent, draft, temporary):
                continue
            draft.name = temporary
        os.rename(draft.name, name, src_dir_fd=parent, dst_dir_fd=parent)
        draft.name = None
        return
    raise refusal(errno.EAGAIN)


def _link(parent: int, draft: _Draft, name: bytes) -> bool:
    """Give the file a name that nothing has; False: something has it."""
    try:
        if draft.name is None:  # linkat(2) by the link in /proc: AT_EMPTY_PATH would need a capability
            os.link(f"/proc/self/fd/{draft.fd}", name, dst_dir_fd=parent, follow_symlinks=True)
        else:
            os.link(draft.name, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _parent(root: Root, path: bytes, writing: Writing, made: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """The directory that a file is to be in, made if need be; what was made is told to `made`."""
    try:
        return root.open_parent(path)
    except FileNotFoundError:
        parts = path.lstrip(b"/").split(b"/")
    place, missing = _existing(root, parts[:-1])
    if b".." in missing:
        os.close(place)
        raise refusal(errno.ENOENT)
    for part in missing:
        with closing(place):
            place = _make_directory(root, place, part, writing, made)
    return place, parts[-1]


def _existing(root: Root, parts: list[bytes]) -> tuple[int, list[bytes]]:
    """The deepest directory on a way that is there, and what of the way is missing."""
    for count in range(len(parts) - 1, -1, -1):
        try:
            return root.open(b"/" + b"/".join(parts[:count]), os.O_DIRECTORY), parts[count:]
        except FileNotFoundError:
            continue
    raise refusal(errno.ENOENT)  # the root itself is always there, so this is for the type checker


def _make_directory(root: Root, place: int, name: bytes, writing: Writing, made: list[tuple[int, bytes]]) -> int:
    """Make a directory that is the program's, and open it.

    Only on the quota's file system: between its making and its opening a program can put another in its place, and
    what is given to the program must then have been the sandbox's already. In a directory of the host's, mounted for
    writing, that could be one of the host's.
    """
    if calls.statx(place).device != root.device:
        raise refusal(errno.ENOENT, "missing directories are only made where the disk quota counts")
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=place)
    except FileExistsError:
        ours = False
    else:
        ours = True
        made.append((os.dup(place), name))
    found = open_entry(place, name)
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode) or calls.statx(found).device != root.device:
            raise refusal(errno.ENOTDIR)
        if ours:
            with closing(reopen(found, os.O_RDONLY | os.O_DIRECTORY)) as directory:
                _give(directory, writing.owner, DIRECTORY_MODE)
        return found
    except BaseException:
        os.close(found)
        raise
