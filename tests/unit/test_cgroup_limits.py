"""The pure part of the cgroup decisions: an allocation and a tree in, writes and counters out."""

from pathlib import Path
from typing import Literal

import pytest

from nsbox._cgroups import (
    CAPABILITIES,
    CgroupTree,
    CounterSlot,
    Hierarchy,
    Lack,
    Level,
    counters,
    execution_writes,
    isolation_report,
    sandbox_hierarchies,
    sandbox_writes,
)
from nsbox._cgroups.discover import locate, parse_list, parse_mounts
from nsbox._cgroups.lacks import find_lacks
from nsbox._cgroups.limits import cpu_bandwidth
from nsbox._config import CpuAllocation, DiskAllocation, MemoryAllocation, ProcessAllocation, ResourceAllocation
from nsbox._errors import ConfigError, UnsupportedHostError

MIB = 1 << 20
V2_FILES = frozenset({
    "cgroup.kill", "cgroup.freeze", "cpu.stat", "cpu.max", "cpu.weight", "memory.max", "memory.swap.max",
    "memory.oom.group", "memory.peak", "memory.events", "pids.max", "pids.peak", "pids.events",
})  # fmt: skip
V1_FILES = {
    "memory": frozenset({
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control", "memory.max_usage_in_bytes",
        "memory.kmem.tcp.limit_in_bytes",
    }),
    "pids": frozenset({"pids.max", "pids.peak", "pids.events"}),
    "cpu": frozenset({"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"}),
    "cpuset": frozenset({"cpuset.cpus", "cpuset.mems"}),
    "blkio": frozenset({"blkio.throttle.read_bps_device"}),
}  # fmt: skip


def make_tree(
    *hierarchies: tuple[Hierarchy, frozenset[str]],
    mode: Literal["unified", "hybrid", "none"],
    cpu_ceiling: float | None = None,
) -> CgroupTree:
    """A tree as `nsbox._cgroups.make_tree` would make it, on paper."""
    found, files = tuple(h for h, _ in hierarchies), tuple(f for _, f in hierarchies)
    return CgroupTree(
        mode=mode,
        hierarchies=found,
        files=files,
        reasons=find_lacks(found, files, {"": Lack(why="nothing is delegated", remedy="delegate something")}),
        allowed_cpus=frozenset({0, 1, 3}),
        memory_nodes="0-1",
        cpu_ceiling=cpu_ceiling,
    )


def unified(controllers: str = "memory pids cpu cpuset io", files: frozenset[str] = V2_FILES) -> CgroupTree:
    """A tree of a unified host."""
    hierarchy = Hierarchy(
        name="unified", path=Path("/v2/b"), version=2, controllers=frozenset(controllers.split()), per_execution=True
    )
    return make_tree((hierarchy, files), mode="unified")


def hybrid(*names: str, cpu_ceiling: float | None = None, drop: frozenset[str] = frozenset()) -> CgroupTree:
    """A tree of a hybrid host with these v1 mounts, without the files `drop`."""
    v2 = Hierarchy(name="unified", path=Path("/v2/b"), version=2, controllers=frozenset(), per_execution=True)
    parts = [(v2, frozenset({"cgroup.kill", "cgroup.freeze", "cpu.stat"}))]
    for name in names or ("blkio", "cpu", "cpuset", "memory", "pids"):
        controllers = frozenset(name.split(",")) & V1_FILES.keys()
        files = frozenset[str]().union(*(V1_FILES[controller] for controller in controllers)) - drop
        parts.append(
            (
                Hierarchy(
                    name=name,
                    path=Path("/v1", name),
                    version=1,
                    controllers=controllers,
                    per_execution=bool(controllers & {"memory", "pids"}),
                ),
                files,
            )
        )
    return make_tree(*parts, mode="hybrid", cpu_ceiling=cpu_ceiling)


NOTHING = make_tree(mode="none")


