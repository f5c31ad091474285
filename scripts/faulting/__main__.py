"""Make each system call between the order for a sandbox and its end fail, one occurrence at a time, with strace.

What must come of each: the program ran as it does otherwise, or an error that nsbox names; never a program that ran
with less around it, never a wait without end, nothing left behind, and the next sandbox works. Else the status is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import leaks
from tracing import traced
from watching import parts_of_nsbox

from scripts.faulting.lives import build_probe, calls_of_a_life, live, live_in_time, stop

ERRORS = ("ENOMEM", "EPERM", "EMFILE", "EAGAIN", "ENOSPC", "EINTR", "SIGKILL")
ERRORS_OF_NSBOX = ("SetupError", "NetworkError", "UnsupportedHostError", "InvalidStateError")
"""The last: the sandbox was in ERROR already when its program was to run."""
NEVER_FAIL = frozenset({"exit_group", "exit", "rt_sigreturn", "restart_syscall"})
MOST_OF_ONE = 12
"""A call that a process makes more often is made to fail so often: later ones are of a loop."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One call that is made to fail.

    Attributes:
        call: Its name.
        occurrence: Which one in a process, from 1.
        error: errno, or SIGKILL: the process dies there.
    """

    call: str
    occurrence: int
    error: str

    def __str__(self) -> str:
        """As strace has it."""
        what = "signal=KILL" if self.error == "SIGKILL" else f"error={self.error}"
        return f"inject={self.call}:{what}:when={self.occurrence}"


def faults(calls: dict[str, int], errors: tuple[str, ...]) -> list[Fault]:
    """All of them, in an order in which every n-th is a fair sample."""
    return [
        Fault(call, occurrence, error)
        for call in sorted(calls)
        if call not in NEVER_FAIL
        for occurrence in range(1, min(calls[call], MOST_OF_ONE) + 1)
        for error in errors
    ]


def allowed(fault: Fault, answer: str, whole: str) -> bool:
    """Whether this may come of it."""
    if answer == whole or answer in ERRORS_OF_NSBOX:
        return True
    if answer in ("ProgramStartError", "ProgramNotFoundError", "ProgramNotExecutableError"):
        return fault.call in ("execve", "execveat", "chdir", "fchdir", "openat", "openat2", "access", "faccessat2")
    return fault.error == "SIGKILL" and answer.startswith("signaled None ")  # it met the program


def try_one(fault: Fault, directory: Path, whole: str) -> list[str]:
    """What is wrong with what comes of a fault."""
    before = leaks.snapshot()
    live(directory)  # there is a launcher
    only = ("-ff", "-e", f"trace={fault.call}", "-e", str(fault))
    with traced(parts_of_nsbox()[0], *only, output=str(directory / "log")):
        answer = live_in_time(directory)
    wrong = [] if allowed(fault, answer, whole) else [f"came to {answer!r}"]
    afterwards = live_in_time(directory)
    if afterwards in ("NetworkError", "SetupError"):  # it met what was made ahead, or the launcher dies of it only now
        afterwards = live_in_time(directory)
    if afterwards != whole:
        wrong.append(f"the next one came to {afterwards!r}")
    stop()
    for log in directory.glob("log*"):
        log.unlink()
    wrong += [f"left behind: {one}" for one in leaks.settled(before)]
    OUTCOMES[answer.split(" ")[0]] += 1
    return wrong


OUTCOMES: Counter[str] = Counter()


def main() -> int:
    """Try what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th (1)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this one (0)")
    parser.add_argument("--errors", nargs="+", choices=ERRORS, default=ERRORS, help="of these (all)")
    parser.add_argument("--verbose", action="store_true", help="tell each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        build_probe(directory)
        whole = live(directory)
        if not whole.startswith("ok 0 None uid="):
            print(f"faults: without any fault it comes to {whole!r}", file=sys.stderr)
            return 2
        calls = calls_of_a_life(directory)
        stop()
        chosen = faults(calls, tuple(arguments.errors))[arguments.first :: arguments.every]
        print(f"{len(chosen)} faults in {len(calls)} calls; without any: {whole}", flush=True)
        bad, started = 0, time.monotonic()
        for fault in chosen:
            wrong = try_one(fault, directory, whole)
            bad += bool(wrong)
            if wrong or arguments.verbose:
                print(f"{fault}: {'; '.join(wrong) or 'fine'}", flush=True)
        took = time.monotonic() - started
    print(f"{len(chosen)} faults in {took:.0f} s, {bad} with a wrong outcome: {dict(OUTCOMES.most_common())}")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
