"""The cgroup tree against the kernel: made, filled as the launcher does it, limiting, removed.

The few lines of `Groups` stand for the launcher: they make the directories of one sandbox and one execution and carry
out the list of writes. A process joins by cgroup.procs here, which the launcher never does on its way.
"""

import ctypes
import errno
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked import in_child

from nsbox._cgroups import (
    CgroupTree,
    CounterSlot,
    Level,
    Move,
    Write,
    collect_garbage,
    counters,
    execution_writes,
    isolation_report,
    make_tree,
    sandbox_hierarchies,
    sandbox_writes,
)
from nsbox._cgroups import base as base_module
from nsbox._cgroups import v1 as _v1
from nsbox._cgroups.base import remove_subtree, subtree
from nsbox._cgroups.discover import CgroupMount, read_mounts
from nsbox._cgroups.parents import MOVE_VARIABLE, PARENT_VARIABLE
from nsbox._config import CpuAllocation, DiskAllocation, MemoryAllocation, ProcessAllocation, ResourceAllocation
from nsbox._errors import ConfigError, SetupError, UnsupportedHostError

USER = 65_533
MIB = 1 << 20
EAT = "x = bytearray({}); print('had it', flush=True)"


class Groups:
    """One sandbox with one execution below a tree, in every hierarchy that it uses."""

    def __init__(self, tree: CgroupTree, resources: ResourceAllocation, memory_bytes: int | None = None) -> None:
        self.tree = tree
        self.used = sorted(sandbox_hierarchies(tree, resources))
        tree.enable(frozenset({"cpuset"}) if resources.cpu.cpuset is not None else frozenset())
        for index in self.used:
            (tree.hierarchies[index].path / "s1").mkdir()
        self.carry_out(sandbox_writes(tree, resources, io_device=None))
        for index in self.used:
            if tree.hierarchies[index].version == 2:
                (tree.hierarchies[index].path / "s1/init").mkdir()
            if tree.hierarchies[index].per_execution:
                (tree.hierarchies[index].path / "s1/e1").mkdir()
        self.carry_out(execution_writes(tree, resources, memory_bytes=memory_bytes))

    def directory(self, index: int, level: Level) -> Path:
        """The sandbox's or the execution's directory."""
        sandbox = self.tree.hierarchies[index].path / "s1"
        return sandbox / "e1" if level is Level.EXECUTION else sandbox

    def carry_out(self, writes: tuple[Write, ...]) -> None:
        """The list of writes, each to a file that is there."""
        for write in writes:
            descriptor = os.open(self.directory(write.hierarchy, write.level) / write.file, os.O_WRONLY)
            try:
                os.write(descriptor, write.value.encode())
            finally:
                os.close(descriptor)

    def join(self) -> None:
        """Move the calling process into the execution's groups."""
        for index in self.used:
            level = Level.EXECUTION if self.tree.hierarchies[index].per_execution else Level.SANDBOX
            (self.directory(index, level) / "cgroup.procs").write_text("0")

    def run(self, program: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program in the execution."""
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", program],
            preexec_fn=self.join,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def read(self, slot: CounterSlot) -> int:
        """A counter, as the launcher reads it."""
        counter = next(counter for counter in counters(self.tree) if counter.slot is slot)
        text = (self.directory(counter.hierarchy, counter.level) / counter.file).read_text()
        if not counter.key:
            return int(text)
        return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == counter.key)


@contextmanager
def a_tree(**arguments: str) -> Iterator[CgroupTree]:
    """A tree of this process, removed at the end."""
    tree = make_tree(environ={}, **arguments)  # type: ignore[arg-type]
    try:
        yield tree
    finally:
        tree.remove()


def v2_mount() -> CgroupMount:
    """The v2 hierarchy of this host."""
    return next(mount for mount in read_mounts() if mount.version == 2)


@contextmanager
def a_cgroup(name: str, mount: CgroupMount | None = None) -> Iterator[Path]:
    """A v2 cgroup of the test, removed with everything in it."""
    directory = (mount or v2_mount()).point / f"nsbox-{os.getpid()}-{name}"
    directory.mkdir()
    try:
        yield directory
    finally:
        remove_subtree(directory)


def sleeper(join: Callable[[], None]) -> int:
    """The pid of a child that joined something and now waits to be killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            join()
            os.write(tell, b"!")
            os.closerange(3, 256)  # as every process of a sandbox does: the locks are the launcher's to hold
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        assert pipe.read(1) == b"!", "the child could not join"
    return pid


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_a_tree_is_made_where_we_are_and_removed_without_a_trace() -> None:
    """A base directory in every hierarchy, ours alone, open in the same order; nothing of it after remove."""
    tree = make_tree(environ={})
    assert tree.mode in ("unified", "hybrid")
    assert tree.hierarchies[0].version == 2
    assert len(tree.dirfds) == len(tree.hierarchies) == len(tree.files)
    for hierarchy, descriptor in zip(tree.hierarchies, tree.dirfds, strict=True):
        assert os.fstat(descriptor).st_ino == hierarchy.path.stat().st_ino
        assert hierarchy.path.stat().st_mode & 0o777 == 0o700
        assert not os.get_inheritable(descriptor)
    tree.remove()
    assert not [hierarchy for hierarchy in tree.hierarchies if hierarchy.path.exists()]
    assert tree.dirfds == ()
    tree.remove()  # idempotent


@pytest.mark.needs_root
@pytest.mark.needs_hybrid
def test_on_a_hybrid_host_v2_kills_and_v1_limits() -> None:
    """Every limit has one hierarchy; nothing is lacking but what only v2 has; our v1 groups lie in those that we are
    in ourselves.
    """
    with a_tree() as tree:
        assert tree.mode == "hybrid"
        assert tree.lacks.keys() == {"memory_reclaim"}
        report = isolation_report(tree)
        assert (report["memory"], report["cpu"], report["processes"]) == ("cgroup v1",) * 3
        assert (report["freezer"], report["kill"], report["accounting"]) == ("cgroup v2",) * 3
        own = {mount.name: mount.own for mount in read_mounts()}
        assert all(hierarchy.path.parent == own[hierarchy.name] for hierarchy in tree.hierarchies)


@pytest.mark.needs_root
@pytest.mark.needs_unified
def test_on_a_unified_host_v2_does_it_all() -> None:
    """One hierarchy with memory, pids and cpu enabled for the sandboxes below."""
    with a_tree() as tree:
        assert tree.mode == "unified"
        assert len(tree.hierarchies) == 1
        assert not {"memory_limit", "process_limit", "cpu_limit", "cgroup_kill", "cgroup_freeze"} & set(tree.lacks)
        enabled = set((tree.hierarchies[0].path / "cgroup.subtree_control").read_text().split())
        assert enabled >= {"memory", "pids", "cpu"}


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_the_memory_limit_kills_what_exceeds_it_and_only_that() -> None:
    """150 MiB: has it under 300, is killed under 64, and under an execution's own 64 within a sandbox of 300."""
    large, small = (ResourceAllocation(memory=MemoryAllocation(limit_mb=mb)) for mb in (300, 64))
    for resources, memory_bytes, killed in ((large, None, False), (small, None, True), (large, 64 * MIB, True)):
        with a_tree() as tree:
            groups = Groups(tree, resources, memory_bytes)
            done = groups.run(EAT.format(150 * MIB))
            assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
            assert ("had it" in done.stdout) is not killed
            assert (groups.read(CounterSlot.OOM_KILLS) > 0) is killed
            peak = groups.read(CounterSlot.MEMORY_PEAK)
            # A process that is being killed is let past the limit by some pages, so that it can die: 61 seen.
            assert 60 * MIB < peak < 1.05 * 64 * MIB if killed else peak > 150 * MIB


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_the_process_limit_refuses_one_process_too_many() -> None:
    """An execution of four: the program and three children; the fourth fork fails with EAGAIN and is counted."""
    program = (
        "import os, sys, signal\n"
        "pids = []\n"
        "try:\n"
        "    for _ in range(int({})):\n"
        "        pid = os.fork()\n"
        "        if not pid:\n"
        "            signal.pause()\n"
        "        pids.append(pid)\n"
        "except OSError as exc:\n"
        "    print(exc.errno)\n"
        "print(len(pids))\n"
        "for pid in pids:\n"
        "    os.kill(pid, 9); os.waitpid(pid, 0)\n"
    )
    with a_tree() as tree:
        groups = Groups(tree, ResourceAllocation(processes=ProcessAllocation(max_processes=4)))
        assert groups.run(program.format(3)).stdout.split() == ["3"]
        assert groups.read(CounterSlot.PIDS_REFUSED) == 0
        assert groups.run(program.format(4)).stdout.split() == [str(errno.EAGAIN), "3"]
        assert groups.read(CounterSlot.PIDS_REFUSED) == 1
        assert groups.read(CounterSlot.PIDS_PEAK) == 4


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_the_cpu_limit_throttles_and_the_time_is_counted() -> None:
    """0.05 CPUs: 30 ms of work do not fit into one period; under 8 CPUs nothing is throttled."""
    burn = "import time\nwhile time.process_time() < 0.03: pass"
    for cores, throttled in ((0.05, True), (8.0, False)):
        with a_tree() as tree:
            groups = Groups(tree, ResourceAllocation(cpu=CpuAllocation(cores=cores, priority="high")))
            assert groups.run(burn).returncode == 0
            index = tree.index_of("cpu")
            assert index is not None
            lines = (groups.directory(index, Level.SANDBOX) / "cpu.stat").read_text().splitlines()
            stat = dict(line.split() for line in lines)
            assert (int(stat["nr_throttled"]) > 0) is throttled
            assert groups.read(CounterSlot.CPU_USEC) >= 29_000


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_a_cpuset_pins_and_the_next_sandbox_is_free() -> None:
    """The program sees exactly the CPU that was asked for; without a cpuset all that we have."""
    ask = "import os; print(sorted(os.sched_getaffinity(0)))"
    with a_tree() as tree:
        if "cpuset" in tree.lacks:
            pytest.fail(tree.lacks["cpuset"])
        cpu = max(tree.allowed_cpus)
        assert Groups(tree, ResourceAllocation(cpu=CpuAllocation(cpuset=[cpu]))).run(ask).stdout.split() == [f"[{cpu}]"]
    with a_tree() as tree:
        assert Groups(tree, ResourceAllocation()).run(ask).stdout.strip() == str(sorted(os.sched_getaffinity(0)))


@pytest.mark.needs_root
@pytest.mark.needs_hybrid
def test_disk_rates_are_accepted_by_the_kernel() -> None:
    """The root disk's numbers, for this sandbox alone; the kernel reports them back."""
    block = next((path for path in Path("/sys/block").iterdir() if not path.name.startswith(("loop", "ram"))), None)
    assert block is not None, "no block device"
    major, minor = map(int, (block / "dev").read_text().split(":"))
    resources = ResourceAllocation(disk=DiskAllocation(throughput_mbps=1, iops_limit=70))
    with a_tree() as tree:
        index = tree.index_of("io")
        assert index is not None
        directory = tree.hierarchies[index].path / "s1"
        directory.mkdir()
        writes = [w for w in sandbox_writes(tree, resources, io_device=(major, minor)) if w.hierarchy == index]
        assert len(writes) == 4
        for write in writes:
            (directory / write.file).write_text(write.value)
            assert (directory / write.file).read_text().split() == write.value.split()


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_removing_kills_what_is_left_also_when_frozen() -> None:
    """A process in an execution, once running, once frozen: dead by SIGKILL, and the tree is gone."""
    for frozen in (False, True):
        tree = make_tree(environ={})
        groups = Groups(tree, ResourceAllocation())
        pid = sleeper(groups.join)
        if frozen:
            (tree.hierarchies[0].path / "s1/cgroup.freeze").write_text("1")
        tree.remove()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert not tree.hierarchies[0].path.exists()


@pytest.mark.needs_root
@pytest.mark.needs_hybrid
def test_a_group_without_cgroup_kill_is_emptied_one_by_one() -> None:
    """A process that is only in a v1 group, with a child in another one below."""
    mount = next(mount for mount in read_mounts() if mount.name == "pids")
    with a_cgroup("one-by-one", mount) as group:
        below = group / "s1"
        below.mkdir()
        assert not (group / "cgroup.kill").exists()
        pids = [sleeper(lambda place=place: (place / "cgroup.procs").write_text("0")) for place in (group, below)]  # type: ignore[misc]
        remove_subtree(group)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [-signal.SIGKILL] * 2
        assert not group.exists()


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_what_cannot_be_removed_is_named_and_left_for_the_next_start() -> None:
    """A descriptor-holding process in the group that SIGKILL reaches is no obstacle; we ourselves in it are."""

    def stuck() -> tuple[str, int | None, bool, list[str]]:
        tree = make_tree(environ={})
        base = tree.hierarchies[0].path
        leaf = base / "s1"
        leaf.mkdir()
        with a_cgroup("refuge") as refuge:
            (leaf / "cgroup.procs").write_text("0")
            # cgroup.kill would end this very process, so the clean-up is that of a kernel without it.
            with pytest.raises(SetupError) as caught:
                remove_subtree_without_kill(base)
            (refuge / "cgroup.procs").write_text("0")
            tree.remove()
            gone = not base.exists()
            Path(v2_mount().point / "cgroup.procs").write_text("0")
        return caught.value.stage, caught.value.errno, gone, []

    stage, number, gone, _ = in_child(stuck)
    assert (stage, number) == ("cgroup-remove", errno.EBUSY)
    assert gone


def remove_subtree_without_kill(base: Path) -> None:
    """`remove_subtree` where the kernel has no cgroup.kill, with little patience."""
    write = base_module._write

    def refuse(path: Path, value: str) -> None:
        if path.name == "cgroup.kill":
            raise FileNotFoundError(errno.ENOENT, "as before Linux 5.14", str(path))
        write(path, value)

    base_module._write = refuse
    try:
        remove_subtree(base, seconds=0.05)
    finally:
        base_module._write = write


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_what_a_killed_supervisor_left_is_collected_and_a_living_one_is_not_touched() -> None:
    """The owner dies by SIGKILL with a process in its tree; another tree, of this process, stays whole."""
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            signal.alarm(60)
            tree = make_tree(environ={})
            pid = sleeper(Groups(tree, ResourceAllocation()).join)
            os.write(writer, "\n".join([str(pid), *(str(h.path) for h in tree.hierarchies)]).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    left, *bases = os.read(reader, 4_096).decode().split()  # one write; its child has the pipe too, so no end comes
    os.close(reader)
    with a_tree() as living:
        survivor = sleeper(Groups(living, ResourceAllocation()).join)
        assert not set(map(str, collect_garbage())) & {*bases, *(str(h.path) for h in living.hierarchies)}
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        watch = os.pidfd_open(int(left))
        assert set(bases) <= set(map(str, collect_garbage()))
        assert not [base for base in bases if Path(base).exists()]
        assert os.waitid(os.P_PID, survivor, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        assert is_dead(watch)
        os.close(watch)
    assert os.waitstatus_to_exitcode(os.waitpid(survivor, 0)[1]) == -signal.SIGKILL


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_the_lock_decides_not_the_pid_in_the_name() -> None:
    """A directory with our own living pid is garbage, as after the restart of a container; one locked is not."""
    with a_tree() as tree:
        base = tree.hierarchies[0].path
        abandoned = base.with_name(f"nsbox-{os.getpid()}-0badcafe")
        abandoned.mkdir()
        other_name = base.with_name("nsbox-notes")
        other_name.mkdir()
        try:
            collected = collect_garbage()
            assert abandoned in collected
            assert base not in collected
            assert other_name.exists()
        finally:
            other_name.rmdir()


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_the_lock_lives_on_in_the_launchers_copy_of_the_descriptor() -> None:
    """As long as a child holds the descriptor the tree is not garbage, though the maker gave it up."""
    tree = make_tree(environ={})
    base = tree.hierarchies[0].path
    copies = [os.dup(descriptor) for descriptor in tree.dirfds]
    in_child(tree.remove)  # a forked child only closes its descriptors
    assert base.exists()
    for descriptor in tree.dirfds:
        os.close(descriptor)
    tree._descriptors.clear()
    assert base not in collect_garbage()
    for copy in copies:
        os.close(copy)
    assert base in collect_garbage()


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_a_start_without_descriptors_fails_cleanly_and_the_next_one_works() -> None:
    """At every number of free descriptors: a SetupError that says EMFILE and nothing left, or a whole tree."""

    def starve() -> tuple[set[int | None], int]:
        make_tree(environ={}).remove()  # imports are done
        used = len(list(Path("/proc/self/fd").iterdir())) - 1
        seen: set[int | None] = set()
        for spare in range(20):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, 20_000))
            try:
                tree = make_tree(environ={})
            except SetupError as exc:
                seen.add(exc.errno)
                continue
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, 20_000))
            tree.remove()
            return seen, spare
        raise AssertionError("even 20 descriptors were not enough")

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1_024
    errors, spare = in_child(starve)
    assert errors == {errno.EMFILE}
    assert spare > 1


