"""Making a cgroup tree: parents found, base directories made and owned, controllers enabled."""

import os
from collections.abc import Mapping

from nsbox._cgroups import v1
from nsbox._cgroups.base import base_names, is_exhausted
from nsbox._cgroups.discover import CgroupMount, parse_list, read_mounts
from nsbox._cgroups.lacks import Lack, find_lacks
from nsbox._cgroups.model import Hierarchy
from nsbox._cgroups.parents import MOVE_VARIABLE, PARENT_VARIABLE, Move, choose_parent, hinted_cgroup, why_none
from nsbox._cgroups.tree import V2_NAME, CgroupTree, Mode, setup_error
from nsbox._cgroups.unified import NEEDED, ON_DEMAND, Parent, make_unified_base
from nsbox._errors import SetupError

V1_USED = frozenset({"memory", "pids", "cpu", "cpuset", "blkio"})


def make_tree(
    *,
    pid: int | None = None,
    cgroup_parent: str | os.PathLike[str] | None = None,
    move_own: Move | None = None,
    environ: Mapping[str, str] = os.environ,
) -> CgroupTree:
    """Find the parents, make and own the base directories, enable the controllers. Blocks for about a millisecond.

    Args:
        pid: For the names; default: this process.
        cgroup_parent: Where the base goes: a directory below the v2 mount point, or a cgroup path ("/a/b"), which is
            then also taken in the v1 hierarchies that have it. Default: NSBOX_CGROUP, else found.
        move_own: "self": this process may be moved into a leaf when its own cgroup could else enable no controllers;
            "all": every process of that cgroup. Default: NSBOX_CGROUP_MOVE (1 or all), else nothing is moved.
        environ: Where the two variables are read.

    Raises:
        UnsupportedHostError: `cgroup_parent` was given and cannot be used.
        SetupError: stage "cgroup-create": out of memory, descriptors or cgroups. Nothing is left.
    """
    hint = environ.get(PARENT_VARIABLE) if cgroup_parent is None else os.fspath(cgroup_parent)
    move = Move.parse(environ.get(MOVE_VARIABLE, "")) if move_own is None else move_own
    builder = _Builder(read_mounts(), base_names(os.getpid() if pid is None else pid))
    try:
        builder.build(hint or None, move)
        return builder.finish()
    except OSError as exc:
        builder.undo()
        if isinstance(exc, SetupError):
            raise
        raise setup_error("cgroup-create", exc) from exc
    except BaseException:
        builder.undo()
        raise


class _Builder:
    """Makes the base directories one by one, and takes them back when one fails for want of resources."""

    def __init__(self, mounts: tuple[CgroupMount, ...], names: tuple[str, ...]) -> None:
        self.mounts = mounts
        self.names = names
        self.hierarchies: list[Hierarchy] = []
        self.descriptors: list[int] = []
        self.reasons: dict[str, Lack] = {}
        self.allowed_cpus = frozenset(os.sched_getaffinity(0))
        self.memory_nodes = ""
        self.cpu_ceiling: float | None = None

    def build(self, hint: str | None, move: Move) -> None:
        unified = next((mount for mount in self.mounts if mount.version == 2), None)
        parent = choose_parent(unified, hint, move) if unified is not None else None
        if unified is None or parent is None or not parent.usable:
            self.reasons[""] = why_none(unified, parent)
            return
        try:
            self._add_unified(unified, parent)
        except OSError as exc:
            if is_exhausted(exc):
                raise
            self.reasons[""] = why_none(unified, parent, exc)
            return
        for mount in self.mounts:
            if mount.version == 1:
                self._add_v1(mount, hinted_cgroup(unified, hint))

    def _add_unified(self, mount: CgroupMount, parent: Parent) -> None:
        path, descriptor, controllers, refused = make_unified_base(parent, self.names)
        self.descriptors.append(descriptor)
        self.hierarchies.append(
            Hierarchy(name=mount.name, path=path, version=2, controllers=controllers, per_execution=True)
        )
        for controller in set(NEEDED + ON_DEMAND) - controllers:
            lack = why_none(mount, parent)
            self.reasons[controller] = Lack(why=refused.get(controller, lack.why), remedy=lack.remedy)
        effective = next((d for d in path.parents if (d / "cpuset.cpus.effective").exists()), None)
        if "cpuset" in controllers and effective is not None:
            self.allowed_cpus = parse_list((effective / "cpuset.cpus.effective").read_text())

    def _add_v1(self, mount: CgroupMount, hinted: str | None) -> None:
        have = {name for hierarchy in self.hierarchies for name in hierarchy.controllers}
        wanted = frozenset(name for name in mount.controllers & V1_USED if V2_NAME.get(name, name) not in have)
        if not wanted:
            return
        parents = list(mount.upwards())
        if hinted is not None and (mount.point / hinted).is_dir():
            parents.insert(0, mount.point / hinted)
        problem: OSError | None = None
        for parent in parents:
            try:
                path, descriptor = v1.make_v1_base(mount, parent, self.names)
            except OSError as exc:
                if is_exhausted(exc):
                    raise
                problem = problem or exc
                continue
            self.descriptors.append(descriptor)
            per_execution = bool(wanted & {"memory", "pids"})
            self.hierarchies.append(
                Hierarchy(name=mount.name, path=path, version=1, controllers=wanted, per_execution=per_execution)
            )
            if "cpuset" in wanted:
                self.allowed_cpus, self.memory_nodes = v1.cpus_and_memory_nodes(mount, path)
            if "cpu" in wanted:
                self.cpu_ceiling = v1.cpu_ceiling(mount, parent)
            return
        own = parents[0] if parents else mount.point
        for name in wanted:
            self.reasons[V2_NAME.get(name, name)] = Lack(
                why=f"{own} is not writable" if problem is None else f"{own}: {problem.strerror}",
                remedy=v1.delegation_remedy(mount),
            )

    def finish(self) -> CgroupTree:
        files = tuple(frozenset(file.name for file in hierarchy.path.iterdir()) for hierarchy in self.hierarchies)
        mode: Mode = "none"
        if self.hierarchies:
            mode = "unified" if set(NEEDED) <= self.hierarchies[0].controllers else "hybrid"
        return CgroupTree(
            mode=mode,
            hierarchies=tuple(self.hierarchies),
            files=files,
            reasons=find_lacks(self.hierarchies, files, self.reasons),
            allowed_cpus=self.allowed_cpus,
            memory_nodes=self.memory_nodes,
            cpu_ceiling=self.cpu_ceiling,
            owner=os.getpid(),
            _descriptors=self.descriptors,
        )

    def undo(self) -> None:
        for hierarchy in self.hierarchies:
            hierarchy.path.rmdir()
        for descriptor in self.descriptors:
            os.close(descriptor)
