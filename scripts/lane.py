"""Run one lane's command, bounded in time: `lane.py LOG SECONDS COMMAND...`; its exit status is ours, 124 when late.

stdout and stderr are passed on and appended to LOG. The lane is over when its command is: what it leaves running is
killed and named, makes the lane fail, and cannot keep us waiting by holding the output open.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>: orphans of the lane become our children
TIMED_OUT = 124
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def pass_on(reader: int, log: BinaryIO) -> bool:
    """Copy what is there to stdout and to the log; False at the end of the output."""
    data = os.read(reader, 1 << 16)
    for stream in (sys.stdout.buffer, log):
        stream.write(data)
        stream.flush()
    return bool(data)


def children() -> list[int]:
    """Our living and dead children."""
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Give a command that has not ended time to clean up: `scripts/rootless` and `scripts/uml` do."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)  # the group: a shell traps it after its foreground command has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)


def kill_children() -> list[str]:
    """Kill and reap all that is below us, layer by layer; the command lines of what was alive."""
    killed = []
    while True:
        for child in children():
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                killed.append(command or f"process {child}, in the middle of its exec")
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return killed


def run(process: subprocess.Popen[bytes], reader: int, deadline: float, log: BinaryIO) -> int:
    """Pass the output on until the command ends or is late."""
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(process.pid)
        selector.register(ended, selectors.EVENT_READ)
        selector.register(reader, selectors.EVENT_READ)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = [key.fd for key, _ in selector.select(remaining)]
            if reader in ready:
                if not pass_on(reader, log):
                    selector.unregister(reader)
            elif ended in ready:
                return process.wait()
    return TIMED_OUT


def stop(number: int, _frame: FrameType | None) -> None:
    """Leave by way of every `finally`; a second signal does not cut the cleaning up short."""
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Run the lane of the command line."""
    path, seconds, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in SIGNALS:
        signal.signal(number, stop)
    reader, writer = os.pipe()
    left: list[str] = []
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True)
    try:
        os.close(writer)
        with Path(path).open("ab") as log:
            status = run(process, reader, time.monotonic() + float(seconds), log)
    finally:
        ask_to_end(process)
        left += kill_children()
    for command_line in left:
        print(f"lane: was left running, and killed: {command_line}", flush=True)
    return (128 - status if status < 0 else status) or bool(left)


if __name__ == "__main__":
    sys.exit(main())
