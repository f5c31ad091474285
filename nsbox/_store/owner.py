"""Whether the process that made something still lives.

A pid alone means another process after a while, and in another pid namespace at once. With the boot, the pid namespace
and the process' start time beside it, it means one process for ever: a pid is not given twice within one clock tick.
"""

from __future__ import annotations

import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def own_identity() -> str:
    """This process: boot, pid namespace, pid, start time in clock ticks since the boot (proc_pid_stat(5))."""
    pid = os.getpid()
    _, started = _state_and_start(pid) or ("", "0")
    return f"{_boot()} {_namespace()} {pid} {started}"


def is_alive(identity: str) -> bool | None:
    """Whether that process lives.

    Args:
        identity: What `own_identity` said in it.

    Returns:
        True or False; None where it cannot be known from here: it is in another pid namespace, or hidden.
    """
    parts = identity.split()
    if len(parts) != 4 or not parts[2].isdecimal():
        return None
    boot, namespace, pid, started = parts
    if boot != _boot():
        return False  # no process outlives the kernel
    if namespace != _namespace():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    except OverflowError:
        return False
    found = _state_and_start(int(pid))
    if found is None:
        return None  # /proc is mounted with hidepid=, proc(5), or it ended just now
    state, now_started = found
    return now_started == started and state not in "ZX"


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "-"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").removeprefix("pid:[").removesuffix("]")
    except OSError:
        return "-"


def _state_and_start(pid: int) -> tuple[str, str] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), fields[19].decode()
