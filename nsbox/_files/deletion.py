"""Deleting a file, a link, or a directory with all that is in it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Callable

from nsbox._files.resolve import Root, closing, named, open_entry, refusal, reopen, to_bytes

_BATCH = 256  # entries between two looks at whether the caller still wants it
_SPARE_STEPS = 30_000
_MOST_STEPS = 10_000_000  # where a file system does not count its files


def delete(root: Root, path: str, check: Callable[[], object]) -> None:
    """Remove what a path names: a link itself, a directory with everything in it.

    Neither the root nor anything on which something is mounted, nor a directory that has such a thing in it.

    Args:
        root: The sandbox's.
        path: Absolute. Links on the way are followed, within the root.
        check: Called now and then; what it raises ends the work, and a part of a directory may be gone by then.

    Raises:
        FileOperationError: It is not there, or cannot be removed; `detail` says where a part of it is gone.
    """
    with named(path):
        parent, name = root.open_parent(to_bytes(path))
        with closing(parent):
            with closing(open_entry(parent, name)) as entry:
                is_directory = stat.S_ISDIR(os.fstat(entry).st_mode)
                if not is_directory:
                    os.unlink(name, dir_fd=parent)  # EISDIR, should a directory have come in its place
                    return
                tree = _Tree(entry, check)
            try:
                tree.empty()
                os.rmdir(name, dir_fd=parent)
            except OSError as exc:
                code = exc.errno or errno.EIO
                detail = exc.strerror or os.strerror(code)
                raise refusal(code, f"{detail}; a part of it is gone" if tree.removed else detail) from exc
            finally:
                tree.close()


class _Tree:
    """A directory that is being emptied: at any depth with few descriptors, and without a recursion.

    A directory in it that is not empty itself loses its files, and its own directories move up to the top, under new
    names. So nothing is ever deeper than two levels, however deep it was. Every step is by descriptor and name; what
    the program puts in the place of a name meanwhile is removed itself or refused, but never followed. Files that it
    adds are removed as well, up to twice as many as there were in the beginning.

    Args:
        entry: The directory, O_PATH.
        check: As of `delete`.
    """

    def __init__(self, entry: int, check: Callable[[], object]) -> None:
        self._fd = _open_directory(entry)
        self._check = check
        self._steps = 0
        self.removed = 0
        self._most = most_steps(self._fd)

    def close(self) -> None:
        """Close its descriptor."""
        os.close(self._fd)

    def empty(self) -> None:
        """Remove everything in it.

        Raises:
            OSError: As the kernel says; EBUSY where something is mounted, or the program adds as fast as this removes.
        """
        while names := self._some(self._fd):
            for name in names:
                self._remove(name)

    def _some(self, directory: int) -> list[bytes]:
        self._check()
        with os.scandir(directory) as entries:
            return [os.fsencode(entry.name) for entry in itertools.islice(entries, _BATCH)]

    def _remove(self, name: bytes) -> None:
        try:
            with closing(open_entry(self._fd, name)) as entry:
                if not stat.S_ISDIR(os.fstat(entry).st_mode):
                    self._unlink(self._fd, name)
                    return
                if self._rmdir(self._fd, name):
                    return
                with closing(_open_directory(entry)) as directory:
                    self._flatten(directory)
            self._rmdir(self._fd, name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return  # it was changed meanwhile; if it is still there, the next look finds it

    def _flatten(self, directory: int) -> None:
        while names := self._some(directory):
            for name in names:
                try:
                    with closing(open_entry(directory, name)) as entry:
                        is_directory = stat.S_ISDIR(os.fstat(entry).st_mode)
                        if is_directory:
                            _unlock(entry)
                    if not is_directory:
                        self._unlink(directory, name)
                    elif not self._rmdir(directory, name):
                        self._step()
                        os.rename(name, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=self._fd)
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    continue

    def _unlink(self, directory: int, name: bytes) -> None:
        self._step()
        os.unlink(name, dir_fd=directory)
        self.removed += 1

    def _rmdir(self, directory: int, name: bytes) -> bool:
        """Whether a directory could be removed: it was empty."""
        self._step()
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        self.removed += 1
        return True

    def _step(self) -> None:
        self._steps += 1
        if self._steps > self._most:
            raise refusal(errno.EBUSY, "a program keeps adding to it; suspend the sandbox first")


def most_steps(directory: int) -> int:
    """How many steps a deletion may take: twice as many as all files of the file system would."""
    found = os.fstatvfs(directory)
    # Of a directory one step is to try, one to move it, one to remove it.
    return 6 * (found.f_files - found.f_ffree) + _SPARE_STEPS if found.f_files else _MOST_STEPS


def _open_directory(entry: int) -> int:
    _unlock(entry)
    return reopen(entry, os.O_RDONLY | os.O_DIRECTORY)


def _unlock(entry: int) -> None:
    """Let the owner of a directory read it, remove from it, and move it, whatever mode the program has given it."""
    if os.fstat(entry).st_mode & 0o700 != 0o700:
        with contextlib.suppress(OSError):  # what is not ours, or read-only, will say so where it matters
            os.chmod(f"/proc/self/fd/{entry}", 0o700)
