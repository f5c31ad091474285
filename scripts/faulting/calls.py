"""Which system calls programs in each language make, and which of those that `strict` allows none of them needs.

Each program of tests/programs/smoke runs in a sandbox with `strict`, and strace beside the launcher; one that does not
come to its end is an error.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tracing import traced
from watching import parts_of_nsbox

import nsbox
from nsbox._runtimes import language_of_file
from nsbox._seccomp.policy import load_policy

PROGRAMS = Path(__file__).resolve().parents[2] / "tests" / "programs" / "smoke"
_CALL = re.compile(r"^([a-z0-9_]+)\(")
_EXEC = re.compile(r"^execve(at)?\(.* = 0$")


def calls_of(program: Path, log: Path) -> set[str]:
    """Those that it and its children make, the compiler's not among them.

    Raises:
        RuntimeError: It has not come to its end.
    """
    language = language_of_file(program.name)
    text = program.read_text(encoding="utf-8")
    with nsbox.Sandbox(security="strict", timeout=60, memory_mb=1024, warm=False) as sandbox:
        for _ in range(2):  # it is compiled by the first one
            with traced(parts_of_nsbox()[0], "-ff", output=str(log / program.name)):
                result = sandbox.execute(text, language=language, stdin="line\n", arguments=("a", "b"))
            logs = list(log.iterdir())
            found = {call for one in logs for call in _calls_in(one)}
            for one in logs:
                one.unlink()
    if result.stdout != "line a b\ndone\n":
        raise RuntimeError(f"{program.name}: {result!r} {result.stderr}")
    return found


def _calls_in(log: Path) -> set[str]:
    """All of a process that comes from an exec inside of the sandbox; nsbox's own are before that."""
    found: set[str] = set()
    lines = log.read_text(errors="replace").splitlines()
    begun = not any(_EXEC.match(line) for line in lines)
    if begun and any("setns(" in line or "epoll_wait(3, [{events" in line or "pivot_root" in line for line in lines):
        return found  # the launcher, a PID 1, or what is parked
    for line in lines:
        match = _CALL.match(line)
        if match is not None and begun:
            found.add(match[1])
        begun = begun or _EXEC.match(line) is not None
    return found


def main() -> int:
    """Run them all."""
    made: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory(prefix="calls-") as name, nsbox.Sandbox() as first:
        first.run(["true"])  # the launcher is there
        for program in sorted(PROGRAMS.iterdir()):
            made[program.name] = calls_of(program, Path(name))
    all_of_them = set().union(*made.values())
    policy = load_policy("strict")
    allowed = {call for call, rules in policy.rules.items() if any(rule.answer == "allow" for rule in rules)}
    for program_name, calls in made.items():
        others = set().union(*(more for other, more in made.items() if other != program_name))
        print(f"{program_name}: {len(calls)} calls, alone with {' '.join(sorted(calls - others)) or 'none'}")
    print(f"\n{len(all_of_them)} in all: {' '.join(sorted(all_of_them))}")
    print(f"\nmade, and refused by strict: {' '.join(sorted(all_of_them - allowed)) or 'none'}")
    unneeded = sorted(allowed - all_of_them)
    print(f"\nallowed by strict, and made by none ({len(unneeded)} of {len(allowed)}): {' '.join(unneeded)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
