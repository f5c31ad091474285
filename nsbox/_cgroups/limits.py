"""From a resource allocation to the list of writes and counters. Pure: a tree in, data out."""

import math

from nsbox._cgroups.model import Counter, CounterSlot, Level, Write
from nsbox._cgroups.tree import CgroupTree
from nsbox._config import ResourceAllocation
from nsbox._errors import ConfigError, UnsupportedHostError

MIB = 1024 * 1024
OWN_PROCESSES = 3
"""Of nsbox in each sandbox, beside the program's: PID 1, a parked child, and one being born."""

PERIOD_USEC = 20_000
"""A group of busy threads stands still for at most about this long. With the kernel's default of 100 ms two threads
under 1.0 core stood still for 52 ms at a time, with 20 ms for 12 to 20; with 10 ms a single thread under 1.0 core was
throttled too, for slices lost on the other CPU (measured)."""

SOCKET_BUFFERS = "memory.kmem.tcp.limit_in_bytes"
"""Of v1; of UDP and others too, whatever its name says."""

_LEAST_ROOM = 16 * MIB
_MIN_QUOTA_USEC = 1_000  # the kernel's floor of the quota, and 1 s its ceiling of the period, sched/sched-bwc.rst
_MAX_PERIOD_USEC = 1_000_000
_WEIGHTS = {"low": 20, "high": 500}  # v2: 1 to 10,000, default 100
_SHARES = {"low": 205, "high": 5_120}  # v1: default 1,024; the same ratios


def sandbox_hierarchies(tree: CgroupTree, resources: ResourceAllocation) -> frozenset[int]:
    """In which hierarchies a sandbox needs a directory: those of cpuset and blkio only when it asks for them."""
    asked = {"memory", "pids", "cpu"} | on_demand(resources)
    if "io" in asked:
        asked.add("blkio")
    return frozenset(
        index
        for index, hierarchy in enumerate(tree.hierarchies)
        if hierarchy.version == 2 or hierarchy.controllers & asked
    )


def on_demand(resources: ResourceAllocation) -> frozenset[str]:
    """The controllers that only some sandboxes need, for `CgroupTree.enable`."""
    wanted = set()
    if resources.cpu.cpuset is not None:
        wanted.add("cpuset")
    if resources.disk.iops_limit is not None or resources.disk.throughput_mbps is not None:
        wanted.add("io")
    return frozenset(wanted)


def sandbox_writes(
    tree: CgroupTree,
    resources: ResourceAllocation,
    *,
    io_device: tuple[int, int] | None,
    enforce_memory: bool = True,
) -> tuple[Write, ...]:
    """What to write into the directories of a sandbox, in order.

    The default limits (memory, processes, CPU) are left out where the tree lacks them: rlimits and sampling stand in,
    and `tree.lacks` says so. What was asked for and has no stand-in is refused.

    Args:
        tree: What this host gives.
        resources: The sandbox's allocation.
        io_device: Major and minor number of the device below the writable layer; needed with a disk rate limit.
        enforce_memory: False: no memory limit is set, an excess is only reported.

    Raises:
        ConfigError: A CPU of the cpuset that is not there, or not allowed to us.
        UnsupportedHostError: cpuset, disk rates or oom_kill_disable where the tree cannot give them.
        ValueError: A disk rate without `io_device`.
    """
    _refuse_unsupported(tree, resources)
    writes: list[Write] = []
    if tree.hierarchies:
        # cpu is not passed on: its limits are the sandbox's, cpu.stat needs no controller, and each further group
        # with it costs a run queue per CPU.
        passed_on = sorted(tree.hierarchies[0].controllers & {"memory", "pids"})
        if passed_on:
            _add(writes, 0, Level.SANDBOX, "cgroup.subtree_control", " ".join(f"+{name}" for name in passed_on))
    if enforce_memory:
        limit = resources.memory.limit_mb * MIB
        suspends = resources.memory.oom_kill_disable
        writes += _memory(tree, Level.SANDBOX, limit, resources.memory.swap_limit_mb * MIB, suspends=suspends)
    processes = resources.processes.max_processes + OWN_PROCESSES
    writes += _processes(tree, Level.SANDBOX, processes)
    writes += _cpu(tree, resources)
    writes += _cpuset(tree, resources)
    writes += _io(tree, resources, io_device)
    return tuple(writes)