@pytest.mark.needs_root
@pytest.mark.needs_hybrid
def test_a_user_without_delegation_has_nothing_and_is_told_what_to_do() -> None:
    """Mode none and a reason for every lack; the remedies, carried out by root, give freeze, kill and the limits."""
    in_child(lambda: None, uid=USER)  # the positive control of the helper
    _v1.node_of(v2_mount(), v2_mount().point)  # cgroupspy is imported while we may read it

    def look() -> tuple[str, dict[str, str], dict[str, str], tuple[str, ...]]:
        tree = make_tree(environ={})
        try:
            remedies = {name: lack.remedy for name, lack in tree.reasons.items()}
            return tree.mode, dict(tree.lacks), remedies, tuple(str(h.path) for h in tree.hierarchies)
        finally:
            tree.remove()

    mode, lacks, remedies, paths = in_child(look, uid=USER)
    assert (mode, paths) == ("none", ())
    assert "not writable" in lacks["memory_limit"]
    tops = [mount.point / f"nsbox-{USER}" for mount in read_mounts()]

    def delegated() -> tuple[str, dict[str, str], dict[str, str], tuple[str, ...]]:
        """In a child of root's: do as we are told until the mode is no longer none and no lack is left, then look."""
        done: set[str] = set()
        for _ in range(len(tops)):
            for remedy in {in_child(look, uid=USER)[2].get(name, "") for name in remedies} - done - {""}:
                done.add(remedy)
                commands = remedy.partition(": ")[2].replace("PID", str(os.getpid()))
                subprocess.run(["sh", "-ec", commands], check=True, timeout=10)
        return in_child(look, uid=USER)

    try:
        mode, lacks, _, paths = in_child(delegated)
    finally:
        for top in tops:
            if top.exists():
                remove_subtree(top)
    assert mode == "hybrid"
    assert lacks.keys() == {"memory_reclaim"}
    assert all(f"/nsbox-{USER}/" in path for path in paths)


