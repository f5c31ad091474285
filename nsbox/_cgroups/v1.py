"""The v1 hierarchies, through cgroupspy: base nodes made and configured, values of the parent read.

What cgroupspy 0.2.3 is used for and what not, all seen in its source and tried here:

* `Node` and its controllers are lazy and touch one directory; they are used.
* `Tree`, `GroupedTree` and `VMTree` walk every group of every hierarchy when made, also with `groups=`, and create
  what `sub_groups=` names; `Node.delete_empty_children` removes groups of others. None of them is used.
* There is no controller for pids, and none for hierarchies mounted together ("cpu,cpuacct" is no key of
  `Node.CONTROLLERS`); a `Controller` is put on the node directly, which serves both.
* `Node.create_cgroup` takes EEXIST for success: the lock tells whether the directory is ours (`base.make_base`).
* The names of two blkio throttle files end in a space there; the launcher writes those files itself.
* Its import takes 13 ms (10 of them `logging`), so it is imported when a v1 hierarchy is used, not before.
"""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nsbox._cgroups.base import make_base
from nsbox._cgroups.discover import CgroupMount
from nsbox._cgroups.limits import SOCKET_BUFFERS


def node_of(mount: CgroupMount, directory: Path) -> Any:
    """The cgroupspy node of a directory in a v1 hierarchy; untyped, as the package is. Touches nothing."""
    nodes = importlib.import_module("cgroupspy.nodes")
    root = nodes.Node(os.fsencode(mount.point.parent))
    node = nodes.Node(os.fsencode(mount.point.name), parent=root)
    for part in directory.relative_to(mount.point).parts:
        node = nodes.Node(os.fsencode(part), parent=node)
    return node


def make_v1_base(mount: CgroupMount, parent: Path, names: Iterable[str]) -> tuple[Path, int]:
    """Make, own and configure our base node below `parent`, see `base.make_base`.

    Raises:
        OSError: The kernel refused; nothing is left.
    """
    parent_node = node_of(mount, parent)
    path, descriptor = make_base(parent, names, lambda path: parent_node.create_cgroup(path.name))
    try:
        _configure(mount, parent_node, node_of(mount, path))
    except BaseException:
        os.close(descriptor)
        path.rmdir()
        raise
    return path, descriptor


def delegation_remedy(mount: CgroupMount) -> str:
    """The commands by which root gives this user a group of its own in a v1 hierarchy."""
    uid = os.geteuid()
    top = mount.point / f"nsbox-{uid}"
    cpuset = [f"cat {mount.point}/{file} >{top}/{file}" for file in ("cpuset.cpus", "cpuset.mems")]
    commands = (
        f"mkdir {top}",
        *(cpuset if "cpuset" in mount.controllers else ()),
        f"chown {uid} {top} {top}/cgroup.procs {top}/tasks",
        f"echo PID >{top}/cgroup.procs",
    )
    return f"as root, with the PID of this program's shell: {' && '.join(commands)}"


def _configure(mount: CgroupMount, parent: Any, base: Any) -> None:
    """What must be set before any process may join, or before any child is made."""
    controllers = importlib.import_module("cgroupspy.controllers")
    if "cpuset" in mount.controllers:
        # An empty cpuset takes no process (admin-guide/cgroup-v1/cpusets.rst), and a new one is empty.
        source, target = controllers.CpuSetController(parent), controllers.CpuSetController(base)
        target.cpus, target.mems = source.cpus, source.mems
    if "memory" in mount.controllers:
        memory = controllers.MemoryController(base)
        # Before Linux 5.11 a limit held for the group alone unless this was set, and only while it had no children.
        if memory.get_property(b"memory.use_hierarchy") == "0":
            memory.set_property(b"memory.use_hierarchy", "1")
        name = os.fsencode(SOCKET_BUFFERS)
        if os.path.exists(memory.filepath(name)):
            # No limit, but the kernel rewrites its own code for the first group that has this set, and when the last
            # one goes (a static key): with the base among them that is never a sandbox.
            memory.set_property(name, "-1")


def cpus_and_memory_nodes(mount: CgroupMount, base: Path) -> tuple[frozenset[int], str]:
    """The CPUs of our base node, and its memory nodes in the kernel's list format."""
    controller = importlib.import_module("cgroupspy.controllers").CpuSetController(node_of(mount, base))
    return frozenset(controller.cpus), str(controller.get_property(b"cpuset.mems"))


def cpu_ceiling(mount: CgroupMount, parent: Path) -> float | None:
    """The least bandwidth, in CPUs, that `parent` and what is above it grant; None without any limit.

    A child that asks for more gets EINVAL on v1 (v2 caps it silently), see sched/sched-bwc.rst.
    """
    cpu_controller = importlib.import_module("cgroupspy.controllers").CpuController
    least: float | None = None
    directory = parent
    while directory != mount.point:  # the root has no limit
        cpu = cpu_controller(node_of(mount, directory))
        quota = cpu.cfs_quota_us
        if quota is not None:
            cores = float(quota) / float(cpu.cfs_period_us)
            least = cores if least is None else min(least, cores)
        directory = directory.parent
    return least
