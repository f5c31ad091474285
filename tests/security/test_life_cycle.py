"""L: nothing outlives its execution, its sandbox or its supervisor, and nothing it does keeps the caller waiting."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from watching import Bell, command_line, programs, until

import nsbox
from nsbox import Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

DAEMON = """
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG: none
for _ in range(3):
    if os.fork():
        {parent}
    os.setsid()
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
open('/bell/ring', 'w').write('daemon\\n')
time.sleep(60)
"""


@pytest.mark.parametrize("parent", ["os._exit(0)", "time.sleep(60)"])
def test_daemons_do_not_survive(parent: str, tmp_path: Path) -> None:
    """L01: sessions of their own, orphaned, all signals ignored: gone when the execution has returned."""
    bell = Bell(tmp_path)
    results: list[nsbox.ExecutionResult] = []
    code = DAEMON.format(parent=parent)
    if "exit" in parent:  # the first stays until the last has rung
        first = "import os\nr, w = os.pipe()\nif os.fork():\n os.close(w)\n os.read(r, 1)\n os._exit(0)\n"
        code = first + code.replace("time.sleep(60)", "os.close(w)\ntime.sleep(60)")
    try:
        with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
            thread = threading.Thread(target=lambda: results.append(sandbox.execute(code, timeout=2)))
            thread.start()
            bell.wait()
            thread.join()
            assert programs() == {}
    finally:
        bell.close()
    assert results[0].verdict in {Verdict.OK, Verdict.WALL_TIME_LIMIT}


def test_nothing_survives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """L02: SIGKILL to the application ends launcher, PID 1 and programs, and their cgroups are removed."""
    bell = Bell(tmp_path)
    code = (
        "import nsbox, sys\n"
        "mount = nsbox.Mount(source=sys.argv[1], target='/bell', read_only=False)\n"
        "nsbox.Sandbox.create(mounts=[mount]).shell('echo >/bell/ring; sleep 60')\n"
    )
    try:
        with subprocess.Popen([sys.executable, "-c", code, tmp_path]) as application:
            bell.wait()
            theirs = [pid for pid, line in programs().items() if "sleep" in line or line == "/bin/sh"]
            assert theirs
            application.send_signal(signal.SIGKILL)
            application.wait()
        until(lambda: not any(command_line(pid) for pid in theirs), "the programs are dead")
        with nsbox.Sandbox() as sandbox:
            assert sandbox.shell("true").ok
    finally:
        bell.close()
    name = f"nsbox-{application.pid}-"
    until(
        lambda: not any(one.startswith(name) for _, names, _ in os.walk("/sys/fs/cgroup") for one in names),
        "its cgroups are removed",
    )


@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nif os.fork() == 0: time.sleep(60)",
        "import socket\na, b = socket.socketpair()\nsocket.send_fds(a, [b'x'], [1, 2, b.fileno(), a.fileno()])",
        "import os\nif os.fork() == 0:\n while True: os.write(1, b'x')",
    ],
    ids=["grandchild", "in flight", "written"],
)
def test_a_held_output_does_not_keep_the_caller(code: str) -> None:
    """L03: held by a grandchild or a descriptor in flight, or written without end: the main process' end counts."""
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute(code, timeout=20)
        assert (result.verdict, result.exit_code) == (Verdict.OK, 0)


def test_an_output_handed_to_another_execution_does_not_keep_the_caller(tmp_path: Path) -> None:
    """L03: a descriptor of stdout that a second program of the sandbox holds does not hold up the first one's end."""
    bell = Bell(tmp_path)
    holder = (
        "import socket, time\ns = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen()\n"
        "print('up', file=open('/bell/ring', 'w'), flush=True)\n"
        "held = socket.recv_fds(s.accept()[0], 9, 9)\ntime.sleep(60)"
    )
    giver = (
        "import socket\ns = socket.socket(socket.AF_UNIX); s.connect('/tmp/s')\n"
        "socket.send_fds(s, [b'x'], [1, 2]); print('given')"
    )
    try:
        with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
            thread = threading.Thread(target=lambda: sandbox.execute(holder))
            thread.start()
            bell.wait()
            result = sandbox.execute(giver, timeout=20)
            sandbox.terminate_execution(next(iter(sandbox.executions)))
            thread.join()
    finally:
        bell.close()
    assert (result.verdict, result.stdout) == (Verdict.OK, "given\n")


