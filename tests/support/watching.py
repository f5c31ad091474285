"""How a test knows what the programs in its sandboxes do, from outside and without guessing times."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from leaks import descendants, parents

import nsbox

LAUNCHER = "nsbox-launcher"


class Bell:
    """A FIFO that a program in a sandbox rings, and that the test waits for.

    Args:
        directory: An empty one, which the sandbox gets by `mount`.
    """

    def __init__(self, directory: Path) -> None:
        self.mount = nsbox.Mount(source=directory, target="/bell", read_only=False)
        directory.chmod(0o777)
        self._fds: dict[str, int] = {}
        self._rung = b""
        for name in ("ring", "go"):
            os.mkfifo(directory / name)
            (directory / name).chmod(0o666)  # mkfifo is subject to the umask
            self._fds[name] = os.open(directory / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self, seconds: float = 20.0) -> str:
        """The next line that a program has written into /bell/ring; a program that never does fails the test."""
        while b"\n" not in self._rung:
            if not select.select([self._fds["ring"]], [], [], seconds)[0]:
                raise AssertionError(f"no program rang within {seconds} s")
            self._rung += os.read(self._fds["ring"], 4096)
        line, _, self._rung = self._rung.partition(b"\n")
        return line.decode()

    def go(self) -> None:
        """Let one program go on that reads a line from /bell/go."""
        os.write(self._fds["go"], b"go\n")

    def close(self) -> None:
        """Close this side; what programs have opened is theirs."""
        for fd in self._fds.values():
            os.close(fd)


def cpu_ticks(pid: int) -> int:
    """User and system time of a process in clock ticks, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for what nothing tells of; fail when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def command_line(pid: int) -> str:
    """What a process runs; "" for one that has ended, a zombie included."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def programs() -> dict[int, str]:
    """Everything alive below this process that is no part of nsbox: pid and command line."""
    found = {pid: command_line(pid) for pid in descendants()}
    return {pid: line for pid, line in found.items() if line and LAUNCHER not in line}


def parts_of_nsbox() -> list[int]:
    """The launcher, which comes first, and the processes that it has cloned and that have not become programs."""
    found = {pid for pid in descendants() if LAUNCHER in command_line(pid)}
    parent = parents()
    return sorted(found, key=lambda pid: (parent.get(pid) in found, pid))  # by pids alone not: their numbers wrap
