"""The facts of this host, read for real, and what is made of them when they are different."""

import ctypes
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import pyseccomp
import pytest
from forked import in_child

import nsbox
from nsbox._cgroups import CAPABILITIES, Lack, make_tree
from nsbox._cgroups.parents import PARENT_VARIABLE
from nsbox._errors import ConfigError, UnsupportedHostError
from nsbox._host import (
    KNOWN_CAPABILITIES,
    Check,
    HostFacts,
    capability_checks,
    checks,
    missing_capabilities,
    probe_host,
)
from nsbox._host.capabilities import CAP_SYS_ADMIN
from nsbox._host.facts import _proc_masks
from nsbox._host.network import TRIED, NetworkFacts, _has_default_route, probe_network
from nsbox._host.syscalls import libseccomp_version, probe_seccomp_actions, probe_syscalls

USER = 65_533


@pytest.fixture(scope="module")
def facts() -> HostFacts:
    """This host, without trying a user namespace."""
    return probe_host()


def by_id(found: HostFacts) -> Mapping[str, Check]:
    """The checks of capabilities by their names."""
    return {check.id: check for check in capability_checks(found)}


def under_filter(calls: tuple[str, ...], number: int, look: Callable[[], object]) -> object:
    """What `look` returns in a child in which these system calls fail with an errno."""

    def filtered() -> object:
        policy = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        for call in calls:
            policy.add_rule(pyseccomp.ERRNO(number), call)
        policy.load()
        return look()

    return in_child(filtered)


@pytest.mark.needs_root
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_filter_that_does_not_know_epoll_pwait2_costs_nothing_but_precision(number: int) -> None:
    """As that of an old container's: the launcher waits, and does not spin."""

    def look() -> object:
        with nsbox.Sandbox() as sandbox:
            verdicts = [sandbox.run(["sleep", length], timeout=0.2).verdict.value for length in ("0.01", "5")]
            time.sleep(0.5)
            (launcher,) = psutil.Process().children()
            times = launcher.cpu_times()
            return [*verdicts, launcher.name(), times.user + times.system < 0.25]

    assert under_filter(("epoll_pwait2",), number, look) == ["ok", "wall_time_limit", "nsbox-launcher", True]


@pytest.mark.lane_unified
def test_the_facts_are_those_of_the_kernel(facts: HostFacts) -> None:
    """Release, user, mode and namespaces, each compared with where it comes from."""
    assert facts.kernel == os.uname().release == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert facts.euid == os.geteuid()
    assert facts.has_capability(CAP_SYS_ADMIN) is (os.geteuid() == 0)
    assert facts.namespaces is not None
    assert facts.namespaces >= {"user", "pid", "mnt", "net", "ipc", "uts", "cgroup"}
    tree = make_tree()
    mode, lacks = tree.mode, set(tree.lacks)
    tree.remove()
    assert facts.cgroup_mode == mode
    assert set(facts.cgroup_lacks) == lacks


@pytest.mark.lane_unified
def test_every_capability_has_a_check_and_every_failed_check_a_remedy() -> None:
    """The names that `require` takes are those of the checks; a lack says what it costs and what mends it."""
    found = probe_host()
    names = [check.id for check in capability_checks(found)]
    assert set(names) == KNOWN_CAPABILITIES
    assert len(names) == len(set(names))
    assert set(CAPABILITIES) < KNOWN_CAPABILITIES
    everything = checks(dataclasses.replace(found, **WORST))  # type: ignore[arg-type]
    assert len({check.id for check in everything}) == len(everything)
    for check in everything:
        assert check.title
        assert check.found
        assert bool(check.costs) is bool(check.remedy) is not check.ok, check
    informational = {"kernel", "python", "container", "core_pattern"}
    assert {check.id for check in everything if check.ok} == informational


WORST: Mapping[str, object] = MappingProxyType(
    {
        "capabilities": 0,
        "namespaces": frozenset[str](),
        "syscalls": dict.fromkeys(probe_syscalls(), False),
        "seccomp_actions": frozenset[str](),
        "libseccomp": None,
        "proc_masks": ("/proc/kcore",),
        "filesystems": frozenset[str](),
        "tools": dict.fromkeys(("newuidmap", "newgidmap", "mkfs.ext4", "losetup", "gcc", "pasta")),
        "loop_error": "gone",
        "network": NetworkFacts(
            forwarding=False, forwarding6=False, route6=False, tun_error="gone", tried=dict.fromkeys(TRIED, "gone")
        ),
        "nofile_hard": 10,
        "nproc_hard": 10,
        "cgroup_mode": "none",
        "cgroup_report": dict.fromkeys(
            ("memory", "processes", "cpu", "cpuset", "io", "swap", "freezer", "kill"), "none"
        ),
        "cgroup_lacks": {name: Lack(why="not delegated", remedy="delegate") for name in CAPABILITIES},
    }
)


