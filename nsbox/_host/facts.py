"""Everything that nsbox reads from a host, once, as data; no judgement here."""

import contextlib
import errno
import os
import platform
import pwd
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from nsbox._cgroups import CgroupTree, Lack, isolation_report, make_tree
from nsbox._errors import UnsupportedHostError
from nsbox._host.network import NetworkFacts, probe_network
from nsbox._host.syscalls import libseccomp_version, probe_seccomp_actions, probe_syscalls

TOOLS = ("newuidmap", "newgidmap", "mkfs.ext4", "losetup", "gcc", "pasta")
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # often not in the PATH of a user
_TRY_USER_NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result, step):
    if result:
        sys.exit(step + ": " + os.strerror(ctypes.get_errno()))
uid = os.geteuid()
check(libc.unshare(0x10000000 | 0x00020000), "unshare")
try:
    with open("/proc/self/uid_map", "w") as file:
        file.write("0 %d 1" % uid)
except OSError as exc:
    sys.exit("uid_map: " + exc.strerror)
check(libc.mount(None, b"/", None, 0x44000, None), "mount")
"""  # CLONE_NEWUSER | CLONE_NEWNS; MS_REC | MS_PRIVATE


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What was read.

    Attributes:
        kernel: Release, as uname(2) gives it.
        machine: Architecture.
        python: Path and version of the running interpreter.
        euid: Effective user id.
        capabilities: The effective set, one bit each (capabilities(7)).
        uid_count: How many uids our user namespace maps; 4294967295 in the initial one.
        container: What kind of container this seems to be, "" when none.
        filtered: Whether a syscall filter is on this process already.
        no_new_privs: Whether set-uid programs such as newuidmap work no more.
        namespaces: The kinds of /proc/self/ns; None when a process that has changed its user may not look there.
        sysctls: The values of those that exist, of `SYSCTLS`.
        user_namespace_error: "" when making one worked, else the step and why; None when it was not tried.
        subuids: The size of this user's range in /etc/subuid.
        subgids: The same of /etc/subgid.
        syscalls: Name to whether it is there.
        seccomp_actions: Of kill_process, errno and user_notif.
        libseccomp: Its version, None when it is missing.
        proc_masks: What is mounted over parts of /proc; a user namespace then cannot mount a /proc of its own.
        filesystems: Known to the kernel, without the modules that it could load.
        tools: Program to its path, None when missing; of `TOOLS`.
        loop_error: "" when /dev/loop-control can be opened, else why not.
        nofile_hard: RLIMIT_NOFILE, hard; RLIM_INFINITY is -1.
        nproc_hard: RLIMIT_NPROC, hard.
        core_pattern: "|" first: the kernel starts a program at each crash.
        cgroup_mode: "unified", "hybrid" or "none".
        cgroup_report: See `isolation_report`.
        cgroup_lacks: Capability to reason and remedy.
        cgroup_hint_error: Why the cgroup named by NSBOX_CGROUP was not used, "" otherwise.
        usr_filesystem: The type of the file system that /usr is on.
        network: See `NetworkFacts`.
    """

    kernel: str
    machine: str
    python: str
    euid: int
    capabilities: int
    uid_count: int
    container: str
    filtered: bool
    no_new_privs: bool
    namespaces: frozenset[str] | None
    sysctls: Mapping[str, str]
    user_namespace_error: str | None
    subuids: int
    subgids: int
    syscalls: Mapping[str, bool]
    seccomp_actions: frozenset[str]
    libseccomp: tuple[int, int, int] | None
    proc_masks: tuple[str, ...]
    filesystems: frozenset[str]
    tools: Mapping[str, str | None]
    loop_error: str
    nofile_hard: int
    nproc_hard: int
    core_pattern: str
    network: NetworkFacts
    cgroup_mode: str
    cgroup_report: Mapping[str, str]
    cgroup_lacks: Mapping[str, Lack] = field(default_factory=lambda: MappingProxyType({}))
    cgroup_hint_error: str = ""
    usr_filesystem: str = ""

    def has_capability(self, number: int) -> bool:
        """Whether the effective set has a capability, by its number (capabilities(7))."""
        return bool(self.capabilities >> number & 1)


SYSCTLS = (
    "user.max_user_namespaces",
    "kernel.unprivileged_userns_clone",  # Debian's
    "kernel.apparmor_restrict_unprivileged_userns",  # Ubuntu's, since 23.10
)


