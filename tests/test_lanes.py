"""A lane is what its name says: here is what each has to be, told by the kernel and not by the probes."""

import ctypes
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import leaks
import needs
import pytest


@pytest.mark.needs_hybrid
def test_a_hybrid_host_has_the_controllers_on_v1_and_none_of_them_on_v2() -> None:
    """/proc/cgroups gives a hierarchy other than 0, the v2 one, to each controller."""
    lines = (line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:])
    hierarchy = {name: int(number) for name, number, *_ in lines}
    assert all(hierarchy[name] != 0 for name in needs.CONTROLLERS)


@pytest.mark.needs_unified
@pytest.mark.needs_root
def test_a_unified_host_kills_what_exceeds_memory_max() -> None:
    """A child in a group of 32 MiB dies of SIGKILL touching 64, and memory.events says so; 8 MiB are fine."""
    root = needs.unified_root()
    assert root is not None
    group = root / f"nsbox-{os.getpid()}-lane"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(32 << 20))
        (group / "memory.swap.max").write_text("0")

        def status_of(size: int) -> int:
            program = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid())); bytearray({size})"
            return subprocess.run([sys.executable, "-ISc", program], check=False).returncode

        assert status_of(8 << 20) == 0
        assert status_of(64 << 20) == -9
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        assert events["oom_kill"] == "1"
    finally:
        group.rmdir()


@pytest.mark.needs_rootless
def test_an_unprivileged_user_has_no_capability_and_can_write_nothing_of_the_host() -> None:
    """CapEff is empty, and neither /etc nor a v1 hierarchy is writable."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 0
    assert not os.access("/etc", os.W_OK)
    assert not [name for name in needs.CONTROLLERS if os.access(needs.v1_root(name) or "/etc", os.W_OK)]


@pytest.mark.needs_delegation
def test_a_delegated_user_divides_the_own_cgroup_and_kills_a_part() -> None:
    """A child moved into a directory below one's own dies of cgroup.kill; the directory above stays closed."""
    own = needs.own_unified_cgroup()
    assert own is not None
    assert not os.access(own.parent, os.W_OK)
    part = own / f"nsbox-{os.getpid()}-part"
    part.mkdir()
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            (part / "cgroup.procs").write_text(str(child.pid))
            (part / "cgroup.kill").write_text("1")
            assert child.wait() == -9
    finally:
        part.rmdir()


@pytest.mark.parametrize("lane", needs.LANES)
def test_every_need_is_provided_by_a_lane_and_known_to_pytest(lane: str, pytestconfig: pytest.Config) -> None:
    """A marker without a probe, or a probe without a lane, would let tests be deselected everywhere."""
    declared = {line.split(":")[0].split("(")[0] for line in pytestconfig.getini("markers")}
    assert {name for name in declared if name.startswith("needs_")} == {*needs.PROBES, "needs_tool"}
    assert needs.LANES[lane] <= set(needs.PROBES)
    assert frozenset().union(*needs.LANES.values()) == set(needs.PROBES)


def test_a_test_of_another_lane_is_deselected_and_one_of_this_lane_is_not() -> None:
    """The unified lane takes only what is marked for it; the others take all whose needs they provide."""
    assert needs.belongs("hybrid-root", frozenset())
    assert needs.belongs("hybrid-root", frozenset({"needs_root", "slow"}))
    assert not needs.belongs("hybrid-root", frozenset({"needs_rootless"}))
    assert not needs.belongs("unified", frozenset({"needs_root"}))
    assert needs.belongs("unified", frozenset({"needs_root", "lane_unified"}))
    assert not needs.belongs("unified", frozenset({"needs_hybrid", "lane_unified"}))


def test_the_shards_of_a_lane_are_all_of_it_and_share_no_test() -> None:
    """As pytest itself collects them; a shard that cannot be is refused."""

    def collected(shard: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", __file__]
        listed = subprocess.run(
            command, env={**os.environ, "NSBOX_SHARD": shard}, capture_output=True, text=True, check=False
        )
        return listed.returncode, [line for line in listed.stdout.splitlines() if "::" in line]

    statuses, (first, second, all_of_them) = zip(*map(collected, ("1/2", "2/2", "1/1")), strict=True)
    assert statuses == (0, 0, 0)
    assert abs(len(first) - len(second)) <= 1
    assert sorted(first + second) == sorted(all_of_them) != []
    assert collected("3/2")[0] == pytest.ExitCode.USAGE_ERROR


def test_a_leak_of_each_kind_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child, an fd and a file that are left are named; once they are gone, nothing is."""
    monkeypatch.setattr(leaks, "DIRECTORIES", (str(tmp_path),))
    before = leaks.snapshot()
    left = tmp_path / "nsbox-left"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        left.touch()
        seen = leaks.left_behind(before, leaks.snapshot())
    assert seen == ["fd: pipe (1 more)", f"file: {left} (1 more)", f"process {child.pid}: cat (1 more)"]
    left.unlink()
    assert leaks.left_behind(before, leaks.snapshot()) == []


@pytest.mark.needs_root
@pytest.mark.needs_hybrid
def test_a_cgroup_and_a_mount_that_are_left_are_seen(tmp_path: Path) -> None:
    """In the v2 tree and in a v1 hierarchy; a directory of a living stranger, pid 1, is not ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    unified, memory = needs.unified_root(), needs.v1_root("memory")
    assert unified is not None
    assert memory is not None
    before = leaks.snapshot()
    made = [root / f"nsbox-{os.getpid()}-left" for root in (unified, memory)]
    stranger = unified / "nsbox-1-living"
    point = tmp_path / "nsbox-mount"
    point.mkdir()
    try:
        for directory in (*made, stranger):
            directory.mkdir()
        assert libc.mount(b"tmpfs", str(point).encode(), b"tmpfs", 0, None) == 0
        after = leaks.snapshot()
    finally:
        libc.umount2(str(point).encode(), 0)
        for directory in (*made, stranger):
            directory.rmdir()
    assert after - before == Counter([*(f"cgroup: {directory}" for directory in made), f"mount: {point}"])
