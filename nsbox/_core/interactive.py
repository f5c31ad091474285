"""A program whose input and output somebody else holds in hand: on pipes, or on a terminal."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal as signals
import struct
import termios
from collections.abc import Sequence

import psutil
import trio

from nsbox._config import ExecutionOptions
from nsbox._config.validation import integer
from nsbox._core.core import SandboxCore
from nsbox._core.program import Running
from nsbox._errors import ConfigError, InvalidStateError, SandboxError, SetupError
from nsbox._results import ExecutionResult
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_interactive
from nsbox._supervisor.order import Order, Outcome
from nsbox._supervisor.start import pid_of

_TIOCGPTPEER = 0x5441  # <asm-generic/ioctls.h>: the other end, in whatever mount namespace it is, ioctl_tty(2)
_TIOCSPTLCK = 0x40045431
_END_SECONDS = 10.0
_LONGEST_SIDE = 65_535  # of a terminal: struct winsize has 16 bits


class Stdio:
    """Both ends of a program's stdin, stdout and stderr.

    Attributes:
        theirs: The program's ends, until `close_theirs`.
        ours: Our ends for stdin, stdout and stderr, not blocking; two of a terminal's, whose stderr is None.
        terminal: The terminal, or -1.
    """

    def __init__(self) -> None:
        self.theirs: tuple[int, int, int] = (-1, -1, -1)
        self.ours: tuple[int, int, int | None] = (-1, -1, None)
        self.terminal = -1
        self._own_theirs: set[int] = set()

    @classmethod
    def pipes(cls) -> Stdio:
        """Three pipes.

        Raises:
            SetupError: This process may have no more open.
        """
        made: list[int] = []
        try:
            for _ in range(3):
                made += os.pipe2(os.O_CLOEXEC)
        except OSError as exc:
            for fd in made:
                os.close(fd)
            raise SetupError("stdio", exc.errno or errno.EMFILE, exc.strerror or "", "pipes") from exc
        stdio = cls()
        stdio.theirs = (made[0], made[3], made[5])
        stdio.ours = (made[1], made[2], made[4])
        stdio._own_theirs = set(stdio.theirs)
        for fd in (made[1], made[2], made[4]):
            os.set_blocking(fd, False)
        return stdio

    @classmethod
    def pseudo_terminal(cls, cell: Cell, size: tuple[int, int]) -> Stdio:
        """A terminal of the sandbox's own devpts, pts(4): the program finds it under the name that it has there.

        Raises:
            SetupError: The sandbox has as many as it may, or this process may have no more open.
        """
        made: list[int] = []
        try:
            flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
            made.append(os.open("dev/pts/ptmx", flags | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=cell.root))
            fcntl.ioctl(made[0], _TIOCSPTLCK, struct.pack("i", 0))
            fcntl.ioctl(made[0], termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            made.append(fcntl.ioctl(made[0], _TIOCGPTPEER, flags))
            made.append(fcntl.fcntl(made[0], fcntl.F_DUPFD_CLOEXEC, 3))
            made.append(fcntl.fcntl(made[0], fcntl.F_DUPFD_CLOEXEC, 3))
        except OSError as exc:
            for fd in made:
                os.close(fd)
            raise SetupError("terminal", exc.errno or errno.EIO, exc.strerror or "", "/dev/pts") from exc
        stdio = cls()
        stdio.terminal, peer, written, read = made
        stdio.theirs = (peer, peer, peer)
        stdio.ours = (written, read, None)
        stdio._own_theirs = {peer}
        return stdio

    def resize(self, rows: int, columns: int) -> None:
        """Of a terminal; the program gets SIGWINCH."""
        if self.terminal >= 0:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_theirs(self) -> None:
        """They are the program's now."""
        for fd in self._own_theirs:
            os.close(fd)
        self._own_theirs.clear()

    def close_terminal(self) -> None:
        """What `resize` needs it for is over."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def close(self) -> None:
        """All of it, where no stream has taken over our ends."""
        self.close_theirs()
        self.close_terminal()
        for fd in self.ours:
            if fd is not None:
                os.close(fd)


class ReadEnd:
    """The reading end of a program's output, with the methods of a trio.abc.ReceiveStream."""

    def __init__(self, fd: int) -> None:
        self._stream = trio.lowlevel.FdStream(fd)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What there is, as soon as there is something; b"": nothing more will come."""
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EIO:
                return b""  # a terminal that no process has open any more
            raise

    async def aclose(self) -> None:
        """Close it: a program that goes on writing gets SIGPIPE."""
        await self._stream.aclose()


class Interactive:
    """The supervisor's side of a `Process`; its methods are for the supervisor's run."""

    def __init__(self, core: SandboxCore, running: Running, stdio: Stdio) -> None:
        self._core = core
        self._running = running
        self._stdio = stdio
        self._scope: trio.CancelScope | None = None
        self._pidfd = -1
        self._settled = trio.Event()  # it runs, or never will
        self._ended = trio.Event()
        self._failure: Exception | None = None
        self._result: ExecutionResult | None = None
        self.pid = 0
        self.stdin = trio.lowlevel.FdStream(stdio.ours[0])
        self.stdout = ReadEnd(stdio.ours[1])
        self.stderr = None if stdio.ours[2] is None else ReadEnd(stdio.ours[2])

    @property
    def execution_id(self) -> str:
        return self._running.execution.id

    @property
    def over(self) -> bool:
        """Whether it has ended; from any thread."""
        return self._ended.is_set()

    async def start(self, order: Order) -> None:
        """Send it on its way; returns when the program runs."""
        self._scope = start_soon(self._work, order)
        try:
            await self._settled.wait()
        except BaseException:
            await self.close()
            raise
        if not self.pid:
            await self.close()
            raise self._failure or InvalidStateError("the program was stopped before it ran")

    async def _work(self, order: Order) -> None:
        async def carry_out(cell: Cell) -> Outcome:
            return await run_interactive(
                cell, order, self._stdio.theirs, terminal=self._stdio.terminal >= 0,
                close_stdio=self._stdio.close_theirs, on_start=self._note_start,
            )  # fmt: skip

        self._failure = InvalidStateError(
            "the program was ended before it had a result; call `wait` before its `with` ends, or `close` is called"
        )
        try:
            self._result = await self._core.executions.perform(self._running, order, carry_out)
            self._failure = None
        except Exception as exc:  # noqa: BLE001  # it is raised where somebody waits
            self._failure = exc
        finally:
            self._stdio.close_theirs()
            self._stdio.close_terminal()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            self._settled.set()
            self._ended.set()

    def _note_start(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self.pid = pid_of(pidfd)
        self._settled.set()

    async def wait(self) -> ExecutionResult:
        """Its result, when it and all that it has started are dead."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        return self._result

    async def send_signal(self, signal: int) -> None:
        """To its first process. One that has ended gets none, and that is no error (as with trio.Process)."""
        try:
            number = signals.Signals(signal)
        except ValueError:
            raise ConfigError(f"signal={signal!r}: must be the number of a signal") from None
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._core.living()[0].tree.hierarchies:
                signals.pidfd_send_signal(self._pidfd, number)
            else:
                self._signal_program(number)

    def _signal_program(self, number: signals.Signals) -> None:
        """Without cgroups it is the child of an init of its own, which is the child of the process that we know."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for init in psutil.Process(self.pid).children():
                for program in init.children():
                    program.send_signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Of a terminal."""
        check_size((rows, columns))
        if self._stdio.ours[2] is not None:
            raise InvalidStateError("the program was started on pipes: there is no terminal to resize")
        self._stdio.resize(rows, columns)

    async def close(self) -> None:
        """End it and all that it has started, wait for that, and close the streams. Not cancelled.

        Its result says CANCELLED, as with `terminate_execution`.
        """
        with trio.CancelScope(shield=True):
            if self._scope is not None:
                with contextlib.suppress(SandboxError), trio.move_on_after(_END_SECONDS):
                    if not self._ended.is_set():
                        await self._core.executions.terminate(self.execution_id)
                        await self._ended.wait()
                self._scope.cancel()
                await self._ended.wait()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    await stream.aclose()


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a terminal.

    Raises:
        ConfigError: They are none.
    """
    try:
        rows, columns = size
    except (TypeError, ValueError):
        raise ConfigError(f"pty={size!r}: must be rows and columns, such as (24, 80)") from None
    for name, side in (("rows", rows), ("columns", columns)):
        integer(f"pty {name}", side, minimum=1, maximum=_LONGEST_SIDE)
    return rows, columns


async def spawn(
    core: SandboxCore, argv: Sequence[str], options: ExecutionOptions, pty: tuple[int, int] | None
) -> Interactive:
    """Start a program and return when it runs.

    Cancellation ends it, and waits for that.
    """
    if options.stdin is not None:
        raise ConfigError("stdin: a spawned program reads what is written to the process' stdin")
    size = None if pty is None else check_size(pty)
    core.executions.require_room()
    _, cell = core.living()
    if size is not None and "TERM" not in options.environment:
        options = options.with_environment(TERM="xterm-256color")
    running = core.executions.new_command(argv, options)
    order = core.executions.order(running, argv)
    stdio = Stdio.pipes() if size is None else Stdio.pseudo_terminal(cell, size)
    process = Interactive(core, running, stdio)
    await process.start(order)
    return process
