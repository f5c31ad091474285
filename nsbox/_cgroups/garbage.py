"""Base directories whose owner is dead: found, emptied, removed."""

import os
from collections.abc import Iterator
from pathlib import Path

from nsbox._cgroups.base import lock, remove_subtree
from nsbox._cgroups.discover import read_mounts
from nsbox._cgroups.model import BASE_NAME
from nsbox._errors import SetupError

MAX_DIRECTORIES = 4096
"""How many cgroups of a hierarchy are looked at, nearest the root first; about 20 µs each."""


def collect_garbage(*, seconds: float = 5.0, remove: bool = True) -> list[Path]:
    """Kill and remove what dead supervisors left, in every hierarchy we can see. Blocks; for the start, off the path.

    Whose lock is held is alive (see `base`), whatever the pid in the name says; those are never touched. So is what
    belongs to other users, and what cannot be removed: the next start tries again.

    Args:
        seconds: How long to wait for the processes of one directory to die.
        remove: False: only look.

    Returns:
        The base directories that were removed, or would be; v2 before v1.
    """
    return [base for mount in read_mounts() for base in _bases(mount.point) if _is_dead(base, seconds, remove=remove)]


def _bases(root: Path) -> Iterator[Path]:
    """Directories with the name of a base, breadth first, not looking into them, nor at more than MAX_DIRECTORIES."""
    queue, index = [root], 0
    while index < min(len(queue), MAX_DIRECTORIES):
        try:
            with os.scandir(queue[index]) as entries:
                directories = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, PermissionError):
            directories = []  # gone meanwhile, or another user's
        index += 1
        for directory in directories:
            if BASE_NAME.fullmatch(directory.name):
                yield directory
            else:
                queue.append(directory)


def _is_dead(base: Path, seconds: float, *, remove: bool) -> bool:
    try:
        descriptor = lock(base)
    except (FileNotFoundError, PermissionError):
        return False
    if descriptor is None:
        return False
    try:
        if remove:
            remove_subtree(base, seconds=seconds)
    except SetupError:
        return False
    finally:
        os.close(descriptor)
    return True
