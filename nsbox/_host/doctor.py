"""`nsbox doctor` as data: what the host gives, what each lack costs, what mends it. The command line prints it."""

from nsbox._host.capabilities import CAP_SYS_ADMIN, Check, capability_checks, make_check
from nsbox._host.facts import HostFacts, probe_host

MIN_FILES = 4_096
"""Hard RLIMIT_NOFILE for about 500 living sandboxes: each costs the supervisor and the launcher six descriptors."""

MIN_PROCESSES = 4_096


def checks(facts: HostFacts | None = None) -> tuple[Check, ...]:
    """All checks: of the host as a whole, then of each capability.

    Args:
        facts: Default: read now, with a user namespace made in a child for real. Blocks then for some 50 ms.
    """
    facts = probe_host(try_user_namespace=True) if facts is None else facts
    return (*host_checks(facts), *capability_checks(facts))


def host_checks(facts: HostFacts) -> tuple[Check, ...]:
    """What is no capability, but good to know."""
    return (
        _kernel(facts),
        Check(id="python", title="Python", ok=True, found=facts.python),
        _privileges(facts),
        Check(id="container", title="container", ok=True, found=facts.container or "none seen"),
        _cgroup_mode(facts),
        _limit("open_files", "RLIMIT_NOFILE, hard", facts.nofile_hard, MIN_FILES, "-n", "nofile"),
        _limit("user_processes", "RLIMIT_NPROC, hard", facts.nproc_hard, MIN_PROCESSES, "-u", "nproc"),
        _core_pattern(facts),
        _tool(facts, "losetup", "disk-backed sandboxes are harder to look into", "apt-get install mount"),
        _tool(facts, "gcc", "nsbox cannot be built from source, and C programs cannot be run", "apt-get install gcc"),
    )


def _kernel(facts: HostFacts) -> Check:
    return Check(id="kernel", title="Linux", ok=True, found=f"{facts.kernel} {facts.machine}")


def _privileges(facts: HostFacts) -> Check:
    admin = facts.has_capability(CAP_SYS_ADMIN)
    found = f"uid {facts.euid}, {'with' if admin else 'without'} CAP_SYS_ADMIN"
    if facts.filtered:
        found += ", under a syscall filter"
    if facts.no_new_privs:
        found += ", no_new_privs"
    return make_check(
        "privileges",
        "privileges",
        ok=admin,
        found=found,
        costs="rootless: cgroups only where delegated, uid ranges only from /etc/subuid, no loop devices",
        remedy="run as root, or go on rootless with what the lines below allow",
    )


def _cgroup_mode(facts: HostFacts) -> Check:
    report = facts.cgroup_report
    found = facts.cgroup_mode + "".join(
        f", {name}: {report[name].split(':')[0]}" for name in ("memory", "processes", "cpu", "freezer", "kill")
    )
    lack = facts.cgroup_lacks.get("memory_limit") or facts.cgroup_lacks.get("cgroup_kill")
    remedy = "" if lack is None else lack.remedy
    if facts.cgroup_hint_error:
        found, remedy = f"{found}; {facts.cgroup_hint_error.splitlines()[0]}", "correct or unset NSBOX_CGROUP"
    return make_check(
        "cgroups",
        "cgroups",
        ok=facts.cgroup_mode != "none" and not facts.cgroup_hint_error,
        found=found,
        costs="limits by rlimits and sampling only",
        remedy=remedy,
    )


def _limit(id_: str, title: str, value: int, minimum: int, flag: str, item: str) -> Check:
    return make_check(
        id_,
        title,
        ok=value == -1 or value >= minimum,
        found="unlimited" if value == -1 else str(value),
        costs="fewer sandboxes at a time",
        remedy=f"ulimit -H{flag[1:]} {minimum} in the shell of root that starts it, or "
        f"'* hard {item} {minimum}' in /etc/security/limits.conf",
    )


def _core_pattern(facts: HostFacts) -> Check:
    piped = facts.core_pattern.startswith("|")
    note = ", which programs in a sandbox never reach (RLIMIT_CORE is 1)" if piped else ""
    return Check(id="core_pattern", title="crash handler", ok=True, found=f"{facts.core_pattern or '(none)'}{note}")


def _tool(facts: HostFacts, name: str, costs: str, remedy: str) -> Check:
    path = facts.tools[name]
    return make_check(name, name, ok=path is not None, found=path or "not found", costs=costs, remedy=remedy)