def lines(tree: CgroupTree, resources: ResourceAllocation, **arguments: bool) -> list[tuple[str, str, str]]:
    """(hierarchy, file, value) of each write into a sandbox's directories."""
    writes = sandbox_writes(tree, resources, io_device=(7, 3), **arguments)
    assert {write.level for write in writes} <= {Level.SANDBOX}
    return [(tree.hierarchies[write.hierarchy].name, write.file, write.value) for write in writes]


def test_on_v2_the_controllers_are_passed_on_first_and_the_limits_follow() -> None:
    """Memory and pids reach the executions; cpu, cpuset and io stay with the sandbox, whose limits they are."""
    resources = ResourceAllocation(
        cpu=CpuAllocation(cores=1.5, limit_percent=50, priority="low", cpuset=[3, 0]),
        memory=MemoryAllocation(limit_mb=100, swap_limit_mb=20),
        disk=DiskAllocation(iops_limit=500, throughput_mbps=1.5),
        processes=ProcessAllocation(max_processes=10),
    )
    assert lines(unified(), resources) == [
        ("unified", "cgroup.subtree_control", "+memory +pids"),
        ("unified", "memory.max", str(100 * MIB)),
        ("unified", "memory.swap.max", str(20 * MIB)),
        ("unified", "pids.max", "13"),
        ("unified", "cpu.max", "15000 20000"),
        ("unified", "cpu.weight", "20"),
        ("unified", "cpuset.cpus", "0,3"),
        ("unified", "io.max", f"7:3 rbps={3 * MIB // 2} wbps={3 * MIB // 2} riops=500 wiops=500"),
    ]


