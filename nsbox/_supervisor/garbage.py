"""What dead applications left: found, and removed.

Nothing is judged by its age or by a pid. Who lives holds something that the kernel takes away at his death: the lock of
a cgroup directory, a socket that listens, the lock of a directory for temporary files, an open file. Loop devices are
not here: they free themselves when nobody has them open or mounted (LO_FLAGS_AUTOCLEAR).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nsbox._cgroups import collect_garbage, lock
from nsbox._supervisor.census import dead_sockets

_DIRECTORY = re.compile(r"nsbox-[1-9][0-9]*-[0-9a-f]{16}-[a-z0-9_]{8}")
_IMAGE = re.compile(r"nsbox-image-[a-z0-9_]{8}")
_MOST_ENTRIES = 50_000  # of /tmp: a second at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Something that was left.

    Attributes:
        kind: "cgroup", "socket", "directory" or "file".
        path: Where it is, or was.
    """

    kind: str
    path: Path


def collect(*, remove: bool = True) -> list[Garbage]:
    """Find what dead applications of this user left. Blocks, for seconds where much is to be killed.

    What cannot be removed is left for the next time, and not in the list.

    Args:
        remove: Remove it, too.
    """
    found = [Garbage(kind="cgroup", path=path) for path in collect_garbage(remove=remove)]
    found += [Garbage(kind="socket", path=path) for path in dead_sockets(remove=remove)]
    return found + list(_temporary(remove=remove))


@contextmanager
def temporary_directory(name: str) -> Iterator[Path]:
    """A directory for temporary files, removed afterwards, or by a later `collect`.

    Args:
        name: "nsbox-<pid>-<16 hexadecimal digits>".
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        descriptor = lock(path)
        if descriptor is not None:
            break  # else a collector has met it before it was locked
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _temporary(*, remove: bool) -> Iterator[Garbage]:
    place = Path(tempfile.gettempdir())
    with os.scandir(place) as entries:
        names = [entry.name for entry in islice(entries, _MOST_ENTRIES) if entry.name.startswith("nsbox-")]
    for name in names:
        path = place / name
        try:
            found = path.lstat()
            if found.st_uid != os.geteuid():
                continue  # in /tmp everybody may make what is called like ours
            if _DIRECTORY.fullmatch(name) and stat.S_ISDIR(found.st_mode) and _remove_directory(path, remove=remove):
                yield Garbage(kind="directory", path=path)
            elif _IMAGE.fullmatch(name) and stat.S_ISREG(found.st_mode) and _remove_image(path, remove=remove):
                yield Garbage(kind="file", path=path)
        except OSError:
            continue  # gone meanwhile, or not to be removed


def _remove_directory(path: Path, *, remove: bool) -> bool:
    descriptor = lock(path)
    if descriptor is None:
        return False
    try:
        if remove:
            shutil.rmtree(path)
    finally:
        os.close(descriptor)
    return True


def _remove_image(path: Path, *, remove: bool) -> bool:
    """A disk image that was to lose its name at once. A lease is given only where nobody has it open (fcntl(2))."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        if remove:
            path.unlink()
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False  # in use, or no leases on this file system
    finally:
        os.close(fd)
    return True
