"""What a test could leave behind, counted before and after it.

Other runs of nsbox may be at work on the same machine. Cgroups and files therefore count as ours unless the process
whose pid is in their name lives and is not a descendant of this one.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import needs

STATE = Path("/run/nsbox")
SOCKETS = (
    STATE / "supervisors",
    Path(f"/run/user/{os.getuid()}/nsbox"),
    Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "nsbox",
    Path(f"/tmp/nsbox-{os.getuid()}"),
)
"""Where supervisors of one user have their sockets: there while one of them, not only ours, lives."""
PERMANENT = (STATE, STATE / "uid-ranges", STATE / "address-ranges", *SOCKETS)
"""The registers of ranges, which all supervisors of a host share, stay."""
DIRECTORIES = ("/run", f"/run/user/{os.getuid()}", "/var/tmp", "/dev/shm", tempfile.gettempdir())


def parents() -> dict[int, int]:
    """The parent of every process that can be seen, zombies too (proc_pid_stat(5))."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def descendants() -> set[int]:
    """Every process below this one."""
    tree = parents()
    found: set[int] = set()
    level = {os.getpid()}
    while level:
        level = {pid for pid, parent in tree.items() if parent in level}
        found |= level
    return found


def is_foreign(name: str, ours: set[int]) -> bool:
    """Whether the owner that `nsbox-<pid>-…` names is alive and not one of ours."""
    pid = re.match(r"nsbox-(\d+)\b", name)
    return pid is not None and int(pid[1]) not in ours and Path("/proc", pid[1]).exists()


def command_of(name: str) -> str:
    """What a counted process runs, for a message; nothing for what is no process."""
    try:
        command = Path("/proc", name.removeprefix("process "), "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return ": " + (command.replace(b"\0", b" ").decode(errors="replace").strip() or "zombie")


def open_files() -> Counter[str]:
    """The link targets of this process's fds, without the numbers that are new with every socket and pipe."""
    found: Counter[str] = Counter()
    for entry in os.listdir("/proc/self/fd"):  # a Path would be made of each
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")  # the text itself is wanted
        except FileNotFoundError:
            continue  # the directory's own fd
        found[f"fd: {re.sub(r':.[0-9]+.$', '', target)}"] += 1
    return found


def threads() -> Counter[str]:
    """Python's threads: the kernel lists one for a moment after it was joined. Trio keeps idle ones for ten seconds."""
    return Counter(f"thread: {thread.name}" for thread in threading.enumerate() if "Trio thread" not in thread.name)


def cgroup_directories(ours: set[int]) -> Counter[str]:
    """Directories named nsbox-* in every mounted hierarchy; the highest of each tree."""
    found: Counter[str] = Counter()
    for point, kind, _ in needs.mounts():
        if not kind.startswith("cgroup"):
            continue
        for directory, names, _ in os.walk(point):
            for name in [name for name in names if name.startswith("nsbox-")]:
                names.remove(name)
                if not is_foreign(name, ours):
                    found[f"cgroup: {directory}/{name}"] += 1
    return found


def files(ours: set[int]) -> Counter[str]:
    """Files and directories named nsbox-* where programs put what is temporary."""
    entries = [path for directory in dict.fromkeys(DIRECTORIES) for path in Path(directory).glob("nsbox*")]
    entries += [
        path for directory in (STATE, *SOCKETS) if os.access(directory, os.R_OK) for path in directory.glob("*")
    ]
    return Counter(f"file: {path}" for path in entries if path not in PERMANENT and not is_foreign(path.name, ours))


def loop_devices() -> Counter[str]:
    """Loop devices with a file behind them."""
    found: Counter[str] = Counter()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(FileNotFoundError):  # a stranger's was let go while we looked
            found[f"{path.parts[3]}: {path.read_text().strip()}"] += 1
    return found


def snapshot() -> Counter[str]:
    """All of it."""
    below = descendants()
    ours = below | {os.getpid()}
    mounted = Counter(f"mount: {point}" for point, _, _ in needs.mounts() if "nsbox" in point)
    processes = Counter(f"process {pid}" for pid in below)
    return processes + open_files() + threads() + cgroup_directories(ours) + files(ours) + loop_devices() + mounted


def stop_supervisor() -> None:
    """Stop the supervisor that this process shares: what it keeps for the next sandbox is no leak."""
    blocking = sys.modules.get("nsbox._blocking")  # not imported: never started
    if blocking is not None:
        blocking.shutdown()


def left_behind(before: Counter[str], after: Counter[str]) -> list[str]:
    """What there is more of after than before, one line each."""
    return sorted(f"{name}{command_of(name)} ({count} more)" for name, count in (after - before).items())


def settled(before: Counter[str], seconds: float = 10) -> list[str]:
    """What is still left when `seconds` are over; at once when nothing is.

    A launcher removes its cgroups after the application's end: ours, and those of strangers, whose owner is then dead.
    How soon it has to is told by the tests of crashes; here it is only told from what stays for ever.
    """
    deadline = time.monotonic() + seconds
    while (left := left_behind(before, snapshot())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