def probe_host(tree: CgroupTree | None = None, *, try_user_namespace: bool = False) -> HostFacts:
    """Read the host. Blocks: a few milliseconds; with `try_user_namespace` the start of an interpreter more.

    Args:
        tree: The supervisor's cgroup tree; None: one is made and removed again.
        try_user_namespace: Make a user namespace in a child process, which is the only way to see what a security
            module forbids; and in another one what the network of a sandbox is made of.

    Raises:
        SetupError: The cgroup tree could not be made for want of memory, descriptors or cgroups.
    """
    hint_error = ""
    if tree is not None:
        mode, report, lacks = tree.mode, isolation_report(tree), tree.reasons
    else:
        try:
            own_tree = make_tree()
        except UnsupportedHostError as exc:
            hint_error, own_tree = str(exc), make_tree(environ={})
        try:
            mode, report, lacks = own_tree.mode, isolation_report(own_tree), own_tree.reasons
        finally:
            own_tree.remove()
    status = _status()
    uname = os.uname()
    return HostFacts(
        kernel=uname.release,
        machine=uname.machine,
        python=f"{sys.executable} {platform.python_version()}",
        euid=os.geteuid(),
        capabilities=int(status.get("CapEff", "0"), 16),
        uid_count=_mapped_uids(),
        container=_container(),
        filtered=status.get("Seccomp", "0") == "2",
        no_new_privs=status.get("NoNewPrivs", "0") == "1",
        namespaces=_namespaces(),
        sysctls=_sysctls(),
        user_namespace_error=_user_namespace_error() if try_user_namespace else None,
        subuids=_subordinate_ids(Path("/etc/subuid")),
        subgids=_subordinate_ids(Path("/etc/subgid")),
        syscalls=probe_syscalls(),
        seccomp_actions=probe_seccomp_actions(),
        libseccomp=libseccomp_version(),
        proc_masks=_proc_masks(_read("/proc/self/mountinfo")),
        filesystems=frozenset(line.split()[-1] for line in _read("/proc/filesystems").splitlines()),
        tools={name: _find_tool(name) for name in TOOLS},
        loop_error=_loop_error(),
        nofile_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        nproc_hard=resource.getrlimit(resource.RLIMIT_NPROC)[1],
        core_pattern=_read("/proc/sys/kernel/core_pattern").strip(),
        network=probe_network(try_kernel=try_user_namespace),
        cgroup_mode=mode,
        cgroup_report=report,
        cgroup_lacks=lacks,
        cgroup_hint_error=hint_error,
        usr_filesystem=_filesystem_of(os.path.realpath("/usr"), _read("/proc/self/mountinfo")),
    )


def _read(path: str) -> str:
    """The text of a file, "" when it is not there or not for us: absence is a fact here, not a failure."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            return ""
        raise


def _status() -> dict[str, str]:
    lines = (line.partition(":") for line in _read("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _namespaces() -> frozenset[str] | None:
    try:
        return frozenset(file.name for file in Path("/proc/self/ns").iterdir())
    except PermissionError:  # not dumpable after setresuid: its own /proc entry belongs to root (proc(5))
        return None


def _sysctls() -> dict[str, str]:
    values = ((name, _read("/proc/sys/" + name.replace(".", "/")).strip()) for name in SYSCTLS)
    return {name: value for name, value in values if value}


def _mapped_uids() -> int:
    return sum(int(line.split()[2]) for line in _read("/proc/self/uid_map").splitlines())


def _subordinate_ids(path: Path) -> int:
    """The size of the ranges of this user, by name or number (subuid(5))."""
    uid = os.geteuid()
    names = {str(uid)}
    with contextlib.suppress(KeyError):  # a uid without an entry has no name to look for
        names.add(pwd.getpwuid(uid).pw_name)
    rows = (line.split(":") for line in _read(str(path)).splitlines())
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in names and row[2].isdecimal())


def _container() -> str:
    for path, kind in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if Path(path).exists():
            return kind
    return _read("/run/systemd/container").strip() or os.environ.get("container", "")  # noqa: SIM112  # systemd's name


def _proc_masks(mountinfo: str) -> tuple[str, ...]:
    points = (line.split(" ")[4] for line in mountinfo.splitlines())
    return tuple(point for point in points if point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc")


def _filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the innermost mount at or above `path`, proc_pid_mountinfo(5); of two at one place the later."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        own, _, rest = line.partition(" - ")
        point = own.split(" ")[4]
        if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, rest.split(" ")[0]
    return kind


def _find_tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def _loop_error() -> str:
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"/dev/loop-control: {exc.strerror}"
    return ""


def _user_namespace_error() -> str | None:
    """Make a user and a mount namespace in a child and use them; "" when it worked, None when no child started."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY_USER_NAMESPACE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # e.g. an interpreter below a home directory that this user cannot read
    return "" if done.returncode == 0 else done.stderr.strip() or f"the attempt ended with {done.returncode}"
