"""From a path to a descriptor, in the sandbox's own root, by the kernel and never by string.

The program is hostile and changes what a path leads to while it is looked up. So each path is resolved by one call of
openat2(2) with RESOLVE_IN_ROOT: links, absolute ones and "..", too, end in the sandbox's root. RESOLVE_NO_MAGICLINKS
refuses the links of /proc, which lead anywhere. What comes of it is a descriptor, and all that follows uses that.

Two places are closed. Files of procfs and its like are conversations with the kernel: what they tell depends on who
reads, and to read some of them blocks. And the quota's own mount, closed to programs, has the same directories again,
where nothing keeps the places that they are bound to from being removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from nsbox._errors import SandboxError, file_operation_error
from nsbox._files import calls

_INSIDE = calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS
_NO_MOUNT = -1
_TRIES = 100
"""openat2(2) says EAGAIN where something was renamed during a lookup with "..": to be tried again, not for ever."""

_DETAILS = {
    errno.ELOOP: "a loop of symbolic links, or a link that is not followed here",
    errno.EROFS: "this place is read-only in the sandbox",
    errno.ENOSPC: "the sandbox's disk quota is used up, in bytes or in files",
    errno.EAGAIN: "what the path leads to kept changing",
    errno.ENXIO: "not a regular file",
}


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """What the kernel refuses in here is told as the error of the file API about `path`, the sandbox's own name.

    Raises:
        FileOperationError: Of the class that fits the errno.
    """
    try:
        yield
    except SandboxError:  # said already
        raise
    except OSError as exc:
        code = exc.errno or errno.EIO
        said = exc.strerror or ""
        raise file_operation_error(path, code, _DETAILS.get(code, "") if said == os.strerror(code) else said) from exc


def refusal(code: int, detail: str = "") -> OSError:
    """What is refused as the kernel would, with more to say about it; `named` makes the caller's error of it."""
    return OSError(code, detail or os.strerror(code))


def to_bytes(path: str) -> bytes:
    """A path as the kernel takes it, whatever the locale is."""
    return path.encode("utf-8", "surrogateescape")


def to_text(name: bytes) -> str:
    """A name as the caller gets it; bytes that are no UTF-8 are escaped, and come back by `to_bytes`."""
    return name.decode("utf-8", "surrogateescape")


def absolute(path: str, directory: str) -> str:
    """A path of the caller's as one from the root; a relative one is below `directory`.

    ".." stays: what it means is for the kernel to find out.
    """
    parts = [
        part for part in (path if path.startswith("/") else f"{directory}/{path}").split("/") if part not in ("", ".")
    ]
    return "/" + "/".join(parts)


def join(directory: str, name: str) -> str:
    """A name below a directory."""
    return f"{directory.rstrip('/')}/{name}"


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """A descriptor that is closed afterwards."""
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(slots=True)
class Root:
    """A sandbox's root directory, with descriptors of its own: as a context manager it closes them.

    Attributes:
        fd: The root directory (O_PATH).
        closed_mount: The id of the mount that nothing is resolved in.
        device: That of the file system that everything writable is in, as `Status.device`.
        member: Where this process' user has no right over the files of programs, the pidfd of a process in a user
            namespace of his that has; else -1.
    """

    fd: int
    closed_mount: int
    device: tuple[int, int]
    member: int = -1

    @classmethod
    def duplicate(cls, root: int, quota: str, member: int = -1, *, closed: bool = True) -> Self:
        """Of descriptors that somebody else may close at any time.

        Args:
            root: The root directory.
            quota: Where the file system that everything writable is in is mounted itself: not a program's to change.
            member: As the attribute.
            closed: Whether nothing is resolved in there. False: `quota` is a place that programs use, and the mount of
                the whole is hidden by another, so that no path leads to it.

        Raises:
            OSError: This process may have no more open.
        """
        own = os.dup(root)
        try:
            with closing(retried(own, to_bytes(quota), os.O_PATH | os.O_DIRECTORY, _INSIDE)) as place:
                status = calls.statx(place)
            return cls(own, status.mount if closed else _NO_MOUNT, status.device, os.dup(member) if member >= 0 else -1)
        except BaseException:
            os.close(own)
            raise

    def close(self) -> None:
        """Close the descriptors; a second time, nothing."""
        for fd in (self.fd, self.member):
            if fd >= 0:
                os.close(fd)
        self.fd = self.member = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def open(self, path: bytes, flags: int = 0) -> int:
        """The O_PATH descriptor of what a path leads to.

        Args:
            path: From the root.
            flags: O_DIRECTORY, O_NOFOLLOW.

        Raises:
            OSError: As the kernel says; EACCES for a place that is closed here.
        """
        fd = retried(self.fd, path, os.O_PATH | flags, _INSIDE)
        try:
            self.admit(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def admit(self, fd: int) -> None:
        """Refuse what is closed here.

        Raises:
            OSError: EACCES.
        """
        if calls.is_pseudo(fd):
            raise refusal(errno.EACCES, "the file API does not enter /proc and its like")
        if calls.statx(fd).mount == self.closed_mount:
            raise refusal(errno.EACCES, "this place is nsbox's own")

    def open_parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory that an entry is in, as an O_PATH descriptor, and the entry's name there.

        Raises:
            OSError: As `open`; EBUSY for the root, EINVAL for "..".
        """
        parent, _, name = path.rpartition(b"/")
        if not name:
            raise refusal(errno.EBUSY, "the root of the sandbox")
        if name == b"..":
            raise refusal(errno.EINVAL, "the last part must be a name")
        return self.open(parent or b"/", os.O_DIRECTORY), name


def retried(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """`calls.open_at`, again where the kernel says so.

    Raises:
        OSError: As the kernel says.
    """
    for _ in range(_TRIES):
        try:
            return calls.open_at(directory, path, flags, resolve)
        except BlockingIOError:  # EAGAIN
            continue
    return calls.open_at(directory, path, flags, resolve)


def open_entry(directory: int, name: bytes) -> int:
    """The O_PATH descriptor of an entry itself: a link is not followed.

    The kernel keeps whoever is in another mount namespace neither from removing a mount point nor from renaming
    something over it: it only looks at the mounts of the caller's namespace (unlink(2) since Linux 3.18). Whoever
    changes an entry asks for it here first; a program cannot make a mount point of it meanwhile.

    Raises:
        OSError: ENOENT; EBUSY where something is mounted on it.
    """
    try:
        return calls.open_at(
            directory, name, os.O_PATH | os.O_NOFOLLOW, calls.RESOLVE_NO_XDEV | calls.RESOLVE_NO_MAGICLINKS
        )
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise refusal(errno.EBUSY, "something is mounted there") from exc
        raise


def reopen(fd: int, flags: int) -> int:
    """What an O_PATH descriptor is of, opened in truth; a name is not looked up again.

    Raises:
        OSError: As the kernel says.
    """
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def reopen_file(fd: int) -> int:
    """The same for reading, for a regular file only: opening a FIFO blocks, opening a device can do anything.

    Raises:
        OSError: EISDIR, or ENXIO for what else is no regular file.
    """
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
        raise refusal(code)
    return reopen(fd, os.O_RDONLY)


def owner_of_programs(root: Root, home: str) -> tuple[int, int]:
    """Uid and gid of the sandbox's programs on the host: of their home directory, on which something is mounted, so
    that no program can put another in its place.

    Raises:
        OSError: As the kernel says.
    """
    with closing(root.open(to_bytes(home), os.O_DIRECTORY | os.O_NOFOLLOW)) as place:
        status = os.fstat(place)
        return status.st_uid, status.st_gid
