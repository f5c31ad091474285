"""What a test may need of the host (the `needs_…` markers), and which lane gives it.

Each need has one probe, which returns why it is missing, or None. Probes look, and change nothing.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from nsbox._host import executions_are_apart

CONTROLLERS = frozenset({"cpu", "memory", "pids"})


def mounts() -> list[tuple[str, str, frozenset[str]]]:
    """Mount point, type and super options of each mount of this process (proc_pid_mountinfo(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        own, _, foreign = line.partition(" - ")
        kind, _, options = foreign.split(" ", 2)
        found.append((own.split()[4], kind, frozenset(options.split(","))))
    return found


def unified_root() -> Path | None:
    """Where cgroup v2 is mounted."""
    return next((Path(point) for point, kind, _ in mounts() if kind == "cgroup2"), None)


def v1_root(controller: str) -> Path | None:
    """Where the cgroup v1 hierarchy of `controller` is mounted."""
    return next((Path(point) for point, kind, options in mounts() if kind == "cgroup" and controller in options), None)


def own_unified_cgroup() -> Path | None:
    """The v2 directory that this process is in."""
    root = unified_root()
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    )
    return None if root is None or own is None else root / own.lstrip("/")


def unified_controllers(directory: Path | None) -> frozenset[str]:
    """The controllers that a v2 directory has; none where there is no such directory."""
    return frozenset() if directory is None else frozenset((directory / "cgroup.controllers").read_text().split())


def root() -> str | None:
    """The user that runs is root."""
    return None if os.geteuid() == 0 else "not running as root"


def user_namespace() -> str | None:
    """Whoever runs may make a user namespace."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    made = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, text=True, check=False)
    return None if made.returncode == 0 else f"no user namespaces: {made.stderr.strip()}"


def rootless() -> str | None:
    """The user that runs is none of the privileged, and may make a user namespace."""
    return "running as root" if os.geteuid() == 0 else user_namespace()


def hybrid() -> str | None:
    """Controllers on v1, and v2 beside them."""
    lacking = sorted(name for name in CONTROLLERS if v1_root(name) is None)
    if lacking:
        return f"no cgroup v1 hierarchy of {', '.join(lacking)}"
    return None if unified_root() is not None else "cgroup v2 is not mounted"


def unified() -> str | None:
    """The controllers are on v2."""
    lacking = sorted(CONTROLLERS - unified_controllers(unified_root()))
    return f"cgroup v2 does not have {', '.join(lacking)}" if lacking else None


def cgroups() -> str | None:
    """Directories with the controllers can be made, on v1 or on v2, by this user."""
    if unified() is None:
        own = own_unified_cgroup()
        if own is not None and os.access(own, os.W_OK) and unified_controllers(own) >= CONTROLLERS:
            return None
        return f"{own} is not this user's to divide, or lacks controllers"
    closed = [name for name in sorted(CONTROLLERS) if not os.access(v1_root(name) or "/nonexistent", os.W_OK)]
    return f"no writable cgroup of {', '.join(closed)}" if closed else None


def delegation() -> str | None:
    """The v2 directory that an unprivileged process is in belongs to its user (cgroup v2, "Model of Delegation")."""
    own = own_unified_cgroup()
    if os.geteuid() == 0:
        return "running as root"
    return None if own is not None and own.stat().st_uid == os.geteuid() else f"cgroup {own} is not this user's"


def loop() -> str | None:
    """Images can be made, and mounted through loop devices."""
    if not os.access("/dev/loop-control", os.W_OK):
        return "no access to /dev/loop-control"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return None if shutil.which("mkfs.ext4", path=path) else "mkfs.ext4 is not installed (package e2fsprogs)"


def ipv6() -> str | None:
    """The loopback has an address of IPv6 (the first column, proc_net(5))."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except FileNotFoundError:
        return "this kernel has no IPv6"
    return None if any(line.split()[0] == f"{1:032x}" for line in lines) else "the loopback has no address ::1"


def static() -> str | None:
    """Programs of C can be linked without shared libraries."""
    if shutil.which("cc") is None:
        return "cc is not installed"
    found = subprocess.run(["cc", "-print-file-name=libc.a"], capture_output=True, text=True, check=True).stdout.strip()
    return None if os.path.isabs(found) else "there is no libc.a (package libc6-dev)"


def plot() -> str | None:
    """Pictures can be drawn."""
    return None if importlib.util.find_spec("matplotlib") is not None else "matplotlib is not installed (nsbox[plot])"


def scopes() -> str | None:
    """Executions of one sandbox can be kept apart."""
    return None if executions_are_apart() else "no Landlock ABI 6 (Linux 6.12)"


def own_kernel() -> str | None:
    """A kernel that nobody else's programs run on, so that a test may change what is the whole kernel's."""
    if "User Mode Linux" in Path("/proc/cpuinfo").read_text():
        return None
    return "the kernel is shared with others"


def egress() -> str | None:
    """A sandbox can be given a way out: nftables of the family inet, and without root pasta with a device for it."""
    as_user = os.geteuid() != 0
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if nft is None:
        return "nft is not installed (package nftables)"
    namespaces = ["--user", "--map-root-user", "--net"] if as_user else ["--net"]
    command = ["unshare", *namespaces, nft, "add", "table", "inet", "probe"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no table of nftables' family inet: {made.stderr.strip().partition(chr(10))[0]}"
    if as_user and shutil.which("pasta") is None:
        return "pasta is not installed (package passt)"
    return "no access to /dev/net/tun" if as_user and not os.access("/dev/net/tun", os.R_OK | os.W_OK) else None


PROBES: Mapping[str, Callable[[], str | None]] = {
    "needs_root": cache(root),
    "needs_rootless": cache(rootless),
    "needs_hybrid": cache(hybrid),
    "needs_unified": cache(unified),
    "needs_cgroups": cache(cgroups),
    "needs_delegation": cache(delegation),
    "needs_loop": cache(loop),
    "needs_plot": cache(plot),
    "needs_scopes": cache(scopes),
    "needs_user_namespace": cache(user_namespace),
    "needs_ipv6": cache(ipv6),
    "needs_static": cache(static),
    "needs_own_kernel": cache(own_kernel),
    "needs_egress": cache(egress),
}

EVERYWHERE = frozenset({"needs_user_namespace", "needs_ipv6", "needs_static", "needs_egress"})
ROOTS = EVERYWHERE | {"needs_root", "needs_cgroups", "needs_loop", "needs_plot", "needs_scopes"}
LANES: Mapping[str, frozenset[str]] = {
    "hybrid-root": ROOTS | {"needs_hybrid"},
    "unified-root": ROOTS | {"needs_unified"},
    "unified": frozenset({"needs_root", "needs_unified", "needs_cgroups", "needs_loop", "needs_own_kernel"}),
    "rootless": EVERYWHERE | {"needs_rootless"},
    "rootless-delegated": EVERYWHERE | {"needs_rootless", "needs_delegation"},
}
"""The needs that each lane of `scripts/test` has to provide."""

ONLY: Mapping[str, frozenset[str]] = {
    "unified": frozenset({"lane_unified", "needs_unified", "needs_own_kernel"}),
    "rootless-delegated": frozenset({"needs_delegation"}),
}
"""Lanes that run no other tests than those with one of these markers."""


def belongs(lane: str, markers: frozenset[str]) -> bool:
    """Whether a test with these markers is one of the lane's."""
    wanted = lane not in ONLY or bool(markers & ONLY[lane])
    return wanted and markers & frozenset(PROBES) <= LANES[lane]