@pytest.mark.needs_rootless
def test_as_a_user_the_mode_is_reported_and_what_is_there_is_removed_again() -> None:
    """Whatever is delegated here: no hierarchies and all reasons, or hierarchies that are ours."""
    with a_tree() as tree:
        if tree.mode == "none":
            assert tree.hierarchies == ()
            assert "cgroup_kill" in tree.lacks
        else:
            assert tree.hierarchies[0].path.stat().st_uid == os.geteuid()


@pytest.mark.needs_delegation
def test_in_a_delegated_directory_a_user_can_freeze_and_kill() -> None:
    """The v2 base lies in the delegated subtree, and a process can be put there and killed."""
    tree = make_tree(environ={})
    assert tree.mode in ("unified", "hybrid"), tree.lacks
    leaf = tree.hierarchies[0].path / "s1"
    leaf.mkdir()
    pid = sleeper(lambda: void((leaf / "cgroup.procs").write_text("0")))
    tree.remove()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def is_dead(pidfd: int) -> bool:
    """Whether the process has ended, reaped or not (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(10_000))


def void(_: object) -> None:
    """Drop a result."""


@pytest.mark.needs_root
@pytest.mark.lane_unified
def test_a_parent_that_is_asked_for_is_used_or_refused_never_replaced() -> None:
    """By path and by cgroup name, by argument and by variable; a missing one and a senseless one are errors."""
    with a_cgroup("hint") as group:
        name = "/" + str(group.relative_to(v2_mount().point))
        for tree in (
            make_tree(cgroup_parent=group, environ={}),
            make_tree(cgroup_parent=name, environ={}),
            make_tree(environ={PARENT_VARIABLE: str(group)}),
        ):
            assert tree.hierarchies[0].path.parent == group
            tree.remove()
        with pytest.raises(UnsupportedHostError, match="does not exist") as caught:
            make_tree(cgroup_parent=group / "missing", environ={})
        assert caught.value.remedies == (f"mkdir {group}/missing",)
        for senseless in ("relative", "/a/../b"):
            with pytest.raises(ConfigError, match="cgroup_parent"):
                make_tree(cgroup_parent=senseless, environ={})
        assert [path.name for path in subtree(group)] == [group.name]
    with pytest.raises(ConfigError, match=MOVE_VARIABLE):
        make_tree(environ={MOVE_VARIABLE: "perhaps"})


@pytest.mark.needs_root
@pytest.mark.needs_unified
def test_in_a_private_namespace_with_processes_in_its_root_one_has_to_ask_for_the_move() -> None:
    """As in a container: freeze and kill without moving, and the remedy; all limits after moving ourselves."""
    mount = v2_mount()
    (mount.point / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    with a_cgroup("container", mount) as group:

        def contained() -> tuple[str, str, bool, str, str]:
            (group / "cgroup.procs").write_text("0")
            enter_cgroup_namespace()
            before = make_tree(environ={})
            before_mode, why = before.mode, before.lacks["memory_limit"]
            kills = "cgroup_kill" not in before.lacks
            before.remove()
            tree = make_tree(move_own=Move.SELF, environ={})
            own = Path("/proc/self/cgroup").read_text().strip()
            after = tree.mode
            tree.remove()
            again = make_tree(environ={})  # from the leaf, the group above is empty and can be used
            again.remove()
            return before_mode, why, kills, after, f"{own} {again.mode}"

        before, why, kills, after, own = in_child(contained)
        assert (before, kills) == ("hybrid", True)
        assert "holds processes" in why
        assert f"{MOVE_VARIABLE}=1" in why
        assert after == "unified"
        assert own == "0::/nsbox-app unified"


@pytest.mark.needs_root
@pytest.mark.needs_unified
def test_a_foreign_process_in_our_group_is_only_moved_when_all_may_be() -> None:
    """With Move.SELF the other process keeps the controllers away, and stays; with Move.ALL it is moved too."""
    mount = v2_mount()
    (mount.point / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    with a_cgroup("shared", mount) as group:
        other = sleeper(lambda: void((group / "cgroup.procs").write_text("0")))

        def contained() -> tuple[str, str, str, str]:
            (group / "cgroup.procs").write_text("0")
            enter_cgroup_namespace()
            alone = make_tree(move_own=Move.SELF, environ={})
            alone_mode, place = alone.mode, Path(f"/proc/{other}/cgroup").read_text().strip()
            alone.remove()
            (v2_mount().point / "cgroup.procs").write_text("0")  # back to where we were
            together = make_tree(move_own=Move.ALL, environ={})
            mode = together.mode
            together.remove()
            return alone_mode, place, mode, Path(f"/proc/{other}/cgroup").read_text().strip()

        assert in_child(contained) == ("hybrid", "0::/", "unified", "0::/nsbox-app")
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def enter_cgroup_namespace() -> None:
    """Make our cgroup the root of what can be seen, with a v2 mount that shows only that."""
    libc = ctypes.CDLL(None, use_errno=True)
    point = v2_mount().point
    assert libc.unshare(0x0200_0000 | 0x0002_0000) == 0  # CLONE_NEWCGROUP | CLONE_NEWNS
    assert libc.mount(None, b"/", None, 0x4_4000, None) == 0  # MS_REC | MS_PRIVATE
    assert libc.umount2(os.fsencode(point), 2) == 0  # MNT_DETACH; one file system twice at one place is EBUSY
    assert libc.mount(b"none", os.fsencode(point), b"cgroup2", 0, None) == 0
