"""What cgroups do not tell of the programs in a sandbox: how many, their threads, descriptors, input and output.

psutil takes 62 to 95 us for a process (measured), so it is asked only when somebody wants to know, and only about
processes that are known to be there: nothing is searched for among those of the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MOST_ASKED = 64
"""Processes of one sandbox that psutil is asked about at one look: 6 ms at most, in which everything else waits."""

_LONGEST = 1 << 16  # bytes of one cgroup.procs, some 8,000 processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What is known of the running ones.

    Attributes:
        processes: How many.
        threads: Of those; None: there are too many to ask, or the host does not tell.
        open_files: Descriptors; None the same.
        read_bytes: From storage, with those of children that were waited for; None the same.
        written_bytes: To storage, the same.
    """

    processes: int
    threads: int | None = None
    open_files: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


NO_PROGRAMS = Programs(processes=0)


def list_programs(sandbox: Path, running: int) -> list[int]:
    """The processes of a sandbox's executions, from cgroup v2.

    Args:
        sandbox: Its directory.
        running: How many executions are running. The launcher numbers the directories of executions upwards, and the
            last one, where there is one more, is that of the process that waits for the next program.
    """
    numbers = sorted(int(name[1:]) for name in os.listdir(sandbox) if name[:1] == "e" and name[1:].isdigit())
    found: list[int] = []
    for number in numbers[:running]:
        try:
            fd = os.open(sandbox / f"e{number}" / "cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it has just ended
        try:
            found += [int(line) for line in os.read(fd, _LONGEST).split()]
        except OSError:  # ENODEV: the same, a moment later
            continue
        finally:
            os.close(fd)
    return found


def ask(pids: Iterable[int]) -> Programs:
    """Look at processes; those that have ended meanwhile are left out."""
    pids = tuple(pids)
    if len(pids) > MOST_ASKED:
        return Programs(processes=len(pids))
    threads = files = read = written = processes = 0
    told = True
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                threads += process.num_threads()
                files += process.num_fds()
                io = process.io_counters()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            told = False
            processes += 1
            continue
        read += io.read_bytes
        written += io.write_bytes
        processes += 1
    if not told or not processes:
        return Programs(processes=processes)
    return Programs(processes=processes, threads=threads, open_files=files, read_bytes=read, written_bytes=written)
