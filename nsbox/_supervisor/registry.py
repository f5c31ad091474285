"""What a supervisor tells other processes of its user: a socket that answers with its sandboxes, as JSON, and closes.

Made once, when the supervisor starts; a sandbox costs an entry in a dict. `nsbox ps` and `nsbox top` are who asks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import trio

from nsbox._cgroups import CgroupTree, read_usage
from nsbox._supervisor.directory import candidates, open_directory, remove_if_empty

log = logging.getLogger("nsbox")

VERSION = 1
ASK = b"?"
_UCRED = struct.Struct("iII")  # struct ucred, unix(7)
_BACKLOG = 16
_MOST_AT_ONCE = 8
_ANSWER_SECONDS = 5.0
_TRIES = 4
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is told of a sandbox.

    Attributes:
        id: Its id.
        status: Its status.
        runtime: The runtime's name.
        user_id: As configured.
        created_at: When it was made.
        running: Executions that run now.
        executions: Executions so far.
        number: Of its cgroups, as `Cell.number`; None where there are none.
    """

    id: str
    status: str
    runtime: str
    user_id: str
    created_at: datetime
    running: int
    executions: int
    number: int | None


class Registry:
    """The sandboxes of one supervisor, and its socket.

    Where no socket can be made, sandboxes run all the same, and a warning is logged: `nsbox ps` does not show them.

    Args:
        tree: The cgroups that the sandboxes are in.

    Attributes:
        directory: Where the socket is; None: there is none.
        name: Of the socket in there; "" the same. The launcher removes it where this process does not live to do so.
        socket: It; None the same.
    """

    def __init__(self, tree: CgroupTree) -> None:
        self._tree = tree
        self._entries: dict[str, Callable[[], Facts]] = {}
        self.directory: Path | None = None
        self.name = ""
        self.socket: socket.socket | None = None
        self._open()

    def add(self, sandbox_id: str, facts: Callable[[], Facts]) -> None:
        """A sandbox is there; `facts` is called in the supervisor's run."""
        self._entries[sandbox_id] = facts

    def remove(self, sandbox_id: str) -> None:
        """It is no more."""
        self._entries.pop(sandbox_id, None)

    def _open(self) -> None:
        refused: OSError | None = None
        for path in candidates():
            try:
                self.socket, self.name = _listen(path)
            except OSError as exc:
                refused = exc
                continue
            self.directory = path
            _listening.add(self)
            return
        log.warning("nsbox ps will not show the sandboxes of this process: %s", refused)

    async def serve(self) -> None:
        """Answer, until cancelled."""
        if self.socket is None:
            return
        listener = trio.socket.from_stdlib_socket(self.socket)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as exc:
                    if exc.errno == errno.EBADF:  # closed, though somebody had just come
                        return
                    if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED):
                        raise
                    await trio.sleep(_PAUSE_SECONDS)
                    continue
                if len(nursery.child_tasks) >= _MOST_AT_ONCE or not _is_ours(connection):
                    connection.close()
                else:
                    nursery.start_soon(self._answer, connection)

    async def _answer(self, connection: trio.socket.SocketType) -> None:
        with connection, trio.move_on_after(_ANSWER_SECONDS), contextlib.suppress(OSError):
            if await connection.recv(1) != ASK:  # who only looks whether anybody is there says nothing
                return
            rest = memoryview(await self._snapshot())
            while rest:
                rest = rest[await connection.send(rest) :]

    async def _snapshot(self) -> bytes:
        facts = [get() for get in tuple(self._entries.values())]
        return await trio.to_thread.run_sync(_encode, self._tree, facts)

    def close(self) -> None:
        """Nobody is answered any more, and nothing is left of it."""
        self._entries.clear()
        if self.socket is None or self.directory is None:
            return
        _listening.discard(self)
        with contextlib.suppress(OSError):
            os.unlink(self.directory / self.name)
        self.socket.close()
        self.socket = None
        remove_if_empty(self.directory)


def _listen(path: Path) -> tuple[socket.socket, str]:
    """A socket that listens in a directory.

    It gets its name only when it listens: until then nobody can tell it from one whose owner is dead.
    """
    last: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    for _ in range(_TRIES):
        name = f"nsbox-{os.getpid()}-{secrets.token_hex(4)}.sock"
        try:
            directory = open_directory(path, make=True)
        except FileNotFoundError as exc:
            last = exc  # removed by another supervisor's end in between
            continue
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.bind(f"/proc/self/fd/{directory}/{name}.new")  # short, however long the directory's path is, unix(7)
            made.listen(_BACKLOG)
            os.rename(f"{name}.new", name, src_dir_fd=directory, dst_dir_fd=directory)
        except FileNotFoundError as exc:  # removed in between: the directory, or the socket by a collector
            made.close()
            last = exc
            continue
        except BaseException:
            made.close()
            raise
        finally:
            os.close(directory)
        return made, name
    raise last


def _is_ours(connection: trio.socket.SocketType) -> bool:
    """The directory keeps others out already; a descriptor of it may have been passed on."""
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in (os.geteuid(), 0)


def _encode(tree: CgroupTree, facts: list[Facts]) -> bytes:
    sandboxes: list[Mapping[str, object]] = []
    for one in facts:
        usage = None if one.number is None else read_usage(tree, one.number, one.running)
        told = asdict(one) | {"created_at": one.created_at.timestamp()}
        del told["number"]
        sandboxes.append(told | {
            "cpu_seconds": None if usage is None else usage.cpu_seconds,
            "memory_bytes": None if usage is None else usage.memory_bytes,
            "processes": None if usage is None else usage.processes,
        })  # fmt: skip
    message = {"version": VERSION, "pid": os.getpid(), "program": _program(), "sandboxes": sandboxes}
    return json.dumps(message).encode()


def _program() -> str:
    """What the application is called."""
    path = sys.argv[0] if sys.argv else ""
    if os.path.basename(path) == "__main__.py":  # python -m
        path = os.path.dirname(path)
    return os.path.basename(path) or "python"


_listening: weakref.WeakSet[Registry] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A child that was forked has the socket too, and would hold it open, unanswered, when its parent is dead."""
    for registry in tuple(_listening):
        if registry.socket is not None:
            os.close(registry.socket.detach())
    _listening.clear()


os.register_at_fork(after_in_child=_forget_in_child)