def test_the_parts_of_a_network_are_tried_where_that_is_asked_for() -> None:
    """In namespaces of a child's own: this machine has no device, table or queue more than before."""
    before = Path("/proc/net/dev").read_text().count("\n")
    assert probe_network(try_kernel=False).tried is None
    assert probe_network(try_kernel=True).tried == dict.fromkeys(TRIED, "")
    assert Path("/proc/net/dev").read_text().count("\n") == before


def test_a_way_out_is_judged_by_whose_it_is(facts: HostFacts) -> None:
    """Root needs forwarding, a user pasta and /dev/net/tun; both say what is missing, and what mends it."""
    full = NetworkFacts(forwarding=True, forwarding6=True, route6=True, tun_error="", tried=None)
    tools = {**facts.tools, "pasta": "/usr/bin/pasta"}
    for euid in (0, USER):
        there = by_id(dataclasses.replace(facts, euid=euid, network=full, tools=tools))
        assert there["network_egress"].ok
        assert there["network_egress6"].ok
        assert there["nf_tables"].found == "not tried"
    poor = dataclasses.replace(full, forwarding=False, forwarding6=False, tun_error="/dev/net/tun: no")
    of_root = by_id(dataclasses.replace(facts, euid=0, network=poor, tools=tools))
    assert "ip_forward" in of_root["network_egress"].remedy
    assert "forwarding" in of_root["network_egress6"].remedy
    of_user = by_id(dataclasses.replace(facts, euid=USER, network=poor, tools=tools))
    assert "/dev/net/tun" in of_user["network_egress"].remedy
    assert of_user["network_egress6"].ok
    bare = by_id(dataclasses.replace(facts, euid=USER, network=full, tools={**tools, "pasta": None}))
    assert "passt" in bare["network_egress"].remedy


def test_the_route_that_refuses_is_no_default_route() -> None:
    """The kernel has one on lo; ipv6_route has ten columns."""
    zero, rest = "0" * 32, "00000000 00000001 00000000"
    refusing = f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo"
    assert not _has_default_route(refusing)
    assert not _has_default_route("")
    assert _has_default_route(f"{refusing}\n{zero} 00 {zero} 00 fe80{'0' * 28} 00000400 {rest[:17]} 00000003 eth0\n")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_call_that_a_filter_refuses_is_not_there(number: int) -> None:
    """As in a container; without the filter this kernel has them all, and with it only those two are gone."""
    assert all(probe_syscalls().values())
    filtered = under_filter(("clone3", "openat2"), number, probe_syscalls)
    assert filtered == {**dict.fromkeys(probe_syscalls(), True), "clone3": False, "openat2": False}


def test_the_actions_of_the_filter_are_asked_from_the_kernel() -> None:
    """All three here; none where seccomp(2) is refused."""
    assert probe_seccomp_actions() == {"kill_process", "errno", "user_notif"}
    assert under_filter(("seccomp",), errno.ENOSYS, probe_seccomp_actions) == frozenset()


def test_the_library_is_the_one_that_pyseccomp_uses() -> None:
    """A version of 2.something."""
    version = libseccomp_version()
    assert version is not None
    assert version[0] == 2


def test_a_user_namespace_is_really_tried() -> None:
    """It works here; where unshare is refused the step and the reason are told, and the capability is missing."""

    def look() -> tuple[str | None, bool]:
        found = probe_host(try_user_namespace=True)
        return found.user_namespace_error, by_id(found)["user_namespaces"].ok

    assert in_child(look) == ("", True)
    refused = under_filter(("unshare",), errno.EPERM, look)
    assert refused == (f"unshare: {os.strerror(errno.EPERM)}", False)


@pytest.mark.needs_root
def test_a_user_lacks_what_only_root_has() -> None:
    """Loop devices and privileges; the kernel's own capabilities stay."""
    as_root = by_id(probe_host())
    make_tree(environ={}).remove()  # everything is imported before the change
    as_user = by_id(in_child(probe_host, uid=USER))
    assert not as_user["loop_device"].ok
    assert as_user["clone3"].ok
    assert as_user["seccomp"].ok
    assert as_root["uid_range"].ok
    assert not as_user["uid_range"].ok or "newuidmap there" in as_user["uid_range"].found


