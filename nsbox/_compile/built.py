"""The files that a compiler has left behind. The compiler ran hostile source: nothing about them is trusted.

Its processes are dead by now, so nothing changes under our hands. Names are read from directories that are open, links
are not followed, and only regular files and directories are taken, up to a number and a size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

MOST_FILES = 500
"""Of one program; with their directories they have to fit beside others into the sandbox' place for texts."""
MOST_BYTES = 48 << 20
_MOST_PREPARED_FILES = 100_000
_MOST_PREPARED_BYTES = 1 << 30
_DEEPEST = 16
_PIECE = 1 << 20


class ResultError(Exception):
    """What a compiler left is nothing that can be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFile:
    """One file of a compiled program.

    Attributes:
        path: Below the output directory: relative, without "..".
        executable: Whether it may be executed.
        content: All of it.
    """

    path: str
    executable: bool
    content: bytes | memoryview


def read_tree(directory: int) -> list[BuiltFile]:
    """A compiled program. May block.

    Args:
        directory: The output directory, open; stays open.

    Raises:
        ResultError: Too much, or something that is neither file nor directory, or not to be read.
    """
    found = []
    for path, fd, status in _walk(directory, MOST_FILES, MOST_BYTES):
        if fd is None:
            continue
        with os.fdopen(fd, "rb") as file:
            content = file.read(status.st_size)
        found.append(BuiltFile(path=path, executable=bool(status.st_mode & 0o100), content=content))
    return found


def copy_tree(directory: int, target: str) -> int:
    """Copy what was prepared for later compilations to the host's `target`, which is there and empty. May block.

    Returns:
        Bytes.

    Raises:
        ResultError: As `read_tree`, with larger bounds.
        OSError: The target cannot be written.
    """
    total = 0
    for path, fd, status in _walk(directory, _MOST_PREPARED_FILES, _MOST_PREPARED_BYTES):
        full = os.path.join(target, path)
        if fd is None:
            os.mkdir(full)
            continue
        with os.fdopen(fd, "rb") as file:
            with open(full, "xb") as copy:
                while piece := file.read(_PIECE):
                    copy.write(piece)
                os.fchmod(copy.fileno(), 0o755 if status.st_mode & 0o100 else 0o644)
            os.utime(full, ns=(status.st_mtime_ns, status.st_mtime_ns))
        total += status.st_size
    for place, _, _ in os.walk(target):
        os.chmod(place, 0o755)
    return total


def _walk(directory: int, most_files: int, most_bytes: int) -> Iterator[tuple[str, int | None, os.stat_result]]:
    """Each file: its path, a descriptor that becomes the caller's, and its status; a directory, before what is in it:
    without a descriptor.
    """
    left = [most_files, most_bytes]
    yield from _walk_below(directory, "", os.fstat(directory).st_dev, left, 0)


def _walk_below(
    directory: int, prefix: str, device: int, left: list[int], depth: int
) -> Iterator[tuple[str, int | None, os.stat_result]]:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for _, entry in zip(range(left[0] + 1), entries, strict=False))
    for name in names:
        path = prefix + name
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if status.st_dev != device:
            continue  # a mount of the caller's
        left[0] -= 1
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory:
            if not stat.S_ISREG(status.st_mode):
                raise ResultError(f"{path!r} is neither a file nor a directory")
            left[1] -= status.st_size
        if left[0] < 0 or left[1] < 0 or depth > _DEEPEST or not path.isprintable():
            raise ResultError("there are too many files, or too large ones")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECTORY if is_directory else 0)
        try:
            fd = os.open(name, flags, dir_fd=directory)
        except OSError as exc:
            raise ResultError(f"{path!r} cannot be read ({exc.strerror})") from exc
        if not is_directory:
            yield path, fd, status
            continue
        try:
            yield path, None, status
            yield from _walk_below(fd, f"{path}/", device, left, depth + 1)
        finally:
            os.close(fd)
