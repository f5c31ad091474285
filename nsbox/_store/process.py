"""The writers of this process: one a file, closed together, and held still around a fork."""

from __future__ import annotations

import os
import threading
from functools import partial

from nsbox._store.writer import Writer

_writers: dict[str, Writer] = {}
_lock = threading.Lock()


def find_writer(path: str | os.PathLike[str]) -> Writer:
    """This process' writer for a file."""
    real = os.path.realpath(path)
    with _lock:
        writer = _writers.get(real)
        if writer is None:
            writer = _writers[real] = Writer(real)
        return writer


def close_writers(seconds: float = 10.0) -> None:
    """Write what waits for any file, and close all. Blocks for at most about so many seconds a file."""
    with _lock:
        writers = tuple(_writers.values())
    for writer in writers:
        writer.close(seconds)


_held: list[Writer] = []


def _before_fork() -> None:
    _lock.acquire()
    for writer in _writers.values():
        writer.prepare_fork()
        _held.append(writer)


def _after_fork(*, in_child: bool) -> None:
    while _held:
        _held.pop().finish_fork(in_child=in_child)
    _lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=partial(_after_fork, in_child=False),
    after_in_child=partial(_after_fork, in_child=True),
)
