"""PID 1 and its control channel against the programs of the sandbox."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from probing import policy
from watching import Bell, until

import nsbox
from nsbox import AsyncSandbox, SandboxStatus
from nsbox._supervisor.start import pid_of

SECONDS = 30.0
CAP_SYS_RESOURCE = 24
EATER = """
import glob, os, signal, time
held = bytearray(24 << 20)
open('/bell/ring', 'w').write('eats\\n')
children = []
for number in range(12):
    children.append(os.fork())
    if children[-1] == 0:
        while True:
            pass
end = time.monotonic() + 3
names = glob.glob('/usr/lib/*/*.so*')
while time.monotonic() < end:  # at the limit, where every page of a file takes the place of another
    names.append(names.pop(0))
    with open(names[0], 'rb') as file:
        while file.read(1 << 20) and time.monotonic() < end:
            pass
for child in children:
    os.kill(child, signal.SIGKILL)
"""
GREEDY = "held = []\nwhile True: held.append(bytearray(1 << 20))"
ORPHANS = """
import os, time
open('/bell/ring', 'w').write('forks\\n')
end = time.monotonic() + 3
while time.monotonic() < end:
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)  # its child is PID 1's now
    os.wait()
"""
REACH = """
import os, socket
found = []
for pid in (1, *range(2, 40)):
    for name in (f'/proc/{pid}/fd/3', f'/proc/{pid}/fd/4', f'/proc/{pid}/fd'):
        try:
            os.listdir(name) if name.endswith('fd') else os.open(name, os.O_RDWR)
        except OSError:
            continue
        if pid != os.getpid():
            found.append(name)
try:
    os.kill(1, 9); os.kill(1, 19); found.append('sent')
except PermissionError:
    pass
print(found, [line for line in open('/proc/net/unix')][1:])
"""


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


async def pings_while(bell: Bell, *programs: str, **fields: object) -> tuple[list[str], int, list[nsbox.Verdict]]:
    """What the heartbeat tells while programs run, how many pings were answered then, and what came of each."""
    sandbox = AsyncSandbox(mounts=[bell.mount], heartbeat_interval=0.05, timeout=SECONDS, **fields)
    told: list[str] = []
    verdicts: list[nsbox.Verdict] = []
    answered = 0
    async with sandbox, trio.open_nursery() as nursery:
        for kind in (nsbox.HeartbeatFailed, nsbox.Disconnected):
            sandbox._core.emitter.subscribe(kind, lambda event: told.append(event.name))
        control = sandbox._core.living()[1].control

        async def run() -> None:
            for program in programs:
                result = await sandbox.execute(program)
                verdicts.append(result.verdict)
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        await trio.to_thread.run_sync(bell.wait)
        while True:
            await control.ping(SECONDS)
            answered += 1
            await trio.sleep(0.02)
    told.remove("disconnected")  # the one of the end
    return told, answered, verdicts


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_program_that_eats_all_of_its_sandbox_does_not_starve_pid_1(bell: Bell) -> None:
    """P01: a fifth of a CPU for 13 busy processes, memory kept at its limit, and used up twice: every ping is
    answered, nothing is alarmed, and the kernel never chooses PID 1, though in version 2 it lives below the same limit.
    """
    told, answered, verdicts = trio.run(
        partial(pings_while, bell, EATER, *[GREEDY] * 2, cpus=0.2, memory_mb=48, processes=32)
    )
    assert told == []
    assert answered > 5
    assert verdicts == [nsbox.Verdict.OK, *[nsbox.Verdict.MEMORY_LIMIT] * 2]


@pytest.mark.lane_unified
def test_a_program_that_only_makes_orphans_does_not_keep_pid_1_busy(bell: Bell) -> None:
    """P02: thousands of children to reap, and pings are answered in between; no zombie is left of them."""
    told, answered, verdicts = trio.run(partial(pings_while, bell, ORPHANS, cpus=2))
    assert (told, verdicts) == ([], [nsbox.Verdict.OK])
    assert answered > 5


@pytest.mark.needs_root
def test_a_program_reaches_neither_pid_1_nor_its_channel() -> None:
    """P03: not by /proc, not by a signal, not by a name; the control is a signal from outside, which does end it."""
    with nsbox.Sandbox(recovery=nsbox.RecoveryPolicy(auto_recover=False)) as sandbox:
        assert sandbox.execute(REACH).stdout == "[] []\n"
        init = pid_of(sandbox._core.living()[1].pidfd)
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{init}/status").read_text()
        held = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
        may = int(held, 16) >> CAP_SYS_RESOURCE & 1
        assert Path(f"/proc/{init}/oom_score_adj").read_text() == ("-1000\n" if may else "0\n")
        assert sandbox.shell("cat /proc/self/oom_score_adj").stdout == "500\n"
        os.kill(init, signal.SIGKILL)
        until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")


LIMIT = """
import os, resource
try:
    resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))
except OSError as exc:
    print(exc.errno)
for _ in range({}):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)  # PID 1 has to use some CPU time, for the limit to be looked at
        os._exit(0)
    os.wait()
"""


@pytest.mark.needs_rootless
@pytest.mark.needs_delegation
def test_a_program_that_has_the_uid_of_pid_1_cannot_end_it(tmp_path: Path) -> None:
    """P03: limits of another process are EPERM by the filter. With its rule taken away a CPU limit of 0 has the kernel
    kill PID 1, and the caller gets an error instead of a verdict.
    """
    with nsbox.Sandbox(timeout=SECONDS) as sandbox:
        result = sandbox.execute(LIMIT.format(300))
        assert (result.verdict, result.stdout) == (nsbox.Verdict.OK, "1\n")
        assert sandbox.status is SandboxStatus.IDLE
    recovery = nsbox.RecoveryPolicy(auto_recover=False)
    with nsbox.Sandbox(timeout=SECONDS, security=policy(tmp_path, "prlimit64"), recovery=recovery) as sandbox:
        with pytest.raises(nsbox.NetworkError, match="PID 1 has died"):
            sandbox.execute(LIMIT.format(1_000_000))
        until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")
