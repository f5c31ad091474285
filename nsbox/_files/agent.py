"""An operation in another user namespace, where this process' user has no right over the files of programs.

With subordinate ids those files belong to ids over which only the launcher's user namespace has a right. A process may
join that namespace, for its user owns it (setns(2), user_namespaces(7)); but one with several threads cannot. So this
is a process of its own for each operation: it joins, is root there, and does what would else be done in a thread. It
has the same descriptor of the root, and no program can see it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from nsbox._errors import FileOperationError, SetupError, file_operation_error
from nsbox._files.orders import Answer, Order, carry_out
from nsbox._files.resolve import Root, closing, named
from nsbox._files.write import TemporaryNames
from nsbox._records import FileInfo

_CLONE_NEWUSER = 0x1000_0000
_LOOK_MS = 20  # how soon a caller who gives up is noticed
_NAMES = 4
_TIMES = ("created_at", "modified_at")

# Not `-m`: the package's own __init__ would bring all of nsbox along, and the start would take several times as long.
_START = (
    "import sys, types; package = types.ModuleType('nsbox'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['nsbox'] = package; from nsbox._files.agent import main; main()"
)


def carry_out_by_agent(
    order: Order, root: Root, content: int, check: Callable[[], object], names: TemporaryNames
) -> Answer:
    """Start a process that does it, wait for it, and take what it has to say.

    Args:
        order: What.
        root: The sandbox's, with a `member`.
        content: What is to be written is read from this descriptor, where it stands; -1: nothing is.
        check: Called every 20 ms; what it raises ends the work, and is raised when that has been cleaned up.
        names: Where names for a moment come from.

    Raises:
        FileOperationError: As `carry_out`.
        SetupError: The process could not begin its work; nothing was changed.
    """
    told = [names.new().hex() for _ in range(_NAMES)]
    with ExitStack() as stack, named(order.path):
        asked, answer = (stack.enter_context(closing(os.memfd_create("nsbox-file"))) for _ in range(2))
        _write(asked, json.dumps({"order": asdict(order), "names": told}).encode())
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            fds = [root.fd, root.member, asked, answer, theirs.fileno(), *([content] if content >= 0 else [])]
            process = subprocess.Popen(
                [sys.executable, "-ISB", "-c", _START, Path(__file__).parent.parent, *map(str, fds)],
                pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
        try:
            _wait(ours, check)
        finally:
            ours.close()  # which it notices, and cleans up
            process.wait()
        return _answer(_read(answer), order)


def _wait(ours: socket.socket, check: Callable[[], object]) -> None:
    poll = select.poll()
    poll.register(ours, select.POLLIN)  # end of file when it has ended
    while not poll.poll(_LOOK_MS):
        check()


def _answer(said: bytes, order: Order) -> Answer:
    head, _, content = said.partition(b"\n")
    if not head:
        raise SetupError("file-agent", 3, "the process that was to do it has died", order.path)
    result = json.loads(head)
    if "path" in result:
        raise file_operation_error(result["path"], result["errno"], result["detail"])
    if "errno" in result:
        raise SetupError("file-agent", result["errno"], result["strerror"], order.path)
    return Answer(content=content, infos=tuple(map(_info, result["infos"])))


def _told(info: FileInfo) -> dict[str, object]:
    return {name: value.isoformat() if name in _TIMES else value for name, value in asdict(info).items()}


def _info(told: dict[str, Any]) -> FileInfo:
    return FileInfo(**(told | {name: datetime.fromisoformat(told[name]) for name in _TIMES}))


def _read(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


# ------------------------------------------------------------ in the process itself


class _CallerGone(Exception):  # noqa: N818 - it never leaves the process
    pass


def main() -> None:
    """Read an order, carry it out, answer."""
    root, member, asked, answer, caller, *content = map(int, sys.argv[2:])
    question = json.loads(_read(asked))
    order = Order(**question["order"])
    names = TemporaryNames(map(bytes.fromhex, question["names"]))
    read = partial(os.read, content[0]) if content else _nothing
    result: dict[str, object]
    found = Answer()
    try:
        _join(member)
        with named(order.path):
            here = Root.duplicate(root, order.quota)
        found = carry_out(order, here, read, partial(_look_for, socket.socket(fileno=caller)), names)
        result = {"infos": [_told(info) for info in found.infos]}
    except FileOperationError as exc:
        result = {"path": exc.path, "errno": exc.errno, "detail": exc.detail}
    except OSError as exc:
        result = {"errno": exc.errno, "strerror": exc.strerror or ""}
    except _CallerGone:
        return
    _write(answer, json.dumps(result).encode() + b"\n")
    _write(answer, found.content)


def _join(member: int) -> None:
    """Enter the user namespace of a process; this user is root in it, and has every capability there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(ctypes.c_int(member), ctypes.c_int(_CLONE_NEWUSER)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _look_for(caller: socket.socket) -> None:
    if select.select([caller], [], [], 0)[0]:
        raise _CallerGone


def _nothing(_: int) -> bytes:
    return b""
