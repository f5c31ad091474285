"""Base directories: made, locked, recognised, removed.

A base directory belongs to whoever holds flock(2) on it. The lock is on the open file description, so it lasts until
the supervisor *and* the launcher that got the descriptor are gone, and the kernel drops it however they die. It also
holds between containers and their host: all mounts of a hierarchy share one superblock and so one inode (tried with a
mount made in another cgroup namespace). A pid would not do: it means another process in another pid namespace, and a
container's application has the same pid after each restart. Mode 0700 keeps other users from taking the lock.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nsbox._errors import SetupError

REMOVE_SECONDS = 5.0
"""How long `remove_subtree` waits for killed processes; 1,000 of them take 61 ms to die (measured)."""

_PAUSE_SECONDS = 0.0005
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EINTR})


def is_exhausted(exc: OSError) -> bool:
    """Whether something ran out at this moment: a failed start then, never a weaker mode. Else it is the host's way.

    EAGAIN is cgroup.max.descendants.
    """
    return exc.errno in _EXHAUSTED


def base_names(pid: int, count: int = 4) -> tuple[str, ...]:
    """Names to try in turn, for the case that a collector takes a directory before it is locked."""
    return tuple(f"nsbox-{pid}-{secrets.token_hex(4)}" for _ in range(count))


def make_base(parent: Path, names: Iterable[str], mkdir: Callable[[Path], object]) -> tuple[Path, int]:
    """Make a base directory below `parent` and own it.

    Args:
        parent: An existing cgroup directory.
        names: Names to try in turn.
        mkdir: Makes the directory it is given.

    Returns:
        Its path, and a descriptor (close-on-exec) that holds the lock.

    Raises:
        OSError: The kernel refused; nothing is left.
    """
    for name in names:
        path = parent / name
        mkdir(path)
        try:
            path.chmod(0o700)
            descriptor = lock(path)
        except FileNotFoundError:
            continue  # a collector met the unlocked directory and removed it
        except BaseException:
            path.rmdir()
            raise
        if descriptor is not None:
            return path, descriptor
    raise FileExistsError(errno.EEXIST, "every name for the base directory was taken", str(parent))


def lock(path: Path) -> int | None:
    """Take the lock of a base directory, without waiting.

    Returns:
        A descriptor that holds it, or None when somebody living does, or when the directory went meanwhile.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def remove_subtree(base: Path, *, seconds: float = REMOVE_SECONDS) -> None:
    """Kill every process below `base` and remove it with all below it. Blocks; idempotent.

    Args:
        base: A base directory of ours, in any hierarchy.
        seconds: How long to go on trying.

    Raises:
        SetupError: stage "cgroup-remove": something is still in it, with the path and the last errno.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            _kill(base)
            for directory in reversed(subtree(base)):
                directory.rmdir()
            return
        except FileNotFoundError:
            if not base.exists():
                return
            problem = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(base))  # changed meanwhile: look again
        except OSError as exc:
            problem = exc
        # rmdir is EBUSY for about half a millisecond after the kill; the notification of cgroup.events is up to
        # 15 ms late, so the file is not waited for but the rmdir retried (measured).
        if time.monotonic() >= deadline:
            raise SetupError(
                "cgroup-remove", problem.errno or errno.EIO, problem.strerror or "", problem.filename or str(base)
            ) from problem
        time.sleep(_PAUSE_SECONDS)


def subtree(directory: Path) -> list[Path]:
    """`directory` and all cgroups below it, each before its children; without recursion, for any depth."""
    found, index = [directory], 0
    while index < len(found):
        with os.scandir(found[index]) as entries:
            found.extend(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        index += 1
    return found


def _kill(base: Path) -> None:
    """SIGKILL to every process below `base`: at once where v2 offers cgroup.kill (Linux 5.14), else one by one."""
    with contextlib.suppress(FileNotFoundError):
        _write(base / "cgroup.kill", "1")
        return
    with contextlib.suppress(FileNotFoundError):
        _write(base / "pids.max", "0")  # a fork bomb cannot outrun a list when nothing can fork
    for directory in subtree(base):
        procs = directory / "cgroup.procs"
        for pid in _members(procs):
            _kill_member(pid, procs)


def _kill_member(pid: int, procs: Path) -> None:
    """Kill one process, if it is still the one in the cgroup: the pidfd is taken first, then membership is read."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid in _members(procs):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _members(procs: Path) -> set[int]:
    """The pids in a cgroup.procs file; 0 stands for a process outside of our pid namespace, which we cannot name."""
    return {int(pid) for pid in procs.read_text().split()} - {0, os.getpid()}


def _write(path: Path, value: str) -> None:
    """Write to a file that must exist: a plain open would ask cgroupfs to create it, which reads as EACCES."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
