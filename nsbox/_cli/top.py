"""`nsbox top`: the living sandboxes and what they use, again and again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import time
import tty
from collections.abc import Iterator, Sequence

from rich.live import Live

from nsbox._cli import exits, streams
from nsbox._cli.ps import render
from nsbox._cli.session import Interrupted
from nsbox._cli.tables import make_console, show
from nsbox._supervisor.census import Supervisor, ask_all


def top(interval: float, count: int | None) -> int:
    """Look `count` times, or until q or Ctrl-C; those are its usual end, so the status is then 0.

    Args:
        interval: Seconds between two looks.
        count: None: no end.

    Returns:
        The exit status.
    """
    try:
        if os.isatty(streams.STDOUT) and count != 1:
            with _keys() as keyboard, Live(console=make_console(), screen=count is None, auto_refresh=False) as live:
                for found, percents in _looks(interval, count, keyboard):
                    live.update(render(found, percents), refresh=True)
        else:
            for found, percents in _looks(interval, count, None):
                show(render(found, percents))
    except Interrupted as exc:
        if exc.number != signal.SIGINT:
            raise
        return exits.INTERRUPTED if count is not None else 0
    return 0


def _looks(
    interval: float, count: int | None, keyboard: int | None
) -> Iterator[tuple[Sequence[Supervisor], dict[str, float]]]:
    before: dict[str, float] = {}
    then = 0.0
    number = 0
    while True:
        found, now = ask_all(), time.monotonic()
        used = {
            str(sandbox["id"]): float(cpu)
            for one in found
            for sandbox in one.sandboxes
            if isinstance(cpu := sandbox.get("cpu_seconds"), (int, float))
        }
        passed = now - then
        yield (
            found,
            {name: max(0.0, (cpu - before[name]) / passed * 100) for name, cpu in used.items() if name in before},
        )
        before, then = used, now
        number += 1
        if number == count or _wait(interval, keyboard):
            return


def _wait(seconds: float, keyboard: int | None) -> bool:
    """Wait; True: somebody has pressed q."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if keyboard is None:
            time.sleep(left)
        elif select.select([keyboard], [], [], left)[0]:
            pressed = os.read(keyboard, 64)
            if not pressed or b"q" in pressed.lower():
                return True
    return False


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """stdin, told of each key at once; None where it is no terminal."""
    if not os.isatty(streams.STDIN):
        yield None
        return
    saved = termios.tcgetattr(streams.STDIN)
    try:
        tty.setcbreak(streams.STDIN, termios.TCSANOW)
        yield streams.STDIN
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(streams.STDIN, termios.TCSANOW, saved)
