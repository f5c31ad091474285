"""Which operations make the root of a sandbox.

Two lists: the first is carried out once, by the launcher, and gives a read-only tree that every sandbox of the kind
gets a copy of by CLONE_NEWNS; the second by PID 1 of each sandbox. What a program can write is one file system with one
quota, bound to the places where programs expect to write.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from nsbox._config import SandboxConfig
from nsbox._errors import ConfigError, SetupError
from nsbox._plan import hostfiles, resolver, users, writable
from nsbox._plan.identity import PROGRAM_ID
from nsbox._plan.operations import Operation, OperationFlag, OperationKind
from nsbox._plan.tree import Tree as _Tree

HOSTNAME = "sandbox"
HOME = "/home/user"
SOURCE_DIRECTORY = "/run/nsbox"
"""Where program texts are: written by the supervisor, read-only for programs, outside of the quota."""

_SOURCE_BYTES = 64 << 20
_SOURCE_INODES = 1024
_IMAGE_SLACK_BYTES = 512 * 1024
"""ext4 refuses a write of 1 MiB with some 270 KiB left, and writes no part of it (seen); tmpfs fills to the end."""
QUOTA = "/run/quota"
"""Where the quota itself is mounted, for its directories to be bound to their places.

It stays there, closed to programs: to unmount it took 256 of the 605 us that all mounts of a sandbox take (measured):
umount2 waits for every CPU (synchronize_rcu_expedited).
"""
_OWN_PLACES = (SOURCE_DIRECTORY, QUOTA)
_OWN_TOPS = ("/proc", "/sys", "/dev")
_MOST_TERMINALS = 64

_WRITABLE = (("/tmp", "tmp", 0o1777), ("/dev/shm", "shm", 0o1777), (HOME, "home", 0o755))
_TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # into /usr where the distribution has merged them
_OWN_TOP = frozenset({"proc", "sys", "dev", "tmp", "run", "mnt", "home", "workspace", "media", "lost+found", "boot"})
_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)  # fmt: skip

_HOST_ETC = ("alternatives", "fonts", "java-*", "ld.so.cache", "mime.types", "perl", "python3*", "ssl/certs")
"""What of the host's /etc language runtimes need and tells nothing about the host."""

_ETC_FILES = {
    "passwd": users.HOST_PASSWD,
    "group": users.HOST_GROUP,
    "hostname": f"{HOSTNAME}\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost {HOSTNAME}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": resolver.TEXT,
}

_MASKED = (
    "acpi", "asound", "cmdline", "config.gz", "fs", "interrupts", "kallsyms", "kcore", "key-users", "keys",
    "latency_stats", "modules", "pressure", "sched_debug", "scsi", "timer_list",
)  # fmt: skip
"""World-readable in /proc, and telling of the host; what only the host's root may read needs no mask, he is not in.
`pressure` can be written by everybody, too: monitors that the kernel then carries out for all of the machine."""

_K = OperationKind
_F = OperationFlag


def root_operations(config: SandboxConfig, *, as_root: bool) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """The operations for the tree and for each sandbox.

    Args:
        config: Of it, `rootfs`, `mounts`, `working_directory`, and the allocations of disk and memory.
        as_root: Whether the launcher may set the limits of an IPC namespace.

    Raises:
        ConfigError: A root, mount or directory that cannot be.
        UnsupportedHostError: A device is missing on the host.
        SetupError: What `rootfs` names cannot be read.
    """
    tree, cell = _Tree(), _Tree()
    for path in ("/proc", "/dev/pts", "/dev/shm", "/tmp", "/run", SOURCE_DIRECTORY, QUOTA, "/mnt", HOME, "/var/tmp"):
        tree.directory(path)
    _add_devices(tree)
    if config.rootfs == "host":
        _add_host(tree, config)
    else:
        try:
            _add_directory(tree, hostfiles.root_directory(Path(config.rootfs)), config)
        except OSError as exc:  # closed to us, or changed by somebody meanwhile
            raise SetupError("root", exc.errno or errno.EIO, exc.strerror or "", exc.filename) from exc
    places = _writable_places(config, tree)
    for path, _, _ in places:
        if not _is_made_writable(config, tree, path):
            tree.directory(path)
    _add_system(cell)
    if as_root:
        _limit_shared_memory(cell, config)
    overlays = _add_quota(tree, cell, config, places)
    cell.add(_K.SOURCE, SOURCE_DIRECTORY, a=_SOURCE_BYTES, b=_SOURCE_INODES)
    _add_mounts(tree, cell, config, [path for path, _, _ in places], overlays)
    return tuple(tree.operations), _with_room_for_mounts(cell.operations)


