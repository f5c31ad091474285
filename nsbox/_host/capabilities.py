"""Capabilities of a host: the names that `SandboxConfig.require` takes, and whether each is there. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from nsbox._cgroups import CAPABILITIES as CGROUP_CAPABILITIES
from nsbox._errors import ConfigError, UnsupportedHostError
from nsbox._host.facts import HostFacts

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21
RANGE_UIDS = 65_536
"""How many uids must be there beside our own before each sandbox can be said to have a range of its own."""

_CGROUP_TEXTS = {  # title, what its lack costs, the line of `isolation_report`
    "cgroup_freeze": ("suspend by the cgroup v2 freezer", "suspend() is refused", "freezer"),
    "cgroup_kill": ("kill a whole process tree at once", "trees are killed through their pid namespace", "kill"),
    "memory_limit": ("memory limit by the kernel", "memory is sampled, and limited per process only", "memory"),
    "swap_limit": ("swap limit", "what exceeds the memory limit may go to swap", "swap"),
    "process_limit": ("process limit by the kernel", "processes are limited per user id only", "processes"),
    "cpu_limit": ("CPU bandwidth and weight", "cores, limit_percent and priority have no effect", "cpu"),
    "cpuset": ("pinning to CPUs", "cpuset= is refused", "cpuset"),
    "io_limit": ("disk rates", "iops_limit= and throughput_mbps= are refused", "io"),
    "memory_reclaim": ("memory of the suspended given back", "suspend(reclaim_memory=True) is refused", "memory"),
    "oom_suspend": ("suspend at the memory limit", "oom_kill_disable=True is refused", "memory"),
}
_SYSCALL_TEXTS = {  # call: the kernel that has it
    "clone3": "5.3",
    "openat2": "5.6",
    "mount_setattr": "5.12",
    "open_tree": "5.2",
    "close_range": "5.9",
    "pidfd_open": "5.3",
}
_NAMESPACES = {
    "user": "CONFIG_USER_NS",
    "pid": "CONFIG_PID_NS",
    "mnt": "CONFIG_NAMESPACES",
    "net": "CONFIG_NET_NS",
    "ipc": "CONFIG_IPC_NS",
    "uts": "CONFIG_UTS_NS",
    "cgroup": "CONFIG_CGROUPS",
}

_NETWORK_TEXTS = (  # name, title, what its lack costs, remedy
    ("veth", "veth pairs", "no networks but the loopback", "as root: modprobe veth, or a kernel with CONFIG_VETH"),
    (
        "nf_tables",
        "nftables",
        "no networks but the loopback",
        "as root: modprobe nf_tables, or a kernel with CONFIG_NF_TABLES_INET",
    ),
    (
        "bandwidth_limit",
        "bandwidth of the network",
        "bandwidth_mbps= is refused",
        "as root: modprobe sch_tbf, or a kernel with CONFIG_NET_SCH_TBF",
    ),
)

_TRIED_AS = {"bandwidth_limit": "tbf"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of `nsbox doctor`.

    Attributes:
        id: A stable name; of a capability, the name for `require`.
        title: What it is, for people.
        ok: Whether it is as nsbox wants it.
        found: What was seen.
        costs: What its lack costs; "" when `ok`.
        remedy: The command or setting that mends it; "" when `ok`.
    """

    id: str
    title: str
    ok: bool
    found: str
    costs: str = ""
    remedy: str = ""


def capability_checks(facts: HostFacts) -> tuple[Check, ...]:
    """One check for each capability, in a fixed order."""
    return (
        _user_namespaces(facts),
        *_namespaces(facts),
        _uid_range(facts),
        _proc_mount(facts),
        *_cgroups(facts),
        *_filter(facts),
        *_syscalls(facts),
        *_disk(facts),
        *_network(facts),
    )


def missing_capabilities(facts: HostFacts, require: Iterable[str]) -> None:
    """Refuse a host that lacks what is required.

    Args:
        facts: The host.
        require: Names of capabilities.

    Raises:
        ConfigError: A name is unknown.
        UnsupportedHostError: One or more are missing; with what mends each.
    """
    known = {check.id: check for check in capability_checks(facts)}
    wanted = list(dict.fromkeys(require))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"require={unknown!r}: unknown capabilities; known are {', '.join(sorted(known))}")
    missing = [known[name] for name in wanted if not known[name].ok]
    if missing:
        raise UnsupportedHostError(
            "this host lacks required capabilities: " + "; ".join(f"{check.id}: {check.found}" for check in missing),
            missing=tuple(check.id for check in missing),
            remedies=tuple(check.remedy for check in missing),
        )


def make_check(id_: str, title: str, *, ok: bool, found: str, costs: str, remedy: str) -> Check:
    """A check whose costs and remedy are only said when it failed."""
    return Check(id=id_, title=title, ok=ok, found=found, costs="" if ok else costs, remedy="" if ok else remedy)


