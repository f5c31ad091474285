"""Kill one part of nsbox at a random moment of its use, again and again, and look at what comes of it and what is left.

The application: it leaves nothing behind, within a second but for directories that the next start removes. The
launcher, a PID 1, a warm interpreter or what it has parked: each use ends as it does otherwise or with an error that
nsbox names, and afterwards everything works in the same process. Else the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import leaks
import trio
from watching import LAUNCHER, command_line, parts_of_nsbox

import nsbox
from nsbox import AsyncSandbox, SandboxError
from scripts.soaking import uses

VICTIMS = ("application", "launcher", "PID 1", "interpreter", "any")
SECONDS = 20.0
"""A round takes a tenth of one."""
_USES = (
    uses.calculates, uses.calculates, uses.calculates, uses.runs_a_command, uses.fails, uses.daemonises,
    uses.uses_files, uses.streams, uses.talks, uses.changes_the_environment, uses.takes_too_long,
)  # fmt: skip
_LONGEST_WAIT = 0.25
_SURVIVE_SECONDS = 1.0


async def _work(seed: int, ready: int) -> None:
    """Use three sandboxes at the same time, as long as the victim may be killed, and a fourth one when it has been."""
    chance = random.Random(seed)  # noqa: S311  # choices of what to do, no secret
    os.write(ready, b"r")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_use, random.Random(chance.random()))  # noqa: S311
    os.write(ready, b"e")
    try:
        await _check_all_is_well(chance)
    except SandboxError:  # the kill came as late as that
        await _check_all_is_well(chance)


async def _check_all_is_well(chance: random.Random) -> None:
    async with AsyncSandbox(memory_mb=64) as sandbox:
        for _ in range(3):
            await uses.calculates(sandbox, chance)


async def _use(chance: random.Random) -> None:
    with contextlib.suppress(SandboxError):
        async with AsyncSandbox(memory_mb=64, recovery=nsbox.RecoveryPolicy(auto_recover=chance.random() < 0.5)) as one:
            for _ in range(6):
                try:
                    await chance.choice(_USES)(one, chance)
                except (SandboxError, trio.BrokenResourceError):  # the other end of a pipe
                    pass
                except uses.WrongOutcomeError as exc:
                    # what was killed was on its way to be the program, or cat
                    if not any(text in str(exc) for text in ("SIGNALED, signal=SIGKILL", "cat does not answer")):
                        raise


def _be_application(seed: int, ready: int) -> None:
    """In a child; its status tells how it went."""
    status = 0
    try:
        signal.alarm(int(SECONDS))
        trio.run(_work, seed, ready)
    except BaseException:  # noqa: BLE001  # told, and nothing of the parent's may run here
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def _find(victim: str, application: int, chance: random.Random) -> int | None:
    """A process of that kind that there is now."""
    if victim == "application":
        return application
    parts = parts_of_nsbox()
    if not parts:
        return None
    if victim == "launcher":
        return parts[0]
    if victim == "PID 1":
        parts = [pid for pid in parts[1:] if _is_first_in_namespace(pid)]
    elif victim == "interpreter":
        parts = [pid for pid in parts if command_line(pid) == f"{LAUNCHER} interpreter"]
    return chance.choice(parts) if parts else None


def _is_first_in_namespace(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"


def try_one(victim: str, seed: int) -> tuple[str, list[str]]:
    """A round.

    Returns:
        What was killed and when, and what is wrong with what came of it.
    """
    chance = random.Random(seed)  # noqa: S311
    before = leaks.snapshot()
    ready, theirs = os.pipe()
    application = os.fork()
    if application == 0:
        os.close(ready)
        _be_application(seed, theirs)
    os.close(theirs)
    try:
        os.read(ready, 1)
        delay = chance.uniform(0, _LONGEST_WAIT)
        time.sleep(delay)
        while (pid := _find(victim, application, chance)) is None and not select.select([ready], [], [], 0.001)[0]:
            pass
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        what = f"{victim} after {delay * 1000:.0f} ms, seed {seed}"
        ended, _, _ = select.select([ready], [], [], SECONDS)  # end of file, or told
        status = os.waitstatus_to_exitcode(os.waitpid(application, 0)[1])
    finally:
        os.close(ready)
    wrong = [] if ended else ["nothing was heard of it"]
    late = status == 0 and pid == application  # it had done all it had to
    if status != (-signal.SIGKILL if pid == application else 0) and not late:
        wrong.append(f"the application ended with {status}")
    if victim == "application":
        wrong += [f"survived: {one}" for one in leaks.settled(before, _SURVIVE_SECONDS) if one.startswith("process")]
        wrong += _next_start()
    wrong += [f"left behind: {one}" for one in leaks.settled(before)]
    return f"{what}{'' if pid else ' (there was none)'}", wrong


def _next_start() -> list[str]:
    """What the next application says, which removes what a dead one has left."""
    pid = os.fork()
    if pid == 0:
        reader, writer = os.pipe()
        del reader
        _be_application(0, writer)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [] if status == 0 else [f"the next application ended with {status}"]


def main() -> int:
    """Try as many as were asked for."""
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="kills, of one kind after the other (300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="tell each")
    arguments = parser.parse_args()
    bad, hit, started = 0, Counter[str](), time.monotonic()
    for number in range(arguments.rounds):
        victim = VICTIMS[number % len(VICTIMS)]
        what, wrong = try_one(victim, arguments.seed + number)
        bad += bool(wrong)
        hit[victim] += not what.endswith("(there was none)")
        if wrong or arguments.verbose:
            print(f"{what}: {'; '.join(wrong) or 'fine'}", flush=True)
    print(f"{arguments.rounds} kills in {time.monotonic() - started:.0f} s, {bad} with a wrong outcome: {dict(hit)}")
    return 1 if bad or not hit else 0


if __name__ == "__main__":
    sys.exit(main())
