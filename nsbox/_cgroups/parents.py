"""Which v2 directory the base goes below: what was asked for, what is found, and what to say when nothing will do."""

import os
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Self

from nsbox._cgroups.discover import CgroupMount
from nsbox._cgroups.lacks import Lack
from nsbox._cgroups.unified import LEAF_NAME, NEEDED, Parent, candidates, choose, examine, make_room
from nsbox._errors import ConfigError, UnsupportedHostError

PARENT_VARIABLE = "NSBOX_CGROUP"
MOVE_VARIABLE = "NSBOX_CGROUP_MOVE"


class Move(StrEnum):
    """Which processes may be moved into a leaf, so that their cgroup can enable controllers."""

    NOTHING = "nothing"
    SELF = "self"
    ALL = "all"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the environment variable: "" or 0, 1, all.

        Raises:
            ConfigError: Anything else.
        """
        known = {"": cls.NOTHING, "0": cls.NOTHING, "1": cls.SELF, "all": cls.ALL}
        if text not in known:
            raise ConfigError(f"{MOVE_VARIABLE}={text!r}: allowed are 0, 1 and all")
        return known[text]


def choose_parent(mount: CgroupMount, hint: str | None, move: Move) -> Parent | None:
    """The parent to use; moves processes first when that is allowed and nothing else gives all controllers.

    Returns:
        The best parent; when none is usable the nearest one, whose `problem` says why; None without any.

    Raises:
        UnsupportedHostError: `hint` was given and cannot be used.
        ConfigError: `hint` cannot be a cgroup.
        OSError: A process could not be moved.
    """
    hinted = None if hint is None else hinted_directory(mount, hint)
    examined = [examine(mount, path) for path in candidates(mount, hinted)]
    best = choose(examined)
    if move is not Move.NOTHING and hinted is None and (best is None or not set(NEEDED) <= best.controllers):
        own = next(mount.upwards(), None)
        if own is not None and own.name != LEAF_NAME and os.access(own, os.W_OK):
            make_room(own, others_too=move is Move.ALL)
            best = choose([examine(mount, own), *([] if best is None else [best])])
    if hinted is not None and best is None:
        lack = why_none(mount, examined[0])
        raise UnsupportedHostError(
            f"the cgroup {hinted} that was asked for cannot be used: {lack.why}",
            missing=("cgroup_freeze", "cgroup_kill"),
            remedies=(lack.remedy,),
        )
    return best if best is not None else next(iter(examined), None)


def hinted_directory(mount: CgroupMount, hint: str) -> Path:
    """The directory that a hint means: a path below the mount point, or a cgroup path.

    Raises:
        ConfigError: It is not absolute, or has a ".." in it.
        UnsupportedHostError: There is no such cgroup.
    """
    if not hint.startswith("/") or ".." in PurePosixPath(hint).parts or "\0" in hint:
        raise ConfigError(f"cgroup_parent={hint!r}: must be an absolute path without '..', of a directory below "
                          f"{mount.point} or of a cgroup as in /proc/self/cgroup")  # fmt: skip
    directory = Path(hint) if Path(hint).is_relative_to(mount.point) else mount.point / hint.lstrip("/")
    if not (directory / "cgroup.procs").exists():
        raise UnsupportedHostError(
            f"the cgroup {directory} that was asked for does not exist",
            missing=("cgroup_freeze", "cgroup_kill"),
            remedies=(f"mkdir {directory}",),
        )
    return directory


def hinted_cgroup(mount: CgroupMount, hint: str | None) -> str | None:
    """The path of a hinted cgroup relative to any mount point, for looking it up in the v1 hierarchies."""
    return None if hint is None else str(hinted_directory(mount, hint).relative_to(mount.point))


def why_none(mount: CgroupMount | None, parent: Parent | None, failure: OSError | None = None) -> Lack:
    """Why the v2 hierarchy gives nothing, or not everything, and what mends it on this kind of host."""
    if mount is None:
        point = "/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup"
        return Lack(
            why="no cgroup v2 hierarchy is mounted where this process can see it",
            remedy=f"as root: mkdir -p {point} && mount -t cgroup2 none {point}",
        )
    path = mount.point if parent is None else parent.path
    available = (mount.point / "cgroup.controllers").read_text().split()
    if failure is not None:
        why = f"{failure.filename or path}: {failure.strerror}"
    else:
        why = f"{path}: {parent.problem or 'no controller is missing'}" if parent is not None else f"{path}: gone"
    if os.statvfs(mount.point).f_flag & os.ST_RDONLY:
        remedy = f"mount it writable: mount -o remount,rw {mount.point}, or start the container with --privileged"
    elif os.access(path, os.W_OK) and "holds processes" in why:
        remedy = (
            f"set {MOVE_VARIABLE}=1 (this process may be moved to {path / LEAF_NAME}) or {MOVE_VARIABLE}=all (every "
            f"process of that cgroup), or name an empty cgroup by {PARENT_VARIABLE}"
        )
    elif Path("/run/systemd/system").is_dir():
        user = "" if os.geteuid() == 0 else "--user "
        remedy = f"start the program by: systemd-run {user}--scope -p Delegate=yes -- COMMAND"
    else:
        # Delegation as admin-guide/cgroup-v2.rst has it; the process goes into a leaf, so that the rest can be enabled.
        uid = os.geteuid()
        top = mount.point / f"nsbox-{uid}"
        leaf = top / LEAF_NAME
        enabling = " ".join(f"+{name}" for name in NEEDED if name in available)
        commands = (
            *((f"echo {enabling} >{mount.point}/cgroup.subtree_control",) if enabling else ()),
            f"mkdir -p {leaf}",
            f"chown {uid} {top} {leaf} {top}/cgroup.procs {leaf}/cgroup.procs {top}/cgroup.subtree_control",
            f"echo PID >{leaf}/cgroup.procs",
        )
        remedy = f"as root, with the PID of this program's shell: {' && '.join(commands)}"
    return Lack(why=why, remedy=remedy)
