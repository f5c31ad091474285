"""The v2 hierarchy: which parent can give us controllers, and making the base directory below it.

The rules that decide (admin-guide/cgroup-v2.rst): a controller is there in a cgroup when its parent enabled it in
cgroup.subtree_control; a cgroup other than the root that holds processes cannot enable any ("no internal processes");
for a user other than root, cloning into a cgroup needs write access to cgroup.procs of the common ancestor.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nsbox._cgroups.base import is_exhausted, make_base
from nsbox._cgroups.discover import CgroupMount

NEEDED = ("memory", "pids", "cpu")
ON_DEMAND = ("cpuset", "io")
"""Enabled when the first sandbox asks: each costs every sandbox's mkdir, and enabling shows in the siblings too."""

LEAF_NAME = "nsbox-app"
"""Where this process goes when it was asked to make room in its own cgroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A directory that could hold our base, and what it could give.

    Attributes:
        path: The directory.
        controllers: Of NEEDED and ON_DEMAND: enabled for its children, or such that we can enable them.
        problem: Why it cannot be used at all, or why needed controllers are missing; "" when nothing is wrong.
        usable: Whether a base can be made in it, if only to freeze and kill.
    """

    path: Path
    controllers: frozenset[str]
    problem: str
    usable: bool


def candidates(mount: CgroupMount, hint: Path | None) -> Iterator[Path]:
    """Directories to look at, best first: the hint alone; else our own cgroup, those above, the children of ours."""
    if hint is not None:
        yield hint
        return
    yield from mount.upwards()
    own = next(mount.upwards(), None)
    if own is not None:
        with os.scandir(own) as entries:
            yield from sorted(
                Path(entry.path)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("nsbox-")
            )


def examine(mount: CgroupMount, path: Path) -> Parent:
    """What `path` could give, by reading only."""
    if not os.access(path, os.W_OK | os.X_OK):
        return _useless(path, "not writable")
    if "threaded" in _words(path / "cgroup.type"):
        return _useless(path, "threaded")
    common = _common_ancestor(mount, path) / "cgroup.procs"
    if not os.access(common, os.W_OK):
        return _useless(path, f"this process is outside of it and may not write {common}")
    enabled = _words(path / "cgroup.subtree_control")
    available = _words(path / "cgroup.controllers")
    real_root = not (path / "cgroup.type").exists()  # the one cgroup without that file, and exempt from the rule
    blocked = ""
    if not os.access(path / "cgroup.subtree_control", os.W_OK):
        blocked = "its cgroup.subtree_control is not writable"
    elif not real_root and _words(path / "cgroup.procs"):
        blocked = "it holds processes, so it cannot enable controllers"
    usable = (enabled if blocked else enabled | available) & frozenset(NEEDED + ON_DEMAND)
    missing = set(NEEDED) - usable
    if not missing:
        problem = ""
    elif missing & available:
        problem = blocked
    else:
        problem = f"it has only the controllers {', '.join(sorted(available)) or '(none)'}"
    return Parent(path=path, controllers=usable, problem=problem, usable=True)


def _useless(path: Path, problem: str) -> Parent:
    return Parent(path=path, controllers=frozenset(), problem=problem, usable=False)


def choose(parents: Iterable[Parent]) -> Parent | None:
    """The parent that gives most of the needed controllers; the first of equals, which is the nearest."""
    best: Parent | None = None
    for parent in parents:
        if parent.usable and (best is None or _score(parent) > _score(best)):
            best = parent
    return best


def make_unified_base(parent: Parent, names: Iterable[str]) -> tuple[Path, int, frozenset[str], dict[str, str]]:
    """Make and own our base below `parent` and enable what is needed on the way down.

    Returns:
        Path, descriptor, the controllers in force or to be had on demand, and for each needed one that the kernel
        refused, its words.

    Raises:
        OSError: The directory could not be made; nothing is left.
    """
    path, descriptor = make_base(parent.path, names, lambda path: path.mkdir())
    refused: dict[str, str] = {}
    for controller in NEEDED:
        if controller in parent.controllers:
            try:
                enable(path, controller)
            except OSError as exc:  # EBUSY: a process came in; EINVAL: cpu with real-time tasks (cgroup-v2.rst)
                if is_exhausted(exc):
                    os.close(descriptor)
                    path.rmdir()
                    raise
                refused[controller] = f"{exc.filename}: {exc.strerror}"
    return path, descriptor, parent.controllers.difference(refused), refused


def enable(base: Path, controller: str) -> None:
    """Make a controller available to the children of `base`, in its parent first; idempotent.

    Raises:
        OSError: The kernel refused, with the file's path.
    """
    for directory in (base.parent, base):
        file = directory / "cgroup.subtree_control"
        if controller in _words(file):
            continue
        try:
            file.write_text(f"+{controller}")
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(file)) from exc


def make_room(own: Path, *, others_too: bool) -> None:
    """Move this process out of its cgroup into a leaf below it, so that the cgroup can enable controllers.

    Args:
        own: The cgroup this process is in.
        others_too: Whether to move every process in it, which is only done when asked in so many words.

    Raises:
        OSError: The kernel refused, with the path.
    """
    leaf = own / LEAF_NAME
    leaf.mkdir(exist_ok=True)
    file = leaf / "cgroup.procs"
    for pid in sorted(_words(own / "cgroup.procs")) if others_too else ["0"]:
        try:
            file.write_text(pid)
        except ProcessLookupError:
            continue  # it ended meanwhile
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(file)) from exc


def _common_ancestor(mount: CgroupMount, path: Path) -> Path:
    own = mount.own if mount.own is not None else mount.point
    return next(above for above in (path, *path.parents) if own == above or above in own.parents)


def _score(parent: Parent) -> int:
    return len(parent.controllers & set(NEEDED))


def _words(file: Path) -> frozenset[str]:
    """The words of a file; none when it is not there or not readable, as cgroup.procs below a threaded cgroup."""
    try:
        return frozenset(file.read_text().split())
    except OSError as exc:
        if is_exhausted(exc):
            raise
        return frozenset()
