"""Run a function in a forked child: to change credentials, limits, cgroups or filters that would stay with the test."""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ChildFailedError(AssertionError):
    """The function raised, or the child died; the message is its traceback or its wait status."""


def in_child(function: Callable[[], T], *, uid: int | None = None, seconds: int = 30) -> T:
    """The result of `function`, called in a child of this process.

    Args:
        function: What it returns must be picklable.
        uid: Become this user and group before, without supplementary groups.
        seconds: After which SIGALRM ends the child.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            try:
                answer = pickle.dumps((True, function()))
            except BaseException:  # noqa: BLE001  # all of it is the parent's to see
                answer = pickle.dumps((False, traceback.format_exc()))
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        raise ChildFailedError(f"the child ended with {status} and said nothing")
    succeeded, value = pickle.loads(data)  # noqa: S301  # our own child's
    if not succeeded:
        raise ChildFailedError(value)
    result: T = value
    return result
