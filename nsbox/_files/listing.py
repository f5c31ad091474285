"""What a file is, and what is in a directory."""

from __future__ import annotations

import errno
import mimetypes
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from nsbox._files import calls
from nsbox._files.resolve import Root, closing, join, named, refusal, reopen, to_bytes, to_text
from nsbox._records import FileInfo

MOST_ENTRIES = 1_000_000
"""More than that in one directory are not listed: each takes about half a kilobyte of the application's memory."""

_STRIDE = 256  # entries between two looks at whether the caller still wants them
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def list_directory(root: Root, path: str, check: Callable[[], object]) -> list[FileInfo]:
    """The entries of a directory, sorted by name. Links are themselves, not what they lead to.

    Args:
        root: The sandbox's.
        path: Absolute; the directory itself may be a link.
        check: Called now and then; what it raises ends the listing.

    Raises:
        FileOperationError: The path is no directory, or has more than MOST_ENTRIES entries.
    """
    with named(path), closing(root.open(to_bytes(path), os.O_DIRECTORY)) as place:
        with closing(reopen(place, os.O_RDONLY | os.O_DIRECTORY)) as directory:
            names = _names(directory, check)
        found = []
        for index, name in enumerate(names):
            if index % _STRIDE == 0:
                check()
            try:
                status = calls.statx(place, name)
            except FileNotFoundError:
                continue  # gone meanwhile
            found.append(describe(join(path, to_text(name)), status))
    return found


def _names(directory: int, check: Callable[[], object]) -> list[bytes]:
    names = []
    with os.scandir(directory) as entries:
        for index, entry in enumerate(entries):
            if index % _STRIDE == 0:
                check()
            if index >= MOST_ENTRIES:
                raise refusal(errno.EOVERFLOW, f"more than {MOST_ENTRIES} entries")
            names.append(os.fsencode(entry.name))  # a descriptor's names come as str, whatever the locale makes of them
    return sorted(names)


def describe(path: str, status: calls.Status) -> FileInfo:
    """A status as the caller gets it.

    Args:
        path: Absolute.
        status: Of it.
    """
    kind = _kind(status.mode)
    name = path.rpartition("/")[2] or "/"
    return FileInfo(
        path=path,
        name=name,
        size=status.size,
        type=kind,
        mime_type=mime_type(name) if kind == "file" else None,
        permissions=stat.filemode(status.mode)[1:],
        created_at=moment(*status.born),
        modified_at=moment(*status.modified),
    )


def _kind(mode: int) -> Literal["file", "directory", "symlink", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def mime_type(name: str) -> str | None:
    """The MIME type that a file's name suggests; None where it suggests none. The content is not looked at."""
    guessed, encoding = mimetypes.guess_type(f"/{name}")  # the slash keeps a name with a colon from being a URL
    return guessed if encoding is None else _COMPRESSED.get(encoding)


def moment(seconds: int, nanoseconds: int) -> datetime:
    """A time as a datetime; the nearest one where none holds it, for the owner of a file can set any 64-bit number."""
    try:
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
    except OverflowError:
        return _LATEST if seconds > 0 else _EARLIEST
