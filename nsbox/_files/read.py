"""Reading a file, with a bound on what is read."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable

from nsbox._errors import FileOperationError
from nsbox._files.resolve import Root, closing, named, refusal, reopen_file, to_bytes

MIB = 1 << 20
CHUNK_BYTES = MIB


def too_large(limit_mb: int) -> OSError:
    """What a file that is larger than the caller allows is refused with."""
    return refusal(errno.EFBIG, f"larger than max_size_mb={limit_mb}")


def read_file(root: Root, path: str, limit_mb: int, check: Callable[[], object]) -> bytes:
    """The content of a regular file, held once.

    What counts is what is read, not the size that the file has at some moment: it may grow meanwhile.

    Args:
        root: The sandbox's.
        path: Absolute; a link is followed, within the root.
        limit_mb: The most to read, in MiB.
        check: Called before each MiB; what it raises ends the reading.

    Raises:
        FileOperationError: It is no regular file, or larger than the limit; nothing is kept.
    """
    with named(path):
        with closing(root.open(to_bytes(path))) as place:
            file = reopen_file(place)
        with closing(file):
            limit = limit_mb * MIB
            if os.fstat(file).st_size > limit:
                raise too_large(limit_mb)
            read = io.BytesIO()
            while chunk := os.read(file, min(CHUNK_BYTES, limit - read.tell() + 1)):
                read.write(chunk)
                if read.tell() > limit:
                    raise too_large(limit_mb)
                check()
            return read.getvalue()  # the buffer itself, not a copy of it


def open_local(path: str, limit_mb: int) -> int:
    """A regular file of this machine's, for reading. Nothing else is opened, for that could block.

    Args:
        path: On this machine.
        limit_mb: The largest that it may be, in MiB.

    Raises:
        FileOperationError: There is no such file, or it is none, or larger; the path in it is this machine's.
    """
    try:
        with named(path), closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as place:
            if os.fstat(place).st_size > limit_mb * MIB:
                raise too_large(limit_mb)
            return reopen_file(place)
    except FileOperationError as exc:
        exc.detail = f"{exc.detail}; the local file" if exc.detail else "the local file"
        raise
