"""What nsbox is compared with, started in the fastest way that Python has: posix_spawn(3)."""

import os
import select
import shutil
from collections.abc import Sequence

TRUE = "/bin/true"
BUBBLEWRAP = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", TRUE)


def missing_peer() -> str | None:
    """Why there is nothing to compare with; None: there is."""
    return None if shutil.which("bwrap") else "bubblewrap is not installed: apt-get install bubblewrap"


_NOWHERE = ((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),)


def _spawn(argv: tuple[str, ...]) -> int:
    return os.posix_spawnp(argv[0], argv, os.environ, file_actions=_NOWHERE)


def _reap(pid: int, argv: tuple[str, ...]) -> None:
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(argv)} ended with wait status {status:#x}")


async def run_bare() -> None:
    """One /bin/true, from fork to wait."""
    _reap(_spawn((TRUE,)), (TRUE,))


async def run_process(argv: tuple[str, ...]) -> None:
    """One process of any kind, its output thrown away, from fork to wait."""
    _reap(_spawn(argv), argv)


async def run_bubblewrap() -> None:
    """One /bin/true in bubblewrap's namespaces, from fork to wait."""
    _reap(_spawn(BUBBLEWRAP), BUBBLEWRAP)


def run_many(argv: tuple[str, ...], count: int, at_once: int) -> None:
    """So many processes, with so many alive at any time; a new one starts as soon as one has ended."""
    run_each([argv] * count, at_once)


def run_each(commands: Sequence[tuple[str, ...]], at_once: int) -> None:
    """One process for each of these, the same way."""
    alive: dict[int, int] = {}
    poll = select.poll()
    left = list(reversed(commands))
    try:
        while left or alive:
            while left and len(alive) < at_once:
                argv = left.pop()
                pid = _spawn(argv)
                pidfd = os.pidfd_open(pid)
                alive[pidfd] = pid
                poll.register(pidfd, select.POLLIN)
            for pidfd, _ in poll.poll():
                poll.unregister(pidfd)
                os.close(pidfd)
                _reap(alive.pop(pidfd), argv)
    finally:
        for pidfd in alive:
            os.close(pidfd)
