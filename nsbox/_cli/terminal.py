"""The person's own terminal, lent to a program: raw while it has it, and always given back as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from nsbox._cli import streams

_FALLBACK = (24, 80)
_LEAVE_SCREEN = "\x1b[?1049l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1l\x1b>\x1b[0m\r\n"
"""Back from the alternate screen, with a cursor, without pasting marks, mouse reports and application keys."""


class Terminal:
    """The terminal on stdin. Use `raw` in the main thread, which is where signals arrive."""

    def __init__(self) -> None:
        self._saved: list[object] = []

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 24 and 80 where it does not know."""
        try:
            found = os.get_terminal_size(streams.STDIN)
        except OSError:
            return _FALLBACK
        return (found.lines, found.columns) if found.lines > 0 and found.columns > 0 else _FALLBACK

    @contextlib.contextmanager
    def raw(self, resized: Callable[[], object]) -> Iterator[None]:
        """Every key goes to the program as it is, Ctrl-C too; afterwards, the terminal is as it was before.

        A stop by SIGTSTP gives it back for that time.

        Args:
            resized: Called in a signal handler when its size may be another. It must not wait.
        """
        self._saved = termios.tcgetattr(streams.STDIN)

        def go_on(_number: int, _frame: FrameType | None) -> None:
            self._enter()
            resized()

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._restore()
            # This thread takes the signal itself, and is stopped when the call returns: any other thread could take
            # SIGCONT, and this one wait for something else by then.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            go_on(_number, _frame)

        handlers = {
            signal.SIGWINCH: lambda _number, _frame: resized(),
            signal.SIGTSTP: stop,
            signal.SIGCONT: go_on,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            self._enter()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._restore()

    def leave_screen(self) -> None:
        """After a program that was killed: it may have left the terminal in the middle of something."""
        with contextlib.suppress(OSError, streams.OutputClosedError):
            streams.write(streams.STDOUT, _LEAVE_SCREEN)

    def _enter(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setraw(streams.STDIN, termios.TCSANOW)

    def _restore(self) -> None:
        with contextlib.suppress(termios.error):  # it has been closed: nobody is there to miss it
            termios.tcsetattr(streams.STDIN, termios.TCSANOW, self._saved)  # type: ignore[arg-type]
