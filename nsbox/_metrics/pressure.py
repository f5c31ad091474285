"""A sandbox at its memory limit that is to be suspended and not killed (`oom_kill_disable`).

On v1 the kernel does it: with memory.oom_control 1 a process that meets the limit in a page fault waits (memory.rst,
"OOM Control"), and `under_oom` says so. It waits where the freezer cannot stop it (TASK_KILLABLE), so that it has to be
woken by a limit that is a page higher once the freezer is closed; it is then frozen before it can touch memory again.

On v2 there is no such switch. The limit is memory.high, beyond which the kernel lets every process sleep for up to two
seconds at a time, the longer the farther it has got (cgroup-v2.rst; mm/memcontrol.c, calculate_high_delay), and
memory.max is some way above. memory.events says when the limit was met, and poll(2) when that file has changed.
"""

from __future__ import annotations

import contextlib
import os
import select
from abc import ABC, abstractmethod
from pathlib import Path

import trio

from nsbox._cgroups import CgroupTree
from nsbox._metrics.counters import find_number

_LOOK_SECONDS = 0.02  # v1: whoever is at the limit waits there, however long it takes
_NEWS_SECONDS = 0.25  # v2: a look without news, for one that came while cache was still being freed
_LONGEST = 8192
_NEARLY = 0.99
"""Of the limit, without the cache of files: the kernel holds processes up in steps of some pages."""


class Pressure(ABC):
    """Watches one sandbox.

    Args:
        directory: The sandbox's in the hierarchy with the memory controller.
        limit_bytes: Its limit.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit = limit_bytes

    @abstractmethod
    async def wait(self) -> None:
        """Wait until it is worth a look."""

    @abstractmethod
    def is_at_limit(self) -> bool:
        """Whether programs cannot go on for want of memory.

        Raises:
            OSError: The sandbox is gone.
        """

    @abstractmethod
    def usage_bytes(self) -> int:
        """What is charged to the sandbox. Raises as `is_at_limit`."""

    @abstractmethod
    def wake(self) -> None:
        """Let who waits for memory get to where the freezer stops it. Raises as `is_at_limit`."""

    @abstractmethod
    def settle(self) -> None:
        """Undo `wake`, once everything is frozen. Raises as `is_at_limit`."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    def _read(self, name: str) -> bytes:
        with open(self._directory / name, "rb", buffering=0) as file:
            return file.read(_LONGEST)


class WaitingForMemory(Pressure):
    """On v1."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        super().__init__(directory, limit_bytes)
        self._raised: list[tuple[str, int]] = []

    async def wait(self) -> None:
        await trio.sleep(_LOOK_SECONDS)

    def is_at_limit(self) -> bool:
        return find_number(self._read("memory.oom_control"), b"under_oom") == 1

    def usage_bytes(self) -> int:
        return int(self._read("memory.usage_in_bytes"))

    def wake(self) -> None:
        # Memory and swap together are never below memory alone, so the sum goes up first, and down last.
        for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):
            with contextlib.suppress(FileNotFoundError):  # swap need not be accounted
                limit = int(self._read(name))
                (self._directory / name).write_text(str(limit + os.sysconf("SC_PAGE_SIZE")))
                self._raised.append((name, limit))

    def settle(self) -> None:
        while self._raised:
            name, limit = self._raised.pop()
            with contextlib.suppress(OSError):  # EBUSY: a page more is used, and stays allowed
                (self._directory / name).write_text(str(limit))

    def close(self) -> None:
        """Nothing is."""


class HeldUp(Pressure):
    """On v2. Raises OSError when made: this process may have no more files open."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        super().__init__(directory, limit_bytes)
        self._events = os.open(directory / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._news = select.epoll()
        except BaseException:
            os.close(self._events)
            raise
        # EPOLLPRI is set from a change until the file is read again (fs/kernfs/file.c); trio waits for EPOLLIN alone,
        # which the file always has, and which an epoll has while something in it is ready (epoll(7)).
        self._news.register(self._events, select.EPOLLPRI)
        self._seen = self._count()

    def _count(self) -> int:
        return find_number(os.pread(self._events, _LONGEST, 0), b"high") or 0

    async def wait(self) -> None:
        with trio.move_on_after(_NEWS_SECONDS):
            await trio.lowlevel.wait_readable(self._news.fileno())

    def is_at_limit(self) -> bool:
        before, self._seen = self._seen, self._count()
        if self._seen == before:
            return False
        text = self._read("memory.stat")
        cache = (find_number(text, b"inactive_file") or 0) + (find_number(text, b"active_file") or 0)
        return self.usage_bytes() - cache >= self._limit * _NEARLY

    def usage_bytes(self) -> int:
        return int(self._read("memory.current"))

    def wake(self) -> None:
        """Nobody sleeps for longer than two seconds."""

    def settle(self) -> None:
        """Nothing was done."""

    def close(self) -> None:
        self._news.close()
        os.close(self._events)


def open_pressure(tree: CgroupTree, number: int, limit_bytes: int) -> Pressure:
    """What watches a sandbox on this host.

    Args:
        tree: The supervisor's cgroups; they have the memory controller.
        number: The sandbox's in them.
        limit_bytes: Its limit.

    Raises:
        OSError: The sandbox is gone, or this process may have no more files open.
    """
    index = tree.index_of("memory")
    if index is None:
        raise ValueError("no cgroup counts memory")
    hierarchy = tree.hierarchies[index]
    watcher = HeldUp if hierarchy.version == 2 else WaitingForMemory
    return watcher(hierarchy.path / f"s{number}", limit_bytes)
