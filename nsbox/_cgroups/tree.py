"""The cgroup tree of one supervisor: base directories in every hierarchy it can use."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nsbox._cgroups.base import remove_subtree
from nsbox._cgroups.lacks import Lack
from nsbox._cgroups.model import Hierarchy
from nsbox._cgroups.unified import ON_DEMAND, enable
from nsbox._errors import SetupError

Mode = Literal["unified", "hybrid", "none"]

V2_NAME = {"blkio": "io"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupTree:
    """What is in force for a supervisor, and the directories that hold it.

    Attributes:
        mode: "unified": v2 gives memory, pids and cpu. "hybrid": v2 gives freeze and kill, and at most some of the
            three; v1 gives others where it can. "none": no hierarchy at all.
        hierarchies: v2 first; empty exactly in mode "none".
        files: The names in each base directory: what the kernel offers to its children.
        reasons: Capability to why it is missing and what mends it.
        dirfds: An open directory for each hierarchy, in order. They hold the lock that makes the directories ours:
            hand them to the launcher as they are, or duplicated; never reopened.
        allowed_cpus: The CPUs that a cpuset may name here.
        memory_nodes: What a v1 cpuset needs beside its CPUs, in the kernel's list format; "" without v1 cpusets.
        cpu_ceiling: CPUs that the groups above grant on v1, where asking for more is EINVAL; None: no limit.
        owner: The pid of the process that made the tree; in a child of its, `remove` only closes the descriptors.
    """

    mode: Mode
    hierarchies: tuple[Hierarchy, ...]
    files: tuple[frozenset[str], ...]
    reasons: Mapping[str, Lack]
    allowed_cpus: frozenset[int]
    memory_nodes: str = ""
    cpu_ceiling: float | None = None
    owner: int = 0
    _descriptors: list[int] = field(default_factory=list, repr=False, compare=False)
    _indices: dict[str, int] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for index, hierarchy in enumerate(self.hierarchies):
            for name in hierarchy.controllers:
                self._indices.setdefault(V2_NAME.get(name, name), index)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Capability to why it is missing and what mends it, as one sentence."""
        return {capability: str(lack) for capability, lack in self.reasons.items()}

    @property
    def dirfds(self) -> tuple[int, ...]:
        """The open directories, one a hierarchy, in order; empty after `remove`."""
        return tuple(self._descriptors)

    def index_of(self, controller: str) -> int | None:
        """Which hierarchy has a controller, by its v2 name ("io" finds blkio too)."""
        return self._indices.get(controller)

    def enable(self, controllers: frozenset[str]) -> None:
        """Enable v2 controllers that no sandbox has asked for before ("cpuset", "io"). Blocks; idempotent.

        Raises:
            SetupError: stage "cgroup-enable": the kernel refused, with the path.
        """
        for controller in sorted(controllers & set(ON_DEMAND)):
            index = self.index_of(controller)
            if index is not None and self.hierarchies[index].version == 2:
                try:
                    enable(self.hierarchies[index].path, controller)
                except OSError as exc:
                    raise setup_error("cgroup-enable", exc) from exc

    def remove(self) -> None:
        """Kill whatever is left in the tree, remove it, give it up. Blocks for up to seconds; idempotent.

        Raises:
            SetupError: stage "cgroup-remove": something could not be removed; the rest is, and the next start's
                `collect_garbage` will find it.
        """
        failure: SetupError | None = None
        try:
            if self._descriptors and os.getpid() == self.owner:
                for hierarchy in self.hierarchies:
                    try:
                        remove_subtree(hierarchy.path)
                    except SetupError as exc:
                        failure = failure or exc
        finally:
            while self._descriptors:
                os.close(self._descriptors.pop())
        if failure is not None:
            raise failure


def setup_error(stage: str, exc: OSError) -> SetupError:
    """The kernel's refusal as the error of a set-up step."""
    return SetupError(stage, exc.errno or errno.EIO, exc.strerror or str(exc), exc.filename)
