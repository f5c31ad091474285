"""What there is on the host to build a root from. Reads only; a plan is made from what was found here."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nsbox._errors import ConfigError, UnsupportedHostError

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class HostEntry:
    """Something at a path of the host: what the launcher must find there, too.

    Attributes:
        path: Without symbolic links on the way.
        device: st_dev; with `inode` it tells whether it is still the same file.
        inode: st_ino.
        is_directory: Otherwise it is a file, or a device.
    """

    path: str
    device: int
    inode: int
    is_directory: bool


def look(path: str | os.PathLike[str]) -> HostEntry | None:
    """What is at `path`, links followed; None where nothing is."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real, follow_symlinks=False)
    except OSError:
        return None
    return HostEntry(real, found.st_dev, found.st_ino, stat.S_ISDIR(found.st_mode))


def look_for_mount(path: Path) -> HostEntry:
    """What a `Mount` names.

    Raises:
        ConfigError: Nothing is there.
    """
    found = look(path)
    if found is None:
        raise ConfigError(f"mount.source={str(path)!r}: must exist on the host and be reachable")
    return found


def look_for_device(name: str, major: int, minor: int) -> HostEntry:
    """A device of /dev that is what its name says: a bind mount of anything else must not end up in a sandbox.

    Raises:
        UnsupportedHostError: It is missing, or something else.
    """
    found = look(f"/dev/{name}")
    status = os.stat(found.path) if found else None
    expected = os.makedev(major, minor)
    if found is None or status is None or not stat.S_ISCHR(status.st_mode) or status.st_rdev != expected:
        raise UnsupportedHostError(
            f"/dev/{name} is not the character device {major}:{minor}",
            missing=(f"/dev/{name}",),
            remedies=(f"mknod -m 666 /dev/{name} c {major} {minor}",),
        )
    return found


def interpreter_prefixes() -> tuple[tuple[str, HostEntry], ...]:
    """Where this process' own Python and its packages are: path as the interpreter names it, and what is there.

    What lies in /usr, or in another of them, is left out: it is there already.
    """
    prefixes: list[tuple[str, HostEntry]] = []
    for prefix in (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix):
        found = look(prefix)
        path = os.path.normpath(prefix)
        if found is None or is_below(path, "/usr") or any(is_below(path, other) for other, _ in prefixes):
            continue
        prefixes = [(other, entry) for other, entry in prefixes if not is_below(other, path)]
        prefixes.append((path, found))
    return tuple(prefixes)


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory`, or in it. By name only."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def root_directory(rootfs: Path) -> HostEntry:
    """The directory that `rootfs` names.

    Raises:
        ConfigError: It is no directory, or has no /usr or /bin to run anything from.
    """
    found = look(rootfs)
    if found is None or not found.is_directory:
        raise ConfigError(f"rootfs={str(rootfs)!r}: must be 'host' or a directory with a root file system")
    if not any(os.path.isdir(os.path.join(found.path, name)) for name in ("usr", "bin")):
        raise ConfigError(f"rootfs={str(rootfs)!r}: must hold a root file system, yet there is neither usr nor bin")
    return found


def mounts_below(directory: str) -> tuple[str, ...]:
    """Where the host has something mounted below `directory`, outer ones first; proc_pid_mountinfo(5)."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            fields = [line.split(b" ")[4] for line in file]
    except OSError:
        return ()
    points = {os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)) for field in fields}
    return tuple(sorted(point for point in points if point != directory and is_below(point, directory)))


def read_text_beneath(directory: str, name: str) -> str:
    """A file of a root file system, not followed out of it; "" where there is none. At most 1 MiB."""
    path = os.path.realpath(os.path.join(directory, name))
    if not is_below(path, directory):
        return ""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def readable_by_all(paths: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Those that are not for root alone, and whether each is a directory; one that is not there may be elsewhere."""
    for path in paths:
        try:
            mode = os.stat(path, follow_symlinks=False).st_mode
        except OSError:
            mode = 0o444
        if mode & 0o007:
            yield path, stat.S_ISDIR(mode)
