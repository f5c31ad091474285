"""What the cgroups of a tree can do, by capability name, and for each lack the reason and the remedy. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsbox._cgroups.model import Hierarchy

CAPABILITIES = (
    "cgroup_freeze",
    "cgroup_kill",
    "memory_limit",
    "swap_limit",
    "process_limit",
    "cpu_limit",
    "cpuset",
    "io_limit",
    "oom_suspend",
    "memory_reclaim",
)
"""The capabilities that cgroups give; names for `SandboxConfig.require`."""

CONTROLLER_OF = {
    "memory_limit": "memory",
    "swap_limit": "memory",
    "process_limit": "pids",
    "cpu_limit": "cpu",
    "cpuset": "cpuset",
    "io_limit": "io",
    "oom_suspend": "memory",
    "memory_reclaim": "memory",
}
_V1_NAME = {"io": "blkio"}
_FILES = {  # capability: the file that shows it, v2 and v1; None: v2 cannot, or the controller is enabled on demand
    "memory_limit": ("memory.max", "memory.limit_in_bytes"),
    "swap_limit": ("memory.swap.max", "memory.memsw.limit_in_bytes"),
    "process_limit": ("pids.max", "pids.max"),
    "cpu_limit": ("cpu.max", "cpu.cfs_quota_us"),
    "cpuset": (None, "cpuset.cpus"),
    "io_limit": (None, "blkio.throttle.read_bps_device"),
}
_OWN_FILES = {  # what the versions give in different ways, or only one of them: the controller, and the file
    1: {"oom_suspend": ("memory", "memory.oom_control")},
    2: {
        "cgroup_freeze": ("", "cgroup.freeze"),
        "cgroup_kill": ("", "cgroup.kill"),
        "oom_suspend": ("memory", "memory.high"),
        "memory_reclaim": ("memory", "memory.reclaim"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a capability is missing, and the command or setting that mends it."""

    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.why}; {self.remedy}"


def provided(hierarchies: Sequence[Hierarchy], files: Sequence[frozenset[str]]) -> dict[str, int]:
    """For each capability that is there, the index of the hierarchy that gives it."""
    found: dict[str, int] = {}
    for index, (hierarchy, present) in enumerate(zip(hierarchies, files, strict=True)):
        for capability, (controller, file) in _OWN_FILES[hierarchy.version].items():
            if file in present and controller in {"", *hierarchy.controllers}:
                found[capability] = index
        for capability, names in _FILES.items():
            controller = CONTROLLER_OF[capability]
            if hierarchy.version == 1:
                controller = _V1_NAME.get(controller, controller)
            name = names[0] if hierarchy.version == 2 else names[1]
            if controller in hierarchy.controllers and (name is None or name in present):
                found[capability] = index
    return found


def find_lacks(
    hierarchies: Sequence[Hierarchy], files: Sequence[frozenset[str]], reasons: Mapping[str, Lack]
) -> dict[str, Lack]:
    """Every capability that is not provided, with its reason.

    Args:
        hierarchies: Those of the tree.
        files: What each base directory contains.
        reasons: By controller, or "" for v2 as a whole, what was in the way when the tree was made.
    """
    there = provided(hierarchies, files)
    return {
        capability: _reason(capability, hierarchies, reasons) for capability in CAPABILITIES if capability not in there
    }


def _reason(capability: str, hierarchies: Sequence[Hierarchy], reasons: Mapping[str, Lack]) -> Lack:
    if not hierarchies:
        return reasons[""]
    if capability in ("cgroup_freeze", "cgroup_kill"):
        version = "5.2" if capability == "cgroup_freeze" else "5.14"
        return Lack(why=f"this kernel's cgroup v2 has no {capability[7:]}", remedy=f"run Linux {version} or newer")
    controller = CONTROLLER_OF[capability]
    has_controller = any({controller, _V1_NAME.get(controller)} & hierarchy.controllers for hierarchy in hierarchies)
    if not has_controller:
        return reasons.get(controller) or Lack(
            why=f"no cgroup hierarchy has the controller {controller}",
            remedy="boot a kernel with it (for memory: the parameter cgroup_enable=memory)",
        )
    if capability == "oom_suspend":
        return Lack(
            why="the memory controller has neither memory.high (v2) nor memory.oom_control (v1)",
            remedy="leave oom_kill_disable=False, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    if capability == "memory_reclaim":
        return Lack(
            why="only cgroup v2 of Linux 5.19 and newer has memory.reclaim",
            remedy="boot with systemd.unified_cgroup_hierarchy=1, and run Linux 5.19 or newer",
        )
    if capability == "swap_limit":
        return Lack(why="the memory controller does not account swap", remedy="boot with swapaccount=1, or swapoff -a")
    return Lack(why=f"the {controller} controller lacks it", remedy="boot a kernel with CONFIG_CFS_BANDWIDTH=y")
