"""Deaths from outside: of the application, of the launcher, of a sandbox's PID 1."""

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from leaks import left_behind, snapshot
from needs import mounts
from watching import Bell, parts_of_nsbox, programs, until

import nsbox
from nsbox import SandboxStatus
from nsbox._blocking import shutdown

STAYS = nsbox.RecoveryPolicy(auto_recover=False)
"""What is lost stays lost, for a test to look at; tests/integration/test_recovery.py has the rest."""

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


@pytest.fixture(name="pool")
def _pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


def alive(pid: int) -> bool:
    """Whether it runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_reaped(pids: list[int]) -> bool:
    """Whether the launcher knows that they have ended: else it may still take one for a sandbox that is ready."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def pid_namespace(pid: int) -> str:
    """Which one a process is in; "" for one that has ended (namespaces(7))."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def bases() -> list[str]:
    """Every directory named nsbox-* of every cgroup hierarchy."""
    points = [Path(point) for point, kind, _ in mounts() if kind.startswith("cgroup")]
    return [directory for point in points for directory, _, _ in os.walk(point) if "nsbox-" in directory]


APPLICATION = """
import json, os, sys, threading, nsbox
from pathlib import Path
from watching import parts_of_nsbox, programs
mount = nsbox.Mount(source=Path(sys.argv[1]), target='/bell', read_only=False)
sandboxes = [nsbox.Sandbox.create(mounts=[mount], timeout=30) for _ in range(2)]
command = "trap '' TERM HUP; setsid sleep 60 & setsid sh -c 'kill -STOP $$' & echo > /bell/ring; sleep 60"
for sandbox in sandboxes:
    threading.Thread(target=sandbox.shell, args=(command,), daemon=True).start()
if sys.argv[2] == 'suspended':
    open(sys.argv[1] + '/go').readline()
    sandboxes[0].suspend()
sys.stdin.readline()
print(json.dumps([*parts_of_nsbox(), *programs()]), flush=True)
sys.stdin.readline()
"""


@pytest.mark.lane_unified
@pytest.mark.parametrize("how", ["running", "suspended"])
def test_nothing_survives_the_application_s_sigkill(bell: Bell, tmp_path: Path, how: str) -> None:
    """Launcher, sandboxes, programs, stopped and frozen ones too, are dead within a second; cgroups gone (L02)."""
    path = os.pathsep.join(sys.path)
    before = snapshot()
    application = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(tmp_path), how], env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert application.stdin is not None
    assert application.stdout is not None
    with application:
        bell.wait()
        bell.go()
        application.stdin.write("\n")
        application.stdin.flush()
        pids = json.loads(application.stdout.readline())
        assert len(pids) >= 7
        assert all(alive(pid) for pid in pids)
        application.kill()
        application.wait()
        until(lambda: not [pid for pid in pids if alive(pid)], "all processes are dead", seconds=1)
    # what the launcher did not remove on its way out, the next start does
    nsbox.execute("print(1)")
    shutdown()
    left = [line for line in left_behind(before, snapshot()) if not line.startswith("cgroup")]
    assert left == []
    assert [base for base in bases() if f"nsbox-{application.pid}-" in base] == []


@pytest.mark.lane_unified
def test_the_launcher_s_death_is_told_and_the_next_use_starts_another(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """NetworkError for what was running, sandboxes in ERROR, programs dead; terminate works, new sandboxes too."""
    first, second = (nsbox.Sandbox.create(mounts=mounted, timeout=20, recovery=STAYS) for mounted in ([bell.mount], []))
    running = pool.submit(first.shell, "setsid sleep 60 & echo > /bell/ring; sleep 60")
    bell.wait()
    launcher = parts_of_nsbox()[0]
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(nsbox.NetworkError, match="launcher"):
        running.result(20)
    until(lambda: not programs(), "the programs are dead", seconds=2)
    for sandbox in (first, second):
        until(lambda sandbox=sandbox: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")  # type: ignore[misc]
        with pytest.raises(nsbox.InvalidStateError, match="error"):
            sandbox.shell("true")
        sandbox.terminate()
        assert sandbox.status is SandboxStatus.TERMINATED
    with nsbox.Sandbox() as third:
        assert third.shell("echo usable").stdout == "usable\n"
        assert launcher not in parts_of_nsbox()


def test_a_sandbox_in_error_is_as_new_after_reset() -> None:
    """Same id, usable again, also when the launcher itself had died."""
    with nsbox.Sandbox(timeout=20, recovery=STAYS) as sandbox:
        before = sandbox.id
        for _ in range(2):
            sandbox.shell("touch kept")
            os.kill(parts_of_nsbox()[0], signal.SIGKILL)
            until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")
            sandbox.reset()
            assert (sandbox.status, sandbox.id) == (SandboxStatus.RUNNING, before)
            assert sandbox.shell("ls").stdout == ""


def init_of(program: int) -> int:
    """The PID 1 of the pid namespace that a program is in."""
    namespace = os.readlink(f"/proc/{program}/ns/pid")
    for pid in parts_of_nsbox():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        inner = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
        if inner[-1] == "1" and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
            return pid
    raise AssertionError(f"no PID 1 for {program}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_death_of_pid_1_is_the_sandbox_s(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor, number: signal.Signals
) -> None:
    """NetworkError for what was running, ERROR, terminate works, others live on. A stopped one does no harm."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20, recovery=STAYS) as sandbox, nsbox.Sandbox() as other:
        command = "setsid sleep 60 & echo > /bell/ring; read line < /bell/go"
        running = pool.submit(sandbox.shell, command)
        bell.wait()
        os.kill(init_of(min(programs())), number)
        if number == signal.SIGSTOP:
            bell.go()
            assert running.result(20).ok
            assert sandbox.shell("echo usable").stdout == "usable\n"
        else:
            with pytest.raises(nsbox.NetworkError, match="PID 1"):
                running.result(20)
            until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")
            with pytest.raises(nsbox.InvalidStateError, match="error"):
                sandbox.shell("true")
            sandbox.terminate()
            assert programs() == {}
        assert other.shell("echo usable").stdout == "usable\n"


