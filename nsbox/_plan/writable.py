"""What `writable_root=True` adds: overlays over the root's directories, and what root finds and may do inside.

On the host's root, /etc and /var are made for the sandbox: the host's own hold accounts, keys, logs and data. /etc gets
what language runtimes and package tools need, copied as far as everybody may read it; /var an empty frame, and the list
of the host's packages, so that dpkg knows what is in /usr. The /etc and /var of a root directory are the caller's to
show.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from nsbox._errors import UnsupportedHostError
from nsbox._plan import hostfiles
from nsbox._plan.identity import PROGRAM_ID
from nsbox._plan.operations import Operation, OperationFlag, OperationKind
from nsbox._plan.tree import Tree

ROOT_CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5, "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}  # fmt: skip
"""What root inside has, capabilities(7): files of whoever is inside, other users' processes inside, becoming them.
dpkg, apt-get, adduser, su and daemons that give up their rights need just these. They end at the user namespace."""

ROOT_MASK = sum(1 << number for number in ROOT_CAPABILITIES.values())

_EMPTY = (("/usr", 0o755), ("/etc", 0o755), ("/var", 0o755), ("/opt", 0o755), ("/home", 0o755), ("/root", 0o755))
"""What is there in any case. /root is open, for an interpreter may lie in it that other users run as well."""

_OWN_PLACES = (("/run", "run", 0o755), ("/run/lock", "run/lock", 0o1777))
TOPS = frozenset(path for path, *_ in (*_EMPTY, *_OWN_PLACES) if path.count("/") == 1)

INODES = 6
"""Of the quota, for one overlay: its directory, upper and work, and three that the kernel makes in work."""

_HOST_ETC = (
    "adduser.conf", "bash.bashrc", "debconf.conf", "debian_version", "deluser.conf", "dpkg", "inputrc", "ld.so.conf",
    "ld.so.conf.d", "login.defs", "lsb-release", "os-release", "profile", "protocols", "rpc", "services", "shells",
    "skel", "ssl/openssl.cnf",
)  # fmt: skip
"""Of the host's /etc, beside what any sandbox has: what package tools read. Not apt's: it can hold passwords."""

_VAR_DIRECTORIES = (
    "backups", "cache/apt/archives/partial", "cache/debconf", "cache/fontconfig", "cache/ldconfig", "cache/man",
    "lib/apt/lists/partial", "lib/dpkg", "lib/misc", "lib/pam", "lib/python", "lib/systemd", "lib/ucf", "local",
    "log/apt", "mail", "opt", "spool",
)  # fmt: skip
_ETC_DIRECTORIES = ("apt/apt.conf.d", "apt/preferences.d", "apt/sources.list.d", "apt/trusted.gpg.d", "cron.d",
                    "default", "init.d", "logrotate.d", "opt", "pam.d", "profile.d", "systemd/system")  # fmt: skip

_PAM = {
    "auth": "auth sufficient pam_rootok.so\nauth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so sha512\n",
    "session": "session required pam_unix.so\n",
}
"""Root becomes anybody, everybody else needs a password; as su, runuser and chpasswd have it elsewhere."""

_MASTER = "/usr/share/base-passwd"
"""The accounts that every Debian begins with, the same on each: packages give them files."""

_PLAIN_USERS = (
    "daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nbin:*:2:2:bin:/bin:/usr/sbin/nologin\n"
    "mail:*:8:8:mail:/var/mail:/usr/sbin/nologin\nwww-data:*:33:33:www-data:/var/www:/usr/sbin/nologin\n"
    "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_PLAIN_GROUPS = "daemon:*:1:\nbin:*:2:\nadm:*:4:\ntty:*:5:\nmail:*:8:\nwww-data:*:33:\nshadow:*:42:\nnogroup:*:65534:\n"

_K = OperationKind
_F = OperationFlag


def require_host(*, as_root: bool, process_limit: bool) -> None:
    """Check that root inside can be somebody of its own, and is bounded.

    Args:
        as_root: Each sandbox has host uids of its own.
        process_limit: The kernel counts the processes of a sandbox, not those of a user.

    Raises:
        UnsupportedHostError: It cannot.
    """
    if not as_root:
        raise UnsupportedHostError(
            "writable_root=True: root inside has to be somebody of its own, with host uids that only root can give",
            missing=("uid_range",),
            remedies=("run as root", "rootfs=DIRECTORY with what is needed installed already"),
        )
    if not process_limit:
        raise UnsupportedHostError(
            "writable_root=True: without the cgroup controller pids processes are limited for each user, of which root "
            "inside has thousands",
            missing=("process_limit",),
            remedies=("mount or delegate the controller pids, see `nsbox doctor`",),
        )


def add_host_frame(tree: Tree, etc: Iterable[str]) -> None:
    """The lower layers of /etc and /var on the host's root.

    Args:
        tree: Gets the operations.
        etc: Paths of the host's /etc that any sandbox shows.
    """
    for name, (text, mode) in _accounts().items():
        tree.directory("/etc")
        tree.add(_K.FILE, f"/etc/{name}", text, a=mode)
    for name in _ETC_DIRECTORIES:
        tree.directory(f"/etc/{name}")
    tree.add(_K.FILE, "/etc/pam.d/other", "".join(_PAM.values()), a=0o644)
    for name, text in _PAM.items():
        tree.add(_K.FILE, f"/etc/pam.d/common-{name}", text, a=0o644)
    tree.add(_K.FILE, "/etc/pam.d/common-session-noninteractive", _PAM["session"], a=0o644)
    for path in (*etc, *(f"/etc/{name}" for name in _HOST_ETC)):
        entry = hostfiles.look(path)
        if entry is not None and not tree.has(path):
            tree.directory(os.path.dirname(path))
            tree.add(_K.COPY, path, entry.path, a=entry.device, b=entry.inode)
    for name in _VAR_DIRECTORIES:
        tree.directory(f"/var/{name}")
    tree.add(_K.SYMLINK, "/var/run", "/run")
    tree.add(_K.SYMLINK, "/var/lock", "/run/lock")


def _accounts() -> dict[str, tuple[str, int]]:
    """passwd, group and their shadows, all of them locked: name to text and mode."""
    passwd = _without(hostfiles.read_text_beneath(_MASTER, "passwd.master") or _PLAIN_USERS, "root", "user")
    group = _without(hostfiles.read_text_beneath(_MASTER, "group.master") or _PLAIN_GROUPS, "root", "user")
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    users = [
        ["root", "x", "0", "0", "root", "/root", shell],
        ["user", "x", str(PROGRAM_ID), str(PROGRAM_ID), "user", "/home/user", shell],
        *([line[0], "x", *line[2:]] for line in passwd),
    ]
    groups = [
        ["root", "x", "0", ""],
        ["user", "x", str(PROGRAM_ID), ""],
        *([line[0], "x", line[2], ""] for line in group),
    ]
    return {
        "passwd": (_lines(users), 0o644),
        "group": (_lines(groups), 0o644),
        "shadow": (_lines([user[0], "*", "20000", "0", "99999", "7", "", "", ""] for user in users), 0o640),
        "gshadow": (_lines([one[0], "*", "", ""] for one in groups), 0o640),
    }


def _without(text: str, *names: str) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines())
    return [row for row in rows if len(row) in (4, 7) and row[0] not in names]


def _lines(rows: Iterable[list[str]]) -> str:
    return "".join(":".join(row) + "\n" for row in rows)


def add_overlays(tree: Tree, cell: Tree, root: str) -> list[str]:
    """Make the root's directories writable, each by an overlay of its own; those that are empty lie in the quota.

    Args:
        tree: Gets the directories that are missing.
        cell: Gets the overlays; the quota must be there already.
        root: The directory of the host that the root is from; "/" for the host's own.

    Returns:
        The paths that are writable now.
    """
    bound = {one.path: one.arg for one in tree.operations if one.kind is _K.BIND and one.path.count("/") == 1}
    layers = {path: source for path, source in bound.items() if os.path.isdir(source)}
    if root == "/":
        layers |= {"/etc": "", "/var": ""}
    taken = {*layers, *(one.path for one in tree.operations if one.kind in (_K.BIND, _K.SYMLINK))}
    empty = [(path, path[1:], mode) for path, mode in _EMPTY if path not in taken]
    for path, name, mode in (*empty, *_OWN_PLACES):
        tree.directory(path)
        cell.add(_K.QUOTA_DIR, path, f"own-{name}", _F.WRITABLE, mode, 0)
    for path, source in sorted(layers.items()):
        add_overlay(cell, path, source)
    if root == "/":
        cell.add(_K.QUOTA_DIR, "/var/tmp", "own-var-tmp", _F.WRITABLE, 0o1777, 0)  # noqa: S108  # inside
        _add_packages(cell)
    return [*layers, *(path for path, _, _ in (*empty, *_OWN_PLACES))]


def _add_packages(cell: Tree) -> None:
    packages = hostfiles.look("/var/lib/dpkg")
    if packages is not None:
        cell.bind("/var/lib/dpkg", packages)
        add_overlay(cell, "/var/lib/dpkg", packages.path)
        # It names groups of the host, and dpkg refuses to work with one that is not in /etc/group.
        cell.add(_K.FILE, "/var/lib/dpkg/statoverride", "", _F.WRITABLE, 0o644)


def add_overlay(cell: Tree, path: str, source: str) -> None:
    """One overlay, and one for each file system of the host's that is mounted below `source`, where it is shown."""
    cell.add(_K.OVERLAY, path, _quota_name(path))
    for point in hostfiles.mounts_below(source) if source else ():
        entry = hostfiles.look(point)
        if entry is not None and entry.path == point:
            inside = path + point[len(source) :]
            cell.bind(inside, entry)
            if entry.is_directory:
                cell.add(_K.OVERLAY, inside, _quota_name(inside))


