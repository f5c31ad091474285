"""Emptying a directory that programs have filled, without trusting anything in it.

Two descriptors are enough for a tree of any depth: what a directory holds of directories is first moved up to the top,
so that nothing has to be walked down and up again. Links are removed, never followed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from errno import ENOTEMPTY

import trio

from nsbox._errors import file_operation_error

_SECONDS = 30.0
_LOOK_AFTER = 256
_MODE = 0o1777  # of both places that are emptied
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def empty(quota: int, name: str, shown: str, keep: Collection[str] = ()) -> None:
    """Remove what a directory of the quota holds, in a thread.

    Cancellation waits for the next few hundred files, and leaves the rest.

    Args:
        quota: The root of the sandbox's file system.
        name: Of the directory in it.
        shown: Its path in the sandbox, for errors.
        keep: Names in it that stay.

    Raises:
        FileOperationError: Programs make new files faster than they are removed, or the kernel refused.
    """
    try:
        await trio.to_thread.run_sync(_empty, quota, name, frozenset(keep))
    except OSError as exc:
        raise file_operation_error(shown, exc.errno or ENOTEMPTY, "emptying it") from exc


def _empty(quota: int, name: str, keep: frozenset[str]) -> None:
    deadline = trio.from_thread.run_sync(trio.current_time) + _SECONDS
    top = _open_directory(quota, name)
    try:
        os.fchmod(top, _MODE)  # what a program has made of it
        removed = 0
        while names := [entry for entry in os.listdir(top) if entry not in keep]:
            for entry in names:
                _remove(top, entry)
                removed += 1
                if removed % _LOOK_AFTER == 0:
                    trio.from_thread.check_cancelled()
            if trio.from_thread.run_sync(trio.current_time) > deadline:
                raise OSError(ENOTEMPTY, os.strerror(ENOTEMPTY))
    finally:
        os.close(top)


def _remove(top: int, name: str) -> None:
    """One entry; of a directory what is in it, too, but for its directories, which are then entries of the top."""
    if _unlink(top, name):
        return
    try:
        inner = _open_directory(top, name)
    except (FileNotFoundError, NotADirectoryError):
        return  # it was replaced meanwhile: the next pass sees what it is now
    try:
        os.fchmod(inner, 0o700)
        for entry in os.listdir(inner):
            if not _unlink(inner, entry):
                _move(inner, entry, top)
    finally:
        os.close(inner)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as exc:  # filled again, or replaced: the next pass
        if not isinstance(exc, FileNotFoundError | NotADirectoryError) and exc.errno != ENOTEMPTY:
            raise


def _unlink(directory: int, name: str) -> bool:
    """False: it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        return True
    return True


def _move(directory: int, name: str, top: int) -> None:
    try:
        os.rename(name, f"nsbox-{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)
    except FileNotFoundError:
        return
    except PermissionError:  # moving a directory changes its "..": it has to be writable for who is not root
        _make_accessible(directory, name)
        os.rename(name, f"nsbox-{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)


def _open_directory(directory: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except PermissionError:
        _make_accessible(directory, name)
        return os.open(name, _DIRECTORY, dir_fd=directory)


def _make_accessible(directory: int, name: str) -> None:
    """Where files belong to the caller's own user and a program has taken away his rights: chmod without following."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