def test_input_that_nobody_reads_blocks_nothing() -> None:
    """L04: a megabyte of stdin that is never read, while a megabyte of output flows."""
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute("import sys; sys.stdout.write('y' * (1 << 20))", stdin=b"x" * (1 << 20))
    assert (result.verdict, len(result.stdout)) == (Verdict.OK, 1 << 20)


def test_a_chain_of_forks_does_not_outrun_the_kill() -> None:
    """L05: each process forks the next and ends; at the limit, and after it, none is left."""
    chain = "import os, time\nif os.fork(): time.sleep(60)\nos.setsid()\nwhile True:\n if os.fork(): os._exit(0)"
    with nsbox.Sandbox() as sandbox:
        assert sandbox.execute(chain, timeout=0.5).verdict is Verdict.WALL_TIME_LIMIT
        assert programs() == {}


SIGNALS = """
import os, signal
for number in range(1, 65):
    for pid in (1, 0x7FFF_FFF0):
        try: os.kill(pid, number)
        except OSError: pass
if os.fork() == 0:
    os.kill(-1, signal.SIGTERM)
    os._exit(3)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_signals_to_pid_1_and_to_everybody_leave_the_sandbox_usable() -> None:
    """L06: every signal to PID 1 is nothing to it; kill(-1) reaches the program's own; orphans are reaped."""
    orphans = "import os\nfor _ in range(40):\n if os.fork() == 0:\n  os.fork()\n  os._exit(0)\n os.wait()\n"
    with nsbox.Sandbox(processes=16) as sandbox:
        for user in (None, "root"):
            code = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + SIGNALS
            assert sandbox.execute(code, user=user).stdout == "3\n"
        assert sandbox.execute(orphans).ok
        assert sandbox.execute("print(1)").stdout == "1\n"


def test_the_program_is_not_pid_1() -> None:
    """L07: the default action of a signal that it sends itself is taken, which PID 1 would be spared."""
    with nsbox.Sandbox() as sandbox:
        for number in (signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL, signal.SIGXCPU):
            result = sandbox.shell(f"kill -{number.value} $$")
            assert (result.verdict, result.signal) == (Verdict.SIGNALED, number)


def test_a_suspended_sandbox_stands_still_and_can_be_ended(tmp_path: Path) -> None:
    """L08: no CPU time is used between suspend and resume; ending a suspended one needs no resume."""
    bell = Bell(tmp_path)
    results: list[nsbox.ExecutionResult] = []
    code = "print('up', file=open('/bell/ring', 'w'), flush=True)\nwhile True: pass"
    try:
        with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
            thread = threading.Thread(target=lambda: results.append(sandbox.execute(code)))
            thread.start()
            bell.wait()
            sandbox.suspend()
            pid = next(pid for pid, line in programs().items() if "main.py" in line)
            before = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
            subprocess.run(
                [sys.executable, "-c", "for _ in range(3_000_000): pass"], check=True
            )  # it could run meanwhile
            assert Path(f"/proc/{pid}/stat").read_text().split()[13:15] == before
        thread.join()
    finally:
        bell.close()
    assert results[0].verdict is Verdict.CANCELLED


async def test_a_cancelled_caller_leaves_nothing(tmp_path: Path) -> None:
    """L09: the scope around start, execute and terminate cancelled at many moments: no process is left."""
    for steps in range(0, 40, 2):
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                async with nsbox.AsyncSandbox() as sandbox:
                    await sandbox.shell("sleep 60 & sleep 60")

            nursery.start_soon(use)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            if steps > 30:
                with trio.move_on_after(0.1):
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        assert programs() == {}
    assert os.listdir(tmp_path) == []
