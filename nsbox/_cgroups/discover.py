"""Where the cgroup hierarchies are mounted and where this process is in them: parsing, and reading nothing else.

Rests on proc_pid_mountinfo(5), cgroups(7) and cgroup_namespaces(7). Nothing here changes anything.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

V1_CONTROLLERS = frozenset({
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio",
    "perf_event", "pids", "rdma",
})  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMount:
    """One mounted hierarchy.

    Attributes:
        point: Where it is mounted.
        root: The cgroup that the mount point shows, as seen from our cgroup namespace; "/.." is outside of it.
        version: 2 or 1.
        controllers: Those of a v1 hierarchy; empty for v2, whose controllers are per cgroup.
        own: The directory of our own cgroup below `point`, None when this mount does not show it.
    """

    point: Path
    root: str
    version: int
    controllers: frozenset[str]
    own: Path | None

    @property
    def name(self) -> str:
        """The word unified for v2, else the v1 controllers, in alphabetical order."""
        return "unified" if self.version == 2 else ",".join(sorted(self.controllers))

    def upwards(self) -> Iterator[Path]:
        """Our own directory and those above it that still exist, nearest first, up to the mount point."""
        current = self.own if self.own is not None else self.point
        while True:
            if current.is_dir():  # a removed cgroup reads "/name (deleted)" in /proc/self/cgroup
                yield current
            if current == self.point:
                return
            current = current.parent


def parse_membership(text: str) -> dict[str, str]:
    """Our cgroups, from the text of /proc/self/cgroup.

    Returns:
        Path by hierarchy: key "" for v2, else each v1 controller of the line on its own.
    """
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def parse_mounts(mountinfo: str, membership: str) -> tuple[CgroupMount, ...]:
    """The mounted hierarchies, v2 first, each once, from the texts of mountinfo and /proc/self/cgroup.

    Of several mounts of one hierarchy the one that shows our own cgroup wins, then the later one, which hides an
    earlier one at the same place. Named hierarchies without controllers (name=systemd) are left out.
    """
    own_paths = parse_membership(membership)
    chosen: dict[str, CgroupMount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, _source, options) = left.split(" "), right.split(" ", 2)
        if fstype not in ("cgroup", "cgroup2"):
            continue
        root, point = _unescape(fields[3]), Path(_unescape(fields[4]))
        controllers = frozenset(options.split(",")) & V1_CONTROLLERS if fstype == "cgroup" else frozenset[str]()
        if fstype == "cgroup" and not controllers:
            continue
        path = own_paths.get(min(controllers, default=""))
        mount = CgroupMount(
            point=point,
            root=root,
            version=2 if fstype == "cgroup2" else 1,
            controllers=controllers,
            own=None if path is None else locate(point, root, path),
        )
        earlier = chosen.get(mount.name)
        if earlier is None or mount.own is not None or earlier.own is None:
            chosen[mount.name] = mount
    return tuple(sorted(chosen.values(), key=lambda mount: (-mount.version, mount.name)))


def locate(point: Path, root: str, path: str) -> Path | None:
    """The directory of the cgroup `path` below a mount that shows the cgroup `root` at `point`.

    Returns:
        None when the mount does not show that cgroup: it lies beside `root`, or one of them outside our namespace.
    """
    if "/.." in root or "/.." in path:
        return None
    try:
        return point / Path(path).relative_to(root)
    except ValueError:
        return None


def read_mounts(process: Path = Path("/proc/self")) -> tuple[CgroupMount, ...]:
    """The mounted hierarchies as `process` sees them, see `parse_mounts`."""
    return parse_mounts((process / "mountinfo").read_text(errors="surrogateescape"), (process / "cgroup").read_text())


def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo (space, tab, newline, backslash)."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_list(text: str) -> frozenset[int]:
    """The numbers of the kernel's list format, "0-2,7" (cpuset(7))."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
