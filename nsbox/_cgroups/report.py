"""What is in force, in words: for `Sandbox.isolation` and `nsbox doctor`. Pure."""

from collections.abc import Mapping

from nsbox._cgroups.lacks import provided
from nsbox._cgroups.tree import CgroupTree

_LINES = (
    ("memory", "memory_limit"),
    ("swap", "swap_limit"),
    ("processes", "process_limit"),
    ("cpu", "cpu_limit"),
    ("cpuset", "cpuset"),
    ("io", "io_limit"),
    ("freezer", "cgroup_freeze"),
    ("kill", "cgroup_kill"),
)


def isolation_report(tree: CgroupTree) -> Mapping[str, str]:
    """Resource to who controls it: "cgroup v2", "cgroup v1", or "none: " and why.

    Returns:
        Also "cgroups": the mode; and "accounting": where CPU time is counted.
    """
    there = provided(tree.hierarchies, tree.files)
    report = {"cgroups": str(tree.mode)}
    for name, capability in _LINES:
        if capability in there:
            report[name] = f"cgroup v{tree.hierarchies[there[capability]].version}"
        else:
            report[name] = f"none: {tree.reasons[capability].why}"
    if tree.cpu_ceiling is not None:
        report["cpu"] += f", at most {tree.cpu_ceiling:g} CPUs, granted by the groups above"
    if report["io"] == "cgroup v1":
        # blkio knows the writer of a request only where the writer submits it (cgroup-v1/blkio-controller.rst).
        report["io"] += ": reads, and writes that are direct or synchronous; not what the kernel writes back later"
    report["accounting"] = "cgroup v2" if tree.hierarchies else "none: only the resource usage of reaped processes"
    return report