def execution_writes(
    tree: CgroupTree, resources: ResourceAllocation, *, memory_bytes: int | None, enforce_memory: bool = True
) -> tuple[Write, ...]:
    """What to write into the directories of an execution, in order.

    Args:
        tree: What this host gives.
        resources: The sandbox's allocation.
        memory_bytes: The execution's own, tighter limit; None: the sandbox's holds.
        enforce_memory: False: the sandbox has no memory limit either.
    """
    writes = _processes(tree, Level.EXECUTION, resources.processes.max_processes)
    memory = tree.index_of("memory")
    if memory is None:
        return tuple(writes)
    if memory_bytes is not None:
        writes += _memory(tree, Level.EXECUTION, memory_bytes, resources.memory.swap_limit_mb * MIB)
        if resources.memory.oom_kill_disable and tree.hierarchies[memory].version == 1:
            _add(writes, memory, Level.EXECUTION, "memory.oom_control", "0")  # a limit of its own still kills
    elif enforce_memory:
        # Buffers are charged where the socket was made, and only if that very group has a limit.
        writes += _socket_buffers(tree, Level.EXECUTION, resources.memory.limit_mb * MIB)
    if "memory.oom.group" in tree.files[memory]:
        # An execution that has lost one process to the OOM killer is over; v1 has no such file, there the
        # supervisor kills the rest when it sees the count.
        _add(writes, memory, Level.EXECUTION, "memory.oom.group", "1")
    return tuple(writes)


def counters(tree: CgroupTree) -> tuple[Counter, ...]:
    """What the launcher reads at the end of an execution; only files that this kernel has."""
    if not tree.hierarchies:
        return ()
    found = [
        Counter(slot=slot, hierarchy=0, level=Level.EXECUTION, file="cpu.stat", key=key)
        for slot, key in (
            (CounterSlot.CPU_USEC, "usage_usec"),
            (CounterSlot.USER_USEC, "user_usec"),
            (CounterSlot.SYSTEM_USEC, "system_usec"),
        )
    ]
    wanted = (  # v1 counts an OOM kill where the victim was, which for a program is always its execution's group
        ("memory", CounterSlot.MEMORY_PEAK, Level.EXECUTION, ("memory.peak", ""), ("memory.max_usage_in_bytes", "")),
        ("memory", CounterSlot.OOM_KILLS, Level.EXECUTION, ("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill")),  # noqa: E501
        ("pids", CounterSlot.PIDS_PEAK, Level.EXECUTION, ("pids.peak", ""), ("pids.peak", "")),
        ("pids", CounterSlot.PIDS_REFUSED, Level.EXECUTION, ("pids.events", "max"), ("pids.events", "max")),
        ("pids", CounterSlot.SANDBOX_PIDS_REFUSED, Level.SANDBOX, ("pids.events", "max"), ("pids.events", "max")),
    )  # fmt: skip
    for controller, slot, level, v2, v1 in wanted:
        index = tree.index_of(controller)
        if index is not None:
            file, key = v2 if tree.hierarchies[index].version == 2 else v1
            if file in tree.files[index]:
                found.append(Counter(slot=slot, hierarchy=index, level=level, file=file, key=key))
    return tuple(found)


def cpu_bandwidth(cores: float) -> tuple[int, int]:
    """Quota and period in microseconds for so many CPUs' time; at least a thousandth of one CPU.

    The period is PERIOD_USEC, longer only where the quota would fall below the kernel's floor of 1 ms.
    """
    period = PERIOD_USEC
    if cores * period < _MIN_QUOTA_USEC:
        period = min(_MAX_PERIOD_USEC, math.ceil(_MIN_QUOTA_USEC / cores))
    return max(_MIN_QUOTA_USEC, round(cores * period)), period


