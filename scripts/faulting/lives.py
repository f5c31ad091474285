"""One life of a sandbox."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from tracing import traced
from watching import parts_of_nsbox

import nsbox
from nsbox import ResourceAllocation, SandboxError
from nsbox._blocking import shutdown

HANG_SECONDS = 20.0
"""A life takes some milliseconds, under strace some hundred, on a busy machine a few times that."""
PROBE = Path(__file__).with_name("probe.c")
_CALL = re.compile(r"^(?:\d+\s+)?([a-z0-9_]+)\(")
_sizes = itertools.count(32)


def build_probe(directory: Path) -> Path:
    """The program that is run, below `directory`."""
    program = directory / "probe"
    subprocess.run(["cc", "-O2", "-static", "-o", program, PROBE], check=True)
    return program


def live(directory: Path) -> str:
    """A fresh sandbox of a kind that was never there before, one program, and its end.

    Returns:
        "VERDICT OUTPUT", or the name of the error. All else is raised.
    """
    # a size of its own: no template and no sandbox made ahead is there for it, so each step is taken now
    resources = ResourceAllocation(disk=nsbox.DiskAllocation(quota_mb=next(_sizes)))
    mount = nsbox.Mount(source=directory, target="/probe")
    try:
        with nsbox.Sandbox(mounts=[mount], resources=resources, timeout=10, recovery=NO_RECOVERY) as sandbox:
            result = sandbox.run(["/probe/probe"])
            return f"{result.verdict} {result.exit_code} {result.signal} {result.stdout.strip()}"
    except SandboxError as exc:
        return type(exc).__name__


NO_RECOVERY = nsbox.RecoveryPolicy(auto_recover=False)


def live_in_time(directory: Path) -> str:
    """`live`, or "hang" where it does not end: then the supervisor is stopped."""
    answers: list[str] = []

    def work() -> None:
        try:
            answers.append(live(directory))
        except Exception as exc:  # noqa: BLE001  # what is no SandboxError is what we look for
            answers.append(f"raised {type(exc).__name__}: {exc}")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(HANG_SECONDS)
    if worker.is_alive():
        for pid in parts_of_nsbox()[:1]:
            os.kill(pid, signal.SIGKILL)
        worker.join(HANG_SECONDS)
        return "hang"
    return answers[0]


def calls_of_a_life(directory: Path) -> dict[str, int]:
    """The system calls between the order for a sandbox and its end: the most that one process makes of each.

    Those of the program itself, after its exec, are left out.
    """
    live(directory)
    logs = directory / "calls"
    logs.mkdir()
    with traced(parts_of_nsbox()[0], "-ff", output=str(logs / "trace")):
        live(directory)
        time.sleep(0.3)  # what is done after the answer
    most: dict[str, int] = {}
    for log in logs.iterdir():
        found: Counter[str] = Counter()
        for line in log.read_text(errors="replace").splitlines():
            match = _CALL.match(line)
            if match is None:
                continue
            found[match[1]] += 1
            if match[1] in ("execve", "execveat") and line.endswith("= 0"):
                break
        for name, count in found.items():
            most[name] = max(most.get(name, 0), count)
    return most


def stop() -> None:
    """Stop the supervisor that this process shares."""
    shutdown()
