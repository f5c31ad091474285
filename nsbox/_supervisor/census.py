"""Asking all supervisors of this user for their sandboxes, from any process. Blocking code."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nsbox._supervisor.directory import SOCKET_NAME, candidates, open_directory, remove_if_empty
from nsbox._supervisor.registry import ASK, VERSION

ANSWER_SECONDS = 1.0
_MOST_BYTES = 64 << 20  # 1,000 sandboxes are 300 KiB
_AT_ONCE = 16
_UCRED = struct.Struct("iII")


class Answer(Enum):
    """What comes of asking."""

    TOLD = "told"
    BUSY = "busy"  # it lives, and has other things to do: its application holds the GIL, or is stopped
    DEAD = "dead"
    OTHER = "other"  # it lives, and speaks another version's language


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervisor:
    """One supervisor.

    Attributes:
        pid: Of its application, as itself sees it.
        answer: What came of asking.
        program: What its application is called; "" unless it was told.
        sandboxes: Of each: id, status, runtime, user_id, created_at, running, executions, and where they are known
            cpu_seconds, memory_bytes, processes.
    """

    pid: int
    answer: Answer
    program: str = ""
    sandboxes: tuple[Mapping[str, object], ...] = ()


def ask_all(seconds: float = ANSWER_SECONDS) -> list[Supervisor]:
    """Ask every supervisor of this user, in order of their pids; what dead ones left is removed.

    Args:
        seconds: How long each has to answer; they are asked at once.
    """
    found: list[Supervisor] = []
    for path, directory, names in _directories():
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="nsbox census") as pool:
            answers = pool.map(lambda name, directory=directory: _ask(directory, name, seconds), names)
            for name, one in zip(names, answers, strict=True):
                if one.answer is Answer.DEAD:
                    _remove(directory, name)
                else:
                    found.append(one)
        remove_if_empty(path)
    return sorted(found, key=lambda one: one.pid)


def dead_sockets(*, remove: bool) -> list[Path]:
    """The sockets of supervisors that are dead. Blocks for at most a moment: nobody is waited for.

    Args:
        remove: Remove them, too.
    """
    found: list[Path] = []
    for path, directory, names in _directories():
        dead = [name for name in names if _is_dead(directory, name)]
        found += [path / name for name in dead if not remove or _remove(directory, name)]
        if remove:
            remove_if_empty(path)
    return found


def _directories() -> Iterator[tuple[Path, int, list[str]]]:
    for path in candidates():
        try:
            directory = open_directory(path, make=False)
        except OSError:
            continue  # nobody has made it, or it is somebody else's
        try:
            yield path, directory, sorted(name for name in os.listdir(directory) if SOCKET_NAME.fullmatch(name))
        finally:
            os.close(directory)


def _remove(directory: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


def _is_dead(directory: int, name: str) -> bool:
    connection = _knock(directory, name)
    if isinstance(connection, socket.socket):
        connection.close()
    return connection is None


def _knock(directory: int, name: str) -> socket.socket | Answer | None:
    """A connection; BUSY where it lives and too many wait; None where it is dead."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as stack:
        stack.enter_context(connection)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{name}")
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            return Answer.BUSY
        # The process that listens, unix(7): a child of a dead one may hold the socket open without knowing.
        pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if pid and not os.path.exists(f"/proc/{pid}"):
            return None
        stack.pop_all()
        return connection


def _ask(directory: int, name: str, seconds: float) -> Supervisor:
    match = SOCKET_NAME.fullmatch(name)
    assert match is not None
    pid = int(match["pid"])
    connection = _knock(directory, name)
    if connection is None:
        return Supervisor(pid=pid, answer=Answer.DEAD)
    if isinstance(connection, Answer):
        return Supervisor(pid=pid, answer=connection)
    with connection:
        try:
            connection.send(ASK)
            content = _receive(connection, time.monotonic() + seconds)
            if not content and _is_dead(directory, name):  # it has ended just now
                return Supervisor(pid=pid, answer=Answer.DEAD)
            return _parse(pid, content)
        except (OSError, TimeoutError):
            return Supervisor(pid=pid, answer=Answer.BUSY)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    collected = bytearray()
    while len(collected) <= _MOST_BYTES:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = connection.recv(1 << 16)
        if not chunk:
            return bytes(collected)
        collected += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
    return b""


def _parse(pid: int, content: bytes) -> Supervisor:
    if not content:
        return Supervisor(pid=pid, answer=Answer.BUSY)
    try:
        told = json.loads(content)
        if told["version"] != VERSION:
            return Supervisor(pid=pid, answer=Answer.OTHER)
        sandboxes = tuple(dict(one) for one in told["sandboxes"])
        return Supervisor(pid=pid, answer=Answer.TOLD, program=str(told["program"]), sandboxes=sandboxes)
    except (ValueError, KeyError, TypeError):
        return Supervisor(pid=pid, answer=Answer.OTHER)
