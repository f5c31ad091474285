"""strace(1) beside a process that runs: what it calls is logged, or fails."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from watching import until


@contextmanager
def traced(pid: int, *arguments: str, output: str = "/dev/null") -> Iterator[None]:
    """No system call that the process begins meanwhile is missed.

    To wait for TracerPid in proc(5) is not enough: a process that is seized runs on until it has been interrupted,
    which strace has done when it says "attached" (ptrace(2), PTRACE_SEIZE and PTRACE_INTERRUPT).

    Args:
        pid: The process; only its first thread, unless the arguments say otherwise.
        arguments: What is traced, and what is injected.
        output: The log, or the beginning of its names.
    """
    command = ["strace", "-o", output, *arguments, "-p", str(pid)]
    with (
        tempfile.NamedTemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said) as strace,
    ):

        def attached() -> bool:
            text = Path(said.name).read_text()
            assert strace.poll() is None, text
            return f"Process {pid} attached" in text

        try:
            until(attached, "strace is attached")
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            try:
                strace.wait(10)
            except subprocess.TimeoutExpired:  # it and the kernel wait for each other over a dying pid namespace
                strace.kill()
                strace.wait()
                with suppress(ChildProcessError):  # only it was told of the death of this child
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


@contextmanager
def failing(pid: int, call: str, fault: str, *, output: str = "/dev/null") -> Iterator[None]:
    """The process meanwhile meets the fault at that system call, in the words of strace's `inject`."""
    with traced(pid, "-e", f"trace={call}", "-e", f"inject={call}:{fault}", output=output):
        yield