def _add_devices(tree: _Tree) -> None:
    for name, major, minor in _DEVICES:
        tree.bind(f"/dev/{name}", hostfiles.look_for_device(name, major, minor), _F.DEVICES | _F.NO_EXEC)
    for name, target in _DEVICE_LINKS:
        tree.add(_K.SYMLINK, f"/dev/{name}", target)


def _add_host(tree: _Tree, config: SandboxConfig) -> None:
    for name in ("usr", *_TOP_LINKS):
        _add_top(tree, "/", name)
    for name, text in _ETC_FILES.items():
        tree.directory("/etc")
        if config.writable_root and name in ("passwd", "group"):
            continue  # longer ones
        tree.add(_K.FILE, f"/etc/{name}", text, a=0o644)
    if config.writable_root:
        writable.add_host_frame(tree, _expand("/etc", _HOST_ETC))
        return
    for path in _expand("/etc", _HOST_ETC):
        entry = hostfiles.look(path)
        if entry is not None:
            tree.bind(path, entry)


def host_trees() -> tuple[str, ...]:
    """What of the host a sandbox on the host's root sees, by the same paths."""
    top = [f"/{name}" for name in ("usr", *_TOP_LINKS) if os.path.lexists(f"/{name}")]
    return (*top, *_expand("/etc", _HOST_ETC))


def _add_directory(tree: _Tree, root: hostfiles.HostEntry, config: SandboxConfig) -> None:
    with os.scandir(root.path) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if name in _OWN_TOP or (name == "var" and not config.writable_root):
            continue
        if name == "etc" and not config.writable_root and resolver.needs_pieces(root.path):
            _add_pieces(tree, root.path, "etc", resolver.NAMES)
        else:
            _add_top(tree, root.path, name)
    if config.writable_root:
        return
    resolver.add(tree, root.path, SOURCE_DIRECTORY)
    var = hostfiles.look(os.path.join(root.path, "var"))
    if var is None or not var.is_directory or not hostfiles.is_below(var.path, root.path):
        return  # it may be a link, and lead out
    _add_pieces(tree, root.path, "var", ("tmp", "run", "lock"))


def _add_pieces(tree: _Tree, root: str, directory: str, own: Collection[str]) -> None:
    """What is in a directory of the root, one by one, but for the names that a sandbox has something of its own at."""
    with os.scandir(os.path.join(root, directory)) as entries:
        for name in sorted(entry.name for entry in entries):
            if name not in own:
                _add_top(tree, root, f"{directory}/{name}")


def _add_top(tree: _Tree, root: str, name: str) -> None:
    """A link stays a link; it is resolved inside. A directory or file is bound, and must lie in the root it is from."""
    path = os.path.join(root, name)
    if os.path.islink(path):
        tree.add(_K.SYMLINK, f"/{name}", os.readlink(path))
        return
    entry = hostfiles.look(path)
    if entry is not None and hostfiles.is_below(entry.path, root):
        tree.bind(f"/{name}", entry)