def _user_namespaces(facts: HostFacts) -> Check:
    privileged = facts.has_capability(CAP_SYS_ADMIN)
    problem = remedy = ""
    if facts.namespaces is not None and "user" not in facts.namespaces:
        problem, remedy = "not in this kernel", "boot a kernel with CONFIG_USER_NS=y"
    elif facts.sysctls.get("user.max_user_namespaces") == "0":
        problem, remedy = "user.max_user_namespaces is 0", "as root: sysctl -w user.max_user_namespaces=63000"
    elif not privileged and facts.sysctls.get("kernel.unprivileged_userns_clone") == "0":
        problem = "kernel.unprivileged_userns_clone is 0"
        remedy = "as root: sysctl -w kernel.unprivileged_userns_clone=1"
    elif not privileged and facts.sysctls.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        problem = "AppArmor restricts them to programs with a profile"
        remedy = "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    elif facts.user_namespace_error:
        problem = facts.user_namespace_error
        remedy = "allow unshare(CLONE_NEWUSER); for a container: --security-opt seccomp=unconfined"
    found = problem or ("made one" if facts.user_namespace_error == "" else "allowed by the settings, not tried")
    return make_check(
        "user_namespaces", "user namespaces", ok=not problem, found=found, costs="no sandbox can start", remedy=remedy
    )


def _namespaces(facts: HostFacts) -> Iterable[Check]:
    for kind, option in _NAMESPACES.items():
        if kind != "user":
            there = facts.namespaces is None or kind in facts.namespaces
            found = "there" if there else "not in this kernel"
            name = "mount" if kind == "mnt" else "network" if kind == "net" else kind
            yield make_check(
                f"{name}_namespaces",
                f"{name} namespaces",
                ok=there,
                found="not to be seen by a process that changed its user" if facts.namespaces is None else found,
                costs="no sandbox can start",
                remedy=f"boot a kernel with {option}=y",
            )


def _uid_range(facts: HostFacts) -> Check:
    if facts.has_capability(CAP_SETUID) and facts.has_capability(CAP_SETGID):
        ok = facts.uid_count > RANGE_UIDS
        found = f"{facts.uid_count} uids in this user namespace"
        remedy = f"give the container a map of more than {RANGE_UIDS} uids"
    else:
        helpers = bool(facts.tools["newuidmap"] and facts.tools["newgidmap"])
        ok = helpers and not facts.no_new_privs and min(facts.subuids, facts.subgids) >= RANGE_UIDS
        found = f"{facts.subuids} subordinate uids, {facts.subgids} gids, newuidmap {'there' if helpers else 'missing'}"
        if helpers and facts.no_new_privs:
            found, remedy = found + ", disabled by no_new_privs", "start without no_new_privs"
        else:
            span = f"100000-{99_999 + RANGE_UIDS}"
            remedy = f"as root: apt-get install uidmap && usermod --add-subuids {span} --add-subgids {span} USER"
    costs = "all sandboxes run as the same uid of the host, and share its limits"
    return make_check("uid_range", "a uid range for each sandbox", ok=ok, found=found, costs=costs, remedy=remedy)


def _proc_mount(facts: HostFacts) -> Check:
    # A user namespace may mount proc only where one is fully visible already (mount_too_revealing in fs/namespace.c).
    masked = facts.proc_masks
    return make_check(
        "proc_mount",
        "a /proc of its own",
        ok=not masked,
        found=f"{len(masked)} mounts over parts of /proc, e.g. {masked[0]}" if masked else "/proc is whole",
        costs="a sandbox made without host privileges has no /proc",
        remedy="start the container with --privileged, or --security-opt systempaths=unconfined",
    )


def _cgroups(facts: HostFacts) -> Iterable[Check]:
    for capability in CGROUP_CAPABILITIES:
        title, costs, line = _CGROUP_TEXTS[capability]
        lack = facts.cgroup_lacks.get(capability)
        yield make_check(
            capability,
            title,
            ok=lack is None,
            found=facts.cgroup_report[line] if lack is None else lack.why,
            costs=costs,
            remedy="" if lack is None else lack.remedy,
        )


def _filter(facts: HostFacts) -> Iterable[Check]:
    filters = {"kill_process", "errno"} <= facts.seccomp_actions
    version = "libseccomp missing" if facts.libseccomp is None else "libseccomp " + ".".join(map(str, facts.libseccomp))
    yield make_check(
        "seccomp",
        "syscall filter",
        ok=filters and facts.libseccomp is not None,
        found=f"{version}, kernel actions {', '.join(sorted(facts.seccomp_actions)) or 'none'}",
        costs="no sandbox can start",
        remedy="apt-get install libseccomp2" if filters else "boot Linux 4.14 or newer with CONFIG_SECCOMP_FILTER=y",
    )
    notify = "user_notif" in facts.seccomp_actions
    yield make_check(
        "seccomp_notify",
        "syscall notification",
        ok=notify,
        found="there" if notify else "not in this kernel",
        costs="the evidence of a filter kill may lack the arguments of the call",
        remedy="boot Linux 5.0 or newer",
    )