def test_settings_that_forbid_user_namespaces_are_named_with_the_command_that_allows_them(facts: HostFacts) -> None:
    """Each of the three, for a user; the last two do not stop root."""
    for name, value, stops_root in (
        ("user.max_user_namespaces", "0", True),
        ("kernel.unprivileged_userns_clone", "0", False),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", False),
    ):
        for capabilities in (0, 1 << CAP_SYS_ADMIN):
            other = dataclasses.replace(facts, sysctls={name: value}, capabilities=capabilities)
            check = by_id(other)["user_namespaces"]
            assert check.ok is (capabilities != 0 and not stops_root)
            assert check.ok or f"sysctl -w {name}=" in check.remedy
    assert by_id(dataclasses.replace(facts, sysctls={}))["user_namespaces"].ok


def test_subordinate_ids_count_only_with_their_helpers_and_without_no_new_privs(facts: HostFacts) -> None:
    """A user with both ranges and both helpers has a uid range; take one of them and it is gone."""
    tools = {**facts.tools, "newuidmap": "/usr/bin/newuidmap", "newgidmap": "/usr/bin/newgidmap"}
    good = dataclasses.replace(facts, capabilities=0, subuids=65_536, subgids=65_536, tools=tools, no_new_privs=False)
    assert by_id(good)["uid_range"].ok
    for change in ({"subgids": 0}, {"no_new_privs": True}, {"tools": {**tools, "newgidmap": None}}):
        assert not by_id(dataclasses.replace(good, **change))["uid_range"].ok


def test_mounts_over_parts_of_proc_are_seen(facts: HostFacts) -> None:
    """As container runtimes make them; binfmt_misc, which systemd mounts, hides nothing."""
    lines = "1 2 0:5 / {} rw - proc proc rw\n"
    shown = "".join(lines.format(point) for point in ("/proc", "/proc/kcore", "/proc/sys/fs/binfmt_misc", "/process"))
    assert _proc_masks(shown) == ("/proc/kcore",)
    assert not by_id(dataclasses.replace(facts, proc_masks=_proc_masks(shown)))["proc_mount"].ok


def test_what_is_required_and_missing_is_refused_with_its_remedy(facts: HostFacts) -> None:
    """Several at once, in their order; what is there passes; a name that nobody knows is a mistake of the caller."""
    lacking = dataclasses.replace(
        facts,
        cgroup_lacks={"memory_limit": Lack(why="not delegated", remedy="delegate it")},
        seccomp_actions=frozenset(),
    )
    with pytest.raises(UnsupportedHostError) as caught:
        missing_capabilities(lacking, ["clone3", "seccomp", "memory_limit", "seccomp"])
    assert caught.value.missing == ("seccomp", "memory_limit")
    assert caught.value.remedies[1] == "delegate it"
    missing_capabilities(lacking, ["clone3", "openat2"])
    missing_capabilities(lacking, [])
    with pytest.raises(ConfigError, match=r"'teleport'.*known are .*clone3"):
        missing_capabilities(facts, ["clone3", "teleport"])


def test_a_wrong_cgroup_hint_is_a_failed_check_and_not_the_end_of_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named in the remedy; without it the check is as before."""
    plain = {check.id: check for check in checks(probe_host())}["cgroups"]
    monkeypatch.setenv(PARENT_VARIABLE, "/nsbox-there-is-no-such-group")
    check = {check.id: check for check in checks(probe_host())}["cgroups"]
    assert not check.ok
    assert PARENT_VARIABLE in check.remedy
    assert PARENT_VARIABLE not in plain.remedy


def test_a_given_tree_is_looked_at_and_left_alone() -> None:
    """The supervisor's own: its mode is reported, its directories stay."""
    tree = make_tree(environ={})
    try:
        found = probe_host(tree)
        assert found.cgroup_mode == tree.mode
        assert all(hierarchy.path.is_dir() for hierarchy in tree.hierarchies)
    finally:
        tree.remove()


def test_probing_leaves_errno_and_process_state_alone() -> None:
    """The calls with senseless arguments open no descriptor and start no child."""
    before = sorted(Path("/proc/self/fd").iterdir())
    probe_syscalls()
    probe_seccomp_actions()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.waitpid(-1, None, 1) == -1
    assert ctypes.get_errno() == errno.ECHILD
