"""A command on a terminal of its own, and a person that types."""

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from typing import Any

SECONDS = 20.0


class Screen:
    """The outer end of a terminal with a command on it.

    Args:
        command: What runs, as the leader of a session whose controlling terminal it is.
        size: Rows and columns.
        environment: Beside this process' own.
    """

    def __init__(
        self, command: list[str], *, size: tuple[int, int] = (30, 100), environment: Mapping[str, str] | None = None
    ) -> None:
        self.ours, self.theirs = os.openpty()
        self.resize(*size)
        self.before: list[Any] = termios.tcgetattr(self.theirs)
        self.seen = b""
        # A terminal that the leader of a session opens becomes its controlling one, tty_ioctl(4).
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self.theirs), *command],
            start_new_session=True, env={**os.environ, "TERM": "xterm", **(environment or {})},
        )  # fmt: skip

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.ours, text.encode())

    def read_until(self, pattern: str) -> str:
        """All that was written up to what matches, which is taken; fails when it does not come."""
        deadline = time.monotonic() + SECONDS
        while not (match := re.search(pattern.encode(), self.seen, re.DOTALL)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not come, but {self.seen!r}"
            if select.select([self.ours], [], [], left)[0]:
                try:
                    self.seen += os.read(self.ours, 65536)
                except OSError as exc:  # EIO: nobody has it open any more
                    raise AssertionError(f"{pattern!r} did not come, but {self.seen!r}, and the end") from exc
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found.decode(errors="replace")

    def resize(self, rows: int, columns: int) -> None:
        """Of the window."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def is_raw(self) -> bool:
        """Whether keys go to the command one by one, and Ctrl-C is one of them."""
        flags: int = termios.tcgetattr(self.theirs)[3]
        return not flags & (termios.ICANON | termios.ISIG | termios.ECHO)

    @property
    def is_as_before(self) -> bool:
        """Whether every setting of the terminal is as it was."""
        return termios.tcgetattr(self.theirs) == self.before

    def wait(self) -> int:
        """The exit status; what is written meanwhile is read."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end; it wrote {self.seen!r}"
            if select.select([self.ours], [], [], 0.02)[0]:
                self.seen += os.read(self.ours, 65536)
        return self.process.returncode

    def hang_up(self) -> None:
        """The window is closed."""
        for fd in (self.ours, self.theirs):
            os.close(fd)
        self.ours = self.theirs = -1


@contextlib.contextmanager
def screen(
    command: list[str], *, size: tuple[int, int] = (30, 100), environment: Mapping[str, str] | None = None
) -> Iterator[Screen]:
    """One, closed afterwards; what then still runs is killed."""
    made = Screen(command, size=size, environment=environment)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait()
        if made.ours >= 0:
            made.hang_up()