def test_on_a_hybrid_host_every_limit_goes_to_its_own_v1_hierarchy() -> None:
    """The memsw limit comes after the memory limit, cpus and mems are both set, the period comes before the quota."""
    resources = ResourceAllocation(
        cpu=CpuAllocation(cores=1.0, priority="high", cpuset=[1]),
        memory=MemoryAllocation(limit_mb=100, swap_limit_mb=20),
        disk=DiskAllocation(throughput_mbps=2),
        processes=ProcessAllocation(max_processes=10),
    )
    assert lines(hybrid(), resources) == [
        ("memory", "memory.limit_in_bytes", str(100 * MIB)),
        ("memory", "memory.memsw.limit_in_bytes", str(120 * MIB)),
        ("memory", "memory.kmem.tcp.limit_in_bytes", str(100 * MIB)),
        ("pids", "pids.max", "13"),
        ("cpu", "cpu.cfs_period_us", "20000"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.shares", "5120"),
        ("cpuset", "cpuset.cpus", "1"),
        ("cpuset", "cpuset.mems", "0-1"),
        ("blkio", "blkio.throttle.read_bps_device", f"7:3 {2 * MIB}"),
        ("blkio", "blkio.throttle.write_bps_device", f"7:3 {2 * MIB}"),
    ]


def test_a_sandbox_that_asks_for_no_cpuset_and_no_disk_rate_needs_no_directory_there() -> None:
    """The two hierarchies cost their mkdir only where they are used; the others are always used."""
    tree = hybrid()
    names = [hierarchy.name for hierarchy in tree.hierarchies]
    plain = {names[index] for index in sandbox_hierarchies(tree, ResourceAllocation())}
    assert plain == {"unified", "memory", "pids", "cpu"}
    pinned = ResourceAllocation(cpu=CpuAllocation(cpuset=[0]))
    assert {names[i] for i in sandbox_hierarchies(tree, pinned)} == plain | {"cpuset"}
    throttled = ResourceAllocation(disk=DiskAllocation(iops_limit=10))
    assert {names[i] for i in sandbox_hierarchies(tree, throttled)} == plain | {"blkio"}


def test_every_write_goes_to_a_hierarchy_in_which_the_sandbox_has_a_directory() -> None:
    """For plain, pinned and throttled sandboxes, on every kind of tree."""
    for tree in (unified(), hybrid(), hybrid("cpu,cpuacct,cpuset", "memory,pids", "blkio"), NOTHING):
        for resources in (ResourceAllocation(), ResourceAllocation(cpu=CpuAllocation(cpuset=[0]))):
            if tree is NOTHING and resources.cpu.cpuset is not None:
                continue
            used = sandbox_hierarchies(tree, resources)
            writes = sandbox_writes(tree, resources, io_device=None)
            below = execution_writes(tree, resources, memory_bytes=MIB)
            assert {write.hierarchy for write in (*writes, *below)} <= used
            assert all(tree.hierarchies[write.hierarchy].per_execution for write in below)
            assert {write.level for write in below} <= {Level.EXECUTION}


def test_a_cpuset_mounted_together_with_cpu_is_filled_even_when_not_asked_for() -> None:
    """An empty v1 cpuset takes no process; alone, it is left alone."""
    together = lines(hybrid("cpu,cpuset", "memory", "pids"), ResourceAllocation())
    assert ("cpu,cpuset", "cpuset.cpus", "0,1,3") in together
    assert ("cpu,cpuset", "cpuset.mems", "0-1") in together
    assert not [line for line in lines(hybrid(), ResourceAllocation()) if line[1].startswith("cpuset")]


@pytest.mark.parametrize(
    ("cores", "quota", "period"),
    [
        (1.0, 20_000, 20_000),
        (0.05, 1_000, 20_000),
        (0.01, 1_000, 100_000),
        (0.001, 1_000, 1_000_000),
        (64.0, 1_280_000, 20_000),
    ],
)
def test_the_bandwidth_keeps_the_kernels_floor_and_ceiling(cores: float, quota: int, period: int) -> None:
    """A quota of at least 1 ms, a period of at most 1 s, and the ratio that was asked for."""
    assert cpu_bandwidth(cores) == (quota, period)


def test_any_number_of_cores_gives_a_valid_bandwidth_within_two_percent() -> None:
    """From a thousandth of a CPU to eight CPUs, in steps of a thousandth."""
    for thousandths in range(1, 8_001):
        quota, period = cpu_bandwidth(thousandths / 1000)
        assert quota >= 1_000
        assert 1_000 <= period <= 1_000_000
        assert quota / period == pytest.approx(thousandths / 1000, rel=0.02)


def test_on_v1_no_more_cpu_is_asked_for_than_the_groups_above_grant() -> None:
    """More would be EINVAL there; v2 caps it itself."""
    resources = ResourceAllocation(cpu=CpuAllocation(cores=4))
    assert ("cpu", "cpu.cfs_quota_us", "30000") in lines(hybrid(cpu_ceiling=1.5), resources)
    assert ("cpu", "cpu.cfs_quota_us", "80000") in lines(hybrid(), resources)


def test_a_cpu_that_is_not_there_is_a_config_error_that_names_those_that_are() -> None:
    """The same CPUs without the wrong one are accepted."""
    for tree in (unified(), hybrid()):
        with pytest.raises(ConfigError, match=r"cpuset=.*2.*allowed: 0, 1, 3"):
            sandbox_writes(tree, ResourceAllocation(cpu=CpuAllocation(cpuset=[1, 2])), io_device=None)
        assert sandbox_writes(tree, ResourceAllocation(cpu=CpuAllocation(cpuset=[1, 3])), io_device=None)


def test_without_cgroups_the_defaults_pass_and_what_has_no_stand_in_is_refused() -> None:
    """A cpuset and a disk rate are refused with reason and remedy; no write is made for the rest."""
    assert sandbox_writes(NOTHING, ResourceAllocation(), io_device=None) == ()
    assert execution_writes(NOTHING, ResourceAllocation(), memory_bytes=MIB) == ()
    assert counters(NOTHING) == ()
    assert set(NOTHING.lacks) == set(CAPABILITIES)
    asked = ResourceAllocation(cpu=CpuAllocation(cpuset=[0]), disk=DiskAllocation(iops_limit=5))
    with pytest.raises(UnsupportedHostError) as caught:
        sandbox_writes(NOTHING, asked, io_device=(7, 0))
    assert caught.value.missing == ("cpuset", "io_limit")
    assert caught.value.remedies == ("delegate something", "delegate something")


def test_oom_kill_disable_holds_at_the_limit_on_v1_and_slows_down_there_on_v2() -> None:
    """v2 has no switch: its limit is memory.high, and memory.max some way above. Without them it is refused."""
    resources = ResourceAllocation(memory=MemoryAllocation(oom_kill_disable=True))
    assert ("memory", "memory.oom_control", "1") in lines(hybrid(), resources)
    assert ("memory", "memory.oom_control", "1") not in lines(hybrid(), ResourceAllocation())
    own = execution_writes(hybrid(), resources, memory_bytes=32 * MIB)
    assert ("memory.oom_control", "0") in [(write.file, write.value) for write in own]  # a limit of its own kills
    tree = unified(files=V2_FILES | {"memory.high"})
    names = [name for name, file, _ in lines(tree, resources) if file == "memory.high"]
    assert len(names) == 1
    assert (names[0], "memory.high", str(512 * MIB)) in lines(tree, resources)
    assert (names[0], "memory.max", str((512 + 51) * MIB + 209715)) in lines(tree, resources)
    small = ResourceAllocation(memory=MemoryAllocation(limit_mb=64, oom_kill_disable=True))
    assert (names[0], "memory.max", str(80 * MIB)) in lines(tree, small)
    assert "memory.high" not in [file for _, file, _ in lines(tree, ResourceAllocation())]
    with pytest.raises(UnsupportedHostError) as caught:
        lines(unified(files=V2_FILES - {"memory.high"}), resources)
    assert caught.value.missing == ("oom_suspend",)


def test_memory_that_is_not_enforced_gets_no_limit() -> None:
    """Only the supervisor's reports are left then; the other limits stay."""
    for tree in (unified(), hybrid()):
        written = [file for _, file, _ in lines(tree, ResourceAllocation(), enforce_memory=False)]
        assert not [file for file in written if file.startswith("memory.")]
        assert "pids.max" in written


def test_without_swap_accounting_swap_is_at_least_not_used() -> None:
    """v1 without memsw: swappiness 0; v2 without memory.swap.max: only the memory limit."""
    tree = hybrid(drop=frozenset({"memory.memsw.limit_in_bytes"}))
    written = lines(tree, ResourceAllocation())
    assert ("memory", "memory.swappiness", "0") in written
    assert "memory.memsw.limit_in_bytes" not in [file for _, file, _ in written]
    assert "swap_limit" in tree.lacks
    no_swap = lines(unified(files=V2_FILES - {"memory.swap.max"}), ResourceAllocation())
    assert "memory.swap.max" not in [file for _, file, _ in no_swap]


def test_an_execution_has_its_process_limit_and_a_memory_limit_only_when_tightened() -> None:
    """On v2 an OOM kill takes the whole execution, which v1 cannot do."""
    resources = ResourceAllocation(
        memory=MemoryAllocation(limit_mb=64, swap_limit_mb=1), processes=ProcessAllocation(max_processes=5)
    )

    def written(tree: CgroupTree, memory_bytes: int | None) -> list[tuple[str, str]]:
        return [(w.file, w.value) for w in execution_writes(tree, resources, memory_bytes=memory_bytes)]

    assert written(unified(), None) == [("pids.max", "5"), ("memory.oom.group", "1")]
    assert written(unified(), MIB) == [
        ("pids.max", "5"), ("memory.max", str(MIB)), ("memory.swap.max", str(MIB)), ("memory.oom.group", "1"),
    ]  # fmt: skip
    assert written(hybrid(), None) == [("pids.max", "5"), ("memory.kmem.tcp.limit_in_bytes", str(64 * MIB))]
    assert written(hybrid(), MIB) == [
        ("pids.max", "5"), ("memory.limit_in_bytes", str(MIB)), ("memory.memsw.limit_in_bytes", str(2 * MIB)),
        ("memory.kmem.tcp.limit_in_bytes", str(MIB)),
    ]  # fmt: skip
    old = hybrid(drop=frozenset({"memory.kmem.tcp.limit_in_bytes"}))
    for tree, enforce in ((old, True), (hybrid(), False)):
        plain = execution_writes(tree, resources, memory_bytes=None, enforce_memory=enforce)
        assert [(write.file, write.value) for write in plain] == [("pids.max", "5")]


def test_the_counters_are_the_same_on_v1_and_v2_and_each_has_a_slot_of_its_own() -> None:
    """CPU time is always v2's; a file that the kernel lacks is left out."""
    expected = set(CounterSlot) - {CounterSlot.READ_BYTES, CounterSlot.WRITTEN_BYTES}
    for tree in (unified(), hybrid()):
        found = counters(tree)
        assert {counter.slot for counter in found} == expected
        assert len(found) == len(expected)
        assert all(tree.hierarchies[c.hierarchy].per_execution for c in found if c.level is Level.EXECUTION)
    without_peak = counters(unified(files=V2_FILES - {"memory.peak"}))
    assert {counter.slot for counter in without_peak} == expected - {CounterSlot.MEMORY_PEAK}
    assert max(CounterSlot) < 16


def test_a_disk_rate_without_a_device_is_the_callers_mistake() -> None:
    """With the device it is written, see above."""
    with pytest.raises(ValueError, match="device"):
        sandbox_writes(unified(), ResourceAllocation(disk=DiskAllocation(iops_limit=1)), io_device=None)


def test_the_report_says_who_controls_what() -> None:
    """By version where it is there, with the reason where it is not."""
    assert isolation_report(unified())["memory"] == "cgroup v2"
    report = isolation_report(hybrid("memory", "pids", cpu_ceiling=None))
    assert (report["cgroups"], report["memory"], report["kill"]) == ("hybrid", "cgroup v1", "cgroup v2")
    assert report["cpu"].startswith("none: ")
    assert isolation_report(NOTHING)["freezer"] == "none: nothing is delegated"


MOUNTS = """\
22 1 0:21 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw,nsdelegate
36 31 0:38 /.. /mnt/outside rw - cgroup2 cgroup2 rw
"""
MEMBERSHIP = "4:memory:/a/b\n3:cpu,cpuacct:/docker/abc/x\n1:name=systemd:/\n0::/user.slice\n"


def test_mounts_are_found_with_our_place_in_them() -> None:
    """v2 first; escapes undone; named hierarchies left out; the mount that shows our own cgroup wins."""
    found = parse_mounts(MOUNTS, MEMBERSHIP)
    assert [(mount.name, mount.version) for mount in found] == [("unified", 2), ("cpu,cpuacct", 1), ("memory", 1)]
    assert [str(mount.own) for mount in found] == [
        "/sys/fs/cgroup/uni fied/user.slice",
        "/sys/fs/cgroup/cpu,cpuacct/x",
        "/sys/fs/cgroup/memory/a/b",
    ]


def test_a_cgroup_that_a_mount_does_not_show_has_no_directory() -> None:
    """Beside the mount's root, or outside of the namespace; the mount's root itself is its mount point."""
    point = Path("/mnt")
    assert locate(point, "/docker/abc", "/docker/abc") == point
    assert locate(point, "/docker/abc", "/docker/abcd") is None
    assert locate(point, "/..", "/") is None
    assert locate(point, "/", "/../other") is None


def test_the_kernels_list_format_is_read() -> None:
    """Ranges, single numbers and nothing at all (cpuset(7))."""
    assert parse_list("0-2,7\n") == {0, 1, 2, 7}
    assert parse_list("\n") == frozenset()