def _expand(directory: str, patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from (str(path) for path in sorted(Path(directory).glob(pattern)))


def _writable_places(config: SandboxConfig, tree: _Tree) -> list[tuple[str, str, int]]:
    places = [(path, name, mode) for path, name, mode in _WRITABLE]
    working = config.working_directory
    if not any(hostfiles.is_below(working, path) for path, _, _ in places):
        top = "/" + working.split("/")[1]
        writable_there = _is_made_writable(config, tree, working) and not _meets_own_place(working)
        if writable_there:
            there = tree.has(working) or (tree.covers(top) and _exists_in_root(config, working))
            if not there:
                places.append((working, "workspace", 0o755))
        elif _is_taken(tree, top):
            raise ConfigError(
                f"working_directory={working!r}: must be a path that can be writable: below /workspace, {HOME}, /tmp, "
                "or a directory that the root does not have"
            )
        else:
            places.append((top, "workspace", 0o755))
    if not any(path == "/workspace" for path, _, _ in places):
        places.append(("/workspace", "default", 0o755))
    return places


def _meets_own_place(path: str) -> bool:
    """Whether what is mounted at `path` would hide, or be hidden by, what nsbox needs for itself."""
    return any(hostfiles.is_below(path, own) or hostfiles.is_below(own, path) for own in _OWN_PLACES)


def _is_taken(tree: _Tree, top: str) -> bool:
    """Whether the root has something at `top` that a place for the program would hide; an empty directory is none."""
    return top in ("/", *_OWN_TOPS) or any(
        hostfiles.is_below(one.path, top) and (one.path != top or one.kind is not _K.DIR) for one in tree.operations
    )


def _is_made_writable(config: SandboxConfig, tree: _Tree, path: str) -> bool:
    """Whether `path` lies in what `writable_root` makes writable, and so is made in each sandbox."""
    top = "/" + path.split("/")[1]
    own = any(hostfiles.is_below(path, place) for place, _, _ in _WRITABLE)
    return config.writable_root and not own and path != "/" and (top in writable.TOPS or tree.covers(top))


def _add_system(cell: _Tree) -> None:
    cell.add(_K.PROC, "/proc")
    for path, is_directory in hostfiles.readable_by_all(f"/proc/{name}" for name in _MASKED):
        cell.add(_K.MASK, path, flags=_F.DIRECTORY if is_directory else _F.NONE)
    cell.add(_K.READ_ONLY, "/proc/sys")
    cell.add(_K.DEVPTS, "/dev/pts", a=_MOST_TERMINALS, b=PROGRAM_ID)


def _limit_shared_memory(cell: _Tree, config: SandboxConfig) -> None:
    """System V segments (shmget(2)): gone with their last user, and together no larger than the memory limit."""
    limit = config.resources.memory.limit_mb << 20
    cell.add(_K.SYSCTL, "kernel/shm_rmid_forced", "1")
    cell.add(_K.SYSCTL, "kernel/shmmax", str(limit))
    cell.add(_K.SYSCTL, "kernel/shmall", str(limit // 4096))


def _add_quota(tree: _Tree, cell: _Tree, config: SandboxConfig, places: list[tuple[str, str, int]]) -> list[str]:
    """The quota, and what lies in it. Returns the paths that overlays make writable."""
    disk = config.resources.disk
    if disk_backed(config):
        # Writes are throttled where they are submitted: on cgroup v1 that is the program itself only with "sync".
        cell.add(_K.QUOTA_DEVICE, QUOTA, "sync" if disk_limited(config) else "")
    else:
        # One inode for each directory that is made here, and one for the root of the file system.
        cell.add(_K.QUOTA_TMPFS, QUOTA, a=disk.quota_mb << 20, b=disk.quota_inodes + len(places) + 1)
    overlays: list[str] = []
    if config.writable_root:
        overlays = writable.add_overlays(tree, cell, "/" if config.rootfs == "host" else str(config.rootfs))
        for path in (SOURCE_DIRECTORY, HOME):
            cell.directory(path)
        if config.rootfs != "host":
            resolver.add_writable(cell, str(config.rootfs))
    for path, name, mode in places:
        flags = _F.WRITABLE | (_F.NO_EXEC if path == "/dev/shm" else _F.NONE)
        if _is_made_writable(config, tree, path):
            cell.directory(path)
        cell.add(_K.QUOTA_DIR, path, name, flags, mode, PROGRAM_ID)
    working = config.working_directory
    if _is_made_writable(config, tree, working):
        cell.directory(working)
    elif working not in {path for path, _, _ in places}:
        name = next(name for path, name, _ in places if hostfiles.is_below(working, path))
        top = next(path for path, _, _ in places if hostfiles.is_below(working, path))
        steps = Path(working).relative_to(top).parts
        for index in range(len(steps)):
            below = "/".join(steps[: index + 1])
            cell.add(_K.QUOTA_DIR, f"{top}/{below}", f"{name}/{below}", _F.WRITABLE, 0o755, PROGRAM_ID)
    return overlays


def _with_room_for_mounts(operations: list[Operation]) -> tuple[Operation, ...]:
    """The directories on the way to a mount below a writable place lie in the quota, and are not the program's."""
    own = sum(one.kind in (_K.DIR, _K.FILE) for one in operations)
    if any(one.kind is _K.OVERLAY for one in operations):
        own += writable.overlay_inodes(operations)
    return tuple(dataclasses.replace(one, b=one.b + own) if one.kind is _K.QUOTA_TMPFS else one for one in operations)


def _add_mounts(tree: _Tree, cell: _Tree, config: SandboxConfig, places: list[str], overlays: list[str]) -> None:
    """The interpreter and the caller's mounts: in the tree, or, below what is mounted in a sandbox, in each sandbox."""
    wanted: list[tuple[str, hostfiles.HostEntry, OperationFlag]] = []
    prefixes = hostfiles.interpreter_prefixes() if config.rootfs == "host" else ()
    wanted += [(path, entry, _F.NONE) for path, entry in prefixes]
    for mount in config.mounts:
        flags = _F.NONE if mount.read_only else _F.WRITABLE
        wanted.append((mount.target, hostfiles.look_for_mount(Path(mount.source)), flags))
    covering = [*places, *overlays]
    for path, entry, flags in sorted(wanted, key=lambda one: one[0]):
        if any(hostfiles.is_below(place, path) for place in places):
            raise ConfigError(f"mount.target={path!r}: must not cover {HOME}, /tmp, /dev/shm or the working directory")
        if _meets_own_place(path):
            raise ConfigError(f"mount.target={path!r}: must not meet {QUOTA} or {SOURCE_DIRECTORY}")
        place = next((place for place in covering if hostfiles.is_below(path, place)), None)
        if config.writable_root and (path, entry) in prefixes:
            if place is None:
                tree.directory(path)
            cell.bind(path, entry)
            writable.add_overlay(cell, path, entry.path)
            covering.append(path)
        elif place is None and tree.covers(path):
            if not _exists_in_root(config, path):
                raise ConfigError(f"mount.target={path!r}: must exist in the root, which is read-only there")
            tree.add(_K.BIND, path, entry.path, flags, entry.device, entry.inode)
        else:
            (tree if place is None else cell).bind(path, entry, flags)


def _exists_in_root(config: SandboxConfig, path: str) -> bool:
    root = "/" if config.rootfs == "host" else str(config.rootfs)
    return os.path.lexists(os.path.join(root, path.lstrip("/")))


def disk_limited(config: SandboxConfig) -> bool:
    """Whether input and output rates are limited, which takes a block device."""
    disk = config.resources.disk
    return disk.iops_limit is not None or disk.throughput_mbps is not None


MOST_IN_MEMORY_MB = 1024
"""A larger quota is an image on disk: tmpfs pages are memory."""


def disk_backed(config: SandboxConfig) -> bool:
    """Whether what is written goes to an ext4 image on a loop device instead of a tmpfs."""
    return disk_limited(config) or config.resources.disk.quota_mb > MOST_IN_MEMORY_MB


def disk_slack_bytes(config: SandboxConfig) -> int:
    """With so much or less left, its disk counts as full."""
    return _IMAGE_SLACK_BYTES if disk_backed(config) else 0