def _syscalls(facts: HostFacts) -> Iterable[Check]:
    for name, version in _SYSCALL_TEXTS.items():
        ok = facts.syscalls[name]
        remedy = f"boot Linux {version} or newer"
        if facts.filtered:
            remedy = f"allow {name} in the container's syscall filter, e.g. --security-opt seccomp=unconfined"
        yield make_check(
            "pidfd" if name == "pidfd_open" else name,
            f"system call {name}",
            ok=ok,
            found="there" if ok else "refused or unknown",
            costs="no sandbox can start",
            remedy=remedy,
        )


def _disk(facts: HostFacts) -> Iterable[Check]:
    admin = facts.has_capability(CAP_SYS_ADMIN)
    problem = facts.loop_error or ("" if admin else "needs CAP_SYS_ADMIN")
    yield make_check(
        "loop_device",
        "loop devices",
        ok=not problem,
        found=problem or "/dev/loop-control opens",
        costs="no disk rates, and quotas live in memory only",
        remedy="modprobe loop; for a container: --privileged" if admin else "run as root",
    )
    mkfs = facts.tools["mkfs.ext4"]
    yield make_check(
        "ext4_tools",
        "mkfs.ext4",
        ok=mkfs is not None,
        found=mkfs or "not found",
        costs="no disk rates, and quotas live in memory only",
        remedy="apt-get install e2fsprogs",
    )
    overlay = "overlay" in facts.filesystems
    layered = facts.usr_filesystem == "overlay"  # such a one cannot be a layer with ids shifted, see _plan/writable.py
    yield make_check(
        "overlay",
        "overlay file system",
        ok=overlay and not layered,
        found="/usr is on one itself" if overlay and layered else "there" if overlay else "not loaded",
        costs="writable_root=True is refused",
        remedy="rootfs= a directory on a volume of ext4, xfs or btrfs" if overlay else "as root: modprobe overlay",
    )


def _network(facts: HostFacts) -> Iterable[Check]:
    network, root = facts.network, facts.euid == 0
    for name, title, costs, remedy in _NETWORK_TEXTS:
        problem = "" if network.tried is None else network.tried[_TRIED_AS.get(name, name)]
        found = problem or ("made one" if network.tried is not None else "not tried")
        yield make_check(name, title, ok=not problem, found=found, costs=costs, remedy=remedy)
    pasta = facts.tools["pasta"]
    if root:
        lacks = [] if network.forwarding else ["net.ipv4.ip_forward is 0"]
        remedy = "sysctl -w net.ipv4.ip_forward=1"
    else:
        lacks = [*([] if pasta else ["pasta is not found"]), *([network.tun_error] if network.tun_error else [])]
        remedy = (
            "as root: apt-get install passt" if pasta is None else "as root: modprobe tun && chmod 666 /dev/net/tun"
        )
    yield make_check(
        "network_egress",
        "a way out for sandboxes",
        ok=not lacks,
        found=", ".join(lacks) or ("forwarding is on" if root else str(pasta)),
        costs='access="egress" is refused',
        remedy=remedy,
    )
    lack6 = "no IPv6 default route" if not network.route6 else ""
    if not lack6 and root and not network.forwarding6:
        lack6 = "net.ipv6.conf.all.forwarding is 0"
    yield make_check(
        "network_egress6",
        "a way out by IPv6",
        ok=not lack6,
        found=lack6 or "there is a default route",
        costs="sandboxes reach the outside by IPv4 only",
        remedy="sysctl -w net.ipv6.conf.all.forwarding=1" if network.route6 else "give the host an IPv6 default route",
    )


KNOWN_CAPABILITIES: frozenset[str] = frozenset({
    "user_namespaces",
    *(f"{name}_namespaces" for name in ("pid", "mount", "network", "ipc", "uts", "cgroup")),
    "uid_range",
    "proc_mount",
    *CGROUP_CAPABILITIES,
    "seccomp",
    "seccomp_notify",
    *("pidfd" if name == "pidfd_open" else name for name in _SYSCALL_TEXTS),
    "loop_device",
    "ext4_tools",
    "overlay",
    *(name for name, *_ in _NETWORK_TEXTS),
    "network_egress",
    "network_egress6",
})  # fmt: skip
"""Every name that `require` takes; a test holds it equal to what `capability_checks` makes."""
