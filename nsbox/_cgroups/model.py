"""The vocabulary of the cgroup decisions: what Python tells the launcher, which knows neither v1 nor v2.

Layout below a base directory, the same in every hierarchy, made by the launcher:

    <parent>/nsbox-<pid>-<random>      the base: made, locked and removed here
        s<N>                           one sandbox; its limits
            init                       v2 only: PID 1, which no limit of its own holds
            e<M>                       one execution, where `Hierarchy.per_execution`

Kernel documents: admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

BASE_NAME = re.compile(r"nsbox-(?P<pid>[1-9][0-9]*)-(?P<random>[0-9a-f]{8})")
"""The name of a base directory; `fullmatch` it."""


class Level(IntEnum):
    """Whose directory a file is in."""

    SANDBOX = 0
    EXECUTION = 1


class CounterSlot(IntEnum):
    """The place of a number in the launcher's final record; at most 16. Units: microseconds, bytes, counts.

    READ_BYTES and WRITTEN_BYTES have no file of the form the launcher reads (io.stat has one line a device), so no
    `Counter` names them: they come from the resource usage of wait4. OOM_KILLS says whether, not how many: with
    memory.oom.group the first victim is counted twice (seen on 6.1).
    """

    CPU_USEC = 0
    USER_USEC = 1
    SYSTEM_USEC = 2
    MEMORY_PEAK = 3
    OOM_KILLS = 4
    PIDS_PEAK = 5
    PIDS_REFUSED = 6
    SANDBOX_PIDS_REFUSED = 7
    READ_BYTES = 8
    WRITTEN_BYTES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One cgroup hierarchy in which this supervisor has a base directory.

    Attributes:
        name: "unified", or the v1 controllers as they are mounted, e.g. "memory" or "cpu,cpuacct".
        path: The base directory, as this process sees it.
        version: 2 or 1.
        controllers: What nsbox can use here, of memory, pids, cpu, cpuset, and io (v2) or blkio (v1).
        per_execution: Whether an execution gets a sub-directory of its own here.
    """

    name: str
    path: Path
    version: int
    controllers: frozenset[str]
    per_execution: bool

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, not {self.version!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One value that the launcher writes right after mkdir, in order; a failure is a failed set-up step."""

    hierarchy: int
    level: Level
    file: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One number that the launcher reads when an execution has ended.

    Attributes:
        slot: Where it goes.
        hierarchy: Index into `CgroupTree.hierarchies`.
        level: Whose directory.
        file: The file's name there.
        key: "" when the file is a single number, else the number on the line "key N".
    """

    slot: CounterSlot
    hierarchy: int
    level: Level
    file: str
    key: str = ""