def suspension_room(limit: int) -> int:
    """Bytes above its limit within which a sandbox on v2 is suspended before the kernel kills."""
    return max(_LEAST_ROOM, limit // 10)


def _refuse_unsupported(tree: CgroupTree, resources: ResourceAllocation) -> None:
    asked = {"cpuset": "cpuset", "io": "io_limit"}
    missing = [asked[controller] for controller in sorted(on_demand(resources)) if asked[controller] in tree.reasons]
    if resources.memory.oom_kill_disable and "oom_suspend" in tree.reasons:
        missing.append("oom_suspend")
    if missing:
        raise UnsupportedHostError(
            "the configuration asks for what this host's cgroups cannot do: "
            + "; ".join(f"{name}: {tree.reasons[name].why}" for name in missing),
            missing=tuple(missing),
            remedies=tuple(tree.reasons[name].remedy for name in missing),
        )


def _memory(tree: CgroupTree, level: Level, limit: int, swap: int, *, suspends: bool = False) -> list[Write]:
    writes: list[Write] = []
    index = tree.index_of("memory")
    if index is None:
        return writes
    if tree.hierarchies[index].version == 2:
        if suspends:  # at memory.high the kernel slows processes down, until the supervisor has suspended them
            _add(writes, index, level, "memory.high", str(limit))
        _add(writes, index, level, "memory.max", str(limit + suspension_room(limit) if suspends else limit))
        if "memory.swap.max" in tree.files[index]:
            _add(writes, index, level, "memory.swap.max", str(swap))
        return writes
    # memsw is memory and swap together and never below the memory limit, so that one comes first in a fresh group.
    _add(writes, index, level, "memory.limit_in_bytes", str(limit))
    if "memory.memsw.limit_in_bytes" in tree.files[index]:
        _add(writes, index, level, "memory.memsw.limit_in_bytes", str(limit + swap))
    elif swap == 0:
        _add(writes, index, level, "memory.swappiness", "0")  # swap is not accounted: at least do not use it
    if suspends:
        _add(writes, index, level, "memory.oom_control", "1")  # executions inherit it when made
    return writes + _socket_buffers(tree, level, limit)


def _socket_buffers(tree: CgroupTree, level: Level, limit: int) -> list[Write]:
    """TCP's and UDP's, which v1 does not count as memory: 64 MiB of limit took 2.3 GiB of buffers (measured).

    On v2 they are memory like any other. See memory.kmem.tcp.* in admin-guide/cgroup-v1/memory.rst.
    """
    index = tree.index_of("memory")
    if index is None or SOCKET_BUFFERS not in tree.files[index]:
        return []
    return [Write(hierarchy=index, level=level, file=SOCKET_BUFFERS, value=str(limit))]


def _processes(tree: CgroupTree, level: Level, limit: int) -> list[Write]:
    index = tree.index_of("pids")
    if index is None:
        return []
    return [Write(hierarchy=index, level=level, file="pids.max", value=str(limit))]


def _cpu(tree: CgroupTree, resources: ResourceAllocation) -> list[Write]:
    writes: list[Write] = []
    index = tree.index_of("cpu")
    if index is None:
        return writes
    priority = resources.cpu.priority
    cores = resources.cpu.cores * resources.cpu.limit_percent / 100
    if tree.hierarchies[index].version == 2:
        if "cpu.max" in tree.files[index]:
            quota, period = cpu_bandwidth(cores)
            _add(writes, index, Level.SANDBOX, "cpu.max", f"{quota} {period}")
        if priority in _WEIGHTS:
            _add(writes, index, Level.SANDBOX, "cpu.weight", str(_WEIGHTS[priority]))
        return writes
    if "cpu.cfs_quota_us" in tree.files[index]:
        quota, period = cpu_bandwidth(cores if tree.cpu_ceiling is None else min(cores, tree.cpu_ceiling))
        _add(writes, index, Level.SANDBOX, "cpu.cfs_period_us", str(period))
        _add(writes, index, Level.SANDBOX, "cpu.cfs_quota_us", str(quota))
    if priority in _SHARES:
        _add(writes, index, Level.SANDBOX, "cpu.shares", str(_SHARES[priority]))
    return writes


def _cpuset(tree: CgroupTree, resources: ResourceAllocation) -> list[Write]:
    writes: list[Write] = []
    index = tree.index_of("cpuset")
    if index is None:
        return writes
    hierarchy = tree.hierarchies[index]
    asked = resources.cpu.cpuset
    if asked is None:
        # A cpuset mounted together with a controller we need must be filled, or takes no process.
        if hierarchy.version == 2 or not hierarchy.controllers - {"cpuset"}:
            return writes
        asked = sorted(tree.allowed_cpus)
    outside = sorted(set(asked) - tree.allowed_cpus)
    if outside:
        allowed = ", ".join(map(str, sorted(tree.allowed_cpus)))
        raise ConfigError(f"resources.cpu.cpuset={list(asked)!r}: CPUs {outside} are not there; allowed: {allowed}")
    _add(writes, index, Level.SANDBOX, "cpuset.cpus", ",".join(map(str, sorted(set(asked)))))
    if hierarchy.version == 1:
        _add(writes, index, Level.SANDBOX, "cpuset.mems", tree.memory_nodes)
    return writes


def _io(tree: CgroupTree, resources: ResourceAllocation, io_device: tuple[int, int] | None) -> list[Write]:
    writes: list[Write] = []
    index = tree.index_of("io")
    disk = resources.disk
    if index is None or "io" not in on_demand(resources):
        return writes
    if io_device is None:
        raise ValueError("a disk rate limit needs the device that it is for")
    device = f"{io_device[0]}:{io_device[1]}"
    rate = None if disk.throughput_mbps is None else max(1, int(disk.throughput_mbps * MIB))
    limits = (("bps", rate), ("iops", disk.iops_limit))
    if tree.hierarchies[index].version == 2:
        words = [f"{way}{unit}={value}" for unit, value in limits if value is not None for way in "rw"]
        _add(writes, index, Level.SANDBOX, "io.max", " ".join([device, *words]))
        return writes
    for unit, value in limits:
        if value is not None:
            for way in ("read", "write"):
                _add(writes, index, Level.SANDBOX, f"blkio.throttle.{way}_{unit}_device", f"{device} {value}")
    return writes


def _add(writes: list[Write], hierarchy: int, level: Level, file: str, value: str) -> None:
    writes.append(Write(hierarchy=hierarchy, level=level, file=file, value=value))
