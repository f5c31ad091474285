"""Where the sockets of this user's supervisors are: a directory that nobody else can write to, or look into."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

SOCKET_NAME = re.compile(r"nsbox-(?P<pid>[1-9][0-9]*)-[0-9a-f]{8}\.sock(\.new)?")
"""`fullmatch` it. The pid is for people: whether the owner lives, the socket itself tells."""


def candidates() -> list[Path]:
    """The directories that may have them, the best first.

    XDG_RUNTIME_DIR is not everywhere, and a process started by cron(8) does not have it where a shell does.
    """
    uid = os.geteuid()
    if uid == 0:
        return [Path("/run/nsbox/supervisors")]
    found = [Path(f"/tmp/nsbox-{uid}")]  # noqa: S108  # checked for its owner and mode before anything is done in it
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        found.insert(0, Path(runtime) / "nsbox")
    return found


def open_directory(path: Path, *, make: bool) -> int:
    """Open one of them.

    Args:
        path: Which.
        make: Make it where it is not there.

    Returns:
        A descriptor, close-on-exec.

    Raises:
        OSError: It is not there, cannot be made, or is somebody else's, who could put there what he likes.
    """
    if make:
        if path.parent == Path("/run/nsbox"):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(1, "must be this user's alone, mode 0700", str(path))
    return fd


def remove_if_empty(path: Path) -> None:
    """What the last one leaves is nothing."""
    with contextlib.suppress(OSError):  # ENOTEMPTY: others are using it
        path.rmdir()
