"""What SQLite refuses, as an error that says whose fault it is and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3

from nsbox._errors import ConfigError, SandboxError, SetupError

BUSY_SECONDS = 5.0
"""How long another process may hold the file before that is an error."""

_STAGE = "store"


def check_place(path: str) -> None:
    """Check what is known of a path without opening it.

    Raises:
        ConfigError: It is no file, or its directory is not there.
    """
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise ConfigError(f"store={path!r}: there is no directory {directory!r}; make it first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"store={path!r}: must be a file, and is none")


def translate(path: str, error: Exception) -> SandboxError:
    """The error that goes up for what SQLite or the kernel said about a store."""
    if isinstance(error, SandboxError):
        return error
    if isinstance(error, OSError):
        return SetupError(_STAGE, error.errno or errno.EIO, error.strerror or "", path)
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # extended codes: sqlite.org/rescode.html
    if primary == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"store={path!r}: is no SQLite database; name another file")
    if primary == sqlite3.SQLITE_CORRUPT:
        return ConfigError(f"store={path!r}: is damaged ({error}); move it away, or repair it by sqlite3's .recover")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        text = f"another process has held it locked for {BUSY_SECONDS:g} seconds"
        return SetupError(_STAGE, errno.EBUSY, text, path)
    number = {
        sqlite3.SQLITE_FULL: errno.ENOSPC,
        sqlite3.SQLITE_READONLY: errno.EACCES if not os.access(path, os.W_OK) else errno.EROFS,
        sqlite3.SQLITE_CANTOPEN: errno.EACCES,
        sqlite3.SQLITE_PERM: errno.EACCES,
        sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    }.get(primary, errno.ENOSPC if _is_full(path) else errno.EIO)  # growing the index of the log says only IOERR
    return SetupError(_STAGE, number, f"{os.strerror(number)} ({error})", path)


def _is_full(path: str) -> bool:
    try:
        found = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return False
    return found.f_blocks > 0 and (found.f_bavail == 0 or found.f_favail == 0 < found.f_files)
