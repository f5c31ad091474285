"""The pipes of an execution."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from nsbox._errors import SetupError

_PIPE_BYTES = 64 * 1024


class Pipes:
    """The three pipes of an execution, ours and theirs."""

    def __init__(self) -> None:
        self._fds: set[int] = set()
        self._stdin = self.stdout = self.stderr = -1
        self.theirs = (-1, -1, -1)

    def open(self) -> None:
        """Make them.

        Raises:
            SetupError: This process may have no more open.
        """
        try:
            self._open()
        except OSError as exc:
            raise SetupError("stdio", exc.errno or errno.EMFILE, exc.strerror or "", "pipes") from exc

    def _open(self) -> None:
        their_stdin, self._stdin = self._pipe()
        self.stdout, their_stdout = self._pipe()
        self.stderr, their_stderr = self._pipe()
        self.theirs = (their_stdin, their_stdout, their_stderr)
        for fd in (self._stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._fds.update(ends)
        return ends

    def give_stdin(self, data: bytes) -> memoryview | None:
        """Write what fits at once, and close if that was all; else what is left, for `feed`."""
        written = 0
        if data:
            with contextlib.suppress(BlockingIOError):
                written = os.write(self._stdin, memoryview(data)[:_PIPE_BYTES])
        if written == len(data):
            self.close(self._stdin)
            return None
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, 1 << 20)
        return memoryview(data)[written:]

    def take_stdin(self) -> int:
        self._fds.discard(self._stdin)
        return self._stdin

    def close_theirs(self) -> None:
        for fd in self.theirs:
            self.close(fd)

    def close(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            os.close(fd)

    def close_all(self) -> None:
        for fd in tuple(self._fds):
            self.close(fd)


@contextlib.contextmanager
def open_pipes() -> Iterator[Pipes]:
    """All closed afterwards, but for a stdin that was taken.

    Raises:
        SetupError: This process may have no more open.
    """
    pipes = Pipes()
    try:
        pipes.open()
        yield pipes
    finally:
        pipes.close_all()
