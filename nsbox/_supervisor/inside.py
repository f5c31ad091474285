"""Reading a small file of a sandbox, whose programs are hostile and may be writing it just now."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

_OPENAT2 = 437  # the same on every architecture
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_RESOLVE_NO_SYMLINKS = 0x04  # magic links too
_RESOLVE_IN_ROOT = 0x10
_CHUNK = 1 << 16


def read_inside(root: int, path: str, most: int) -> bytes:
    """The first `most` bytes of a regular file below a sandbox's root; b"" where there is none. Does not block on it.

    No link is followed (openat2(2)): this process may read what nobody inside may, a mounted file or one of /proc,
    whose reading can even have an effect. What is no regular file, a FIFO or a device, is not opened for reading.

    Args:
        root: The sandbox's root directory, `Cell.root`.
        path: A path inside.
        most: How many bytes.
    """
    try:
        found = _open(root, path, os.O_PATH)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return b""
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    finally:
        os.close(found)
    try:
        parts: list[bytes] = []
        while most > 0 and (part := os.read(fd, min(most, _CHUNK))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _open(root: int, path: str, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    how = ctypes.create_string_buffer(
        _HOW.pack(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS), _HOW.size
    )
    fd: int = libc.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_long(root), ctypes.c_char_p(os.fsencode(path)), how,
        ctypes.c_size_t(_HOW.size),
    )  # fmt: skip
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