def test_the_death_of_an_idle_sandbox_s_pid_1_is_noticed() -> None:
    """Without any execution to tell; and a suspended one goes the same way."""
    for suspended in (False, True):
        with nsbox.Sandbox(recovery=STAYS) as sandbox:
            before = set(parts_of_nsbox())
            assert sandbox.shell("sleep 0").ok
            if suspended:
                sandbox.suspend()
            for pid in sorted(before)[1:]:  # the sandbox's own PID 1, and spares
                with contextlib.suppress(ProcessLookupError):  # a process of one that was killed
                    os.kill(pid, signal.SIGKILL)
            until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")
            until(partial(all_reaped, sorted(before)[1:]), "the launcher knows of the spares, too")
            sandbox.reset()
            assert sandbox.shell("echo usable").stdout == "usable\n"


def test_sandboxes_made_ahead_that_die_before_they_are_wanted_are_nobody_s_loss(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The next sandbox is asked for while a program runs, and told of when that ends: by then it may be dead."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        for _ in range(3):
            running = pool.submit(sandbox.shell, "echo > /bell/ring; read line < /bell/go; echo done")
            bell.wait()
            own = {pid_namespace(pid) for pid in programs()}
            assert len(own) == 1
            others = [pid for pid in parts_of_nsbox()[1:] if pid_namespace(pid) not in own]
            assert others
            for pid in others:
                with contextlib.suppress(ProcessLookupError):  # a process of one that was killed
                    os.kill(pid, signal.SIGKILL)
            until(partial(all_reaped, others), "the launcher knows")
            bell.go()
            assert running.result(20).stdout == "done\n"
            for _ in range(4):
                with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as other:
                    assert other.shell("echo usable").stdout == "usable\n"


def test_signals_from_a_terminal_reach_neither_the_launcher_nor_a_program(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Ctrl-C goes to the foreground process group, a hang-up to the session: nothing of nsbox is in either (K05)."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        running = pool.submit(sandbox.shell, "echo > /bell/ring; read line < /bell/go; ps -o tty= $$")
        bell.wait()
        ours = {os.getsid(pid) for pid in (*parts_of_nsbox(), *programs())} & {os.getsid(0)}
        bell.go()
        assert running.result(20).stdout.strip() in ("?", "")
        assert ours == set()