def _quota_name(path: str) -> str:
    """A directory of the quota; "%" is escaped, so that no two paths have one."""
    return "overlay" + path.replace("%", "%25").replace("/", "%")


def overlay_inodes(operations: Iterable[Operation]) -> int:
    """What overlays and their like take of the quota before anything is written."""
    kinds = [one.kind for one in operations]
    return INODES * kinds.count(_K.OVERLAY) + len(_EMPTY) + len(_OWN_PLACES) + 1  # at most; and /var/tmp


def overlay_error(operation: Operation, code: int) -> UnsupportedHostError | None:
    """The error for an overlay that failed with errno `code`; None where it is not the host's lack."""
    if operation.kind is not _K.OVERLAY:
        return None
    if code == errno.EOPNOTSUPP:
        return UnsupportedHostError(
            f"writable_root=True: the file system below {operation.path} cannot show its files as the sandbox's own "
            "(idmapped mounts); overlayfs itself, NFS and others cannot, tmpfs can since Linux 6.3",
            missing=("overlay",),
            remedies=("rootfs=DIRECTORY with a root file system on ext4, xfs or btrfs", "boot Linux 6.3 or newer"),
        )
    if code in (errno.ENODEV, errno.ENOSYS, errno.EINVAL, errno.EPERM):
        return UnsupportedHostError(
            f"writable_root=True: no overlay over {operation.path}: {os.strerror(code)}",
            missing=("overlay",),
            remedies=("as root: modprobe overlay", "boot Linux 6.3 or newer"),
        )
    return None
