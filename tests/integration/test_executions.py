"""Programs and their verdicts, each by a real program; and programs that try to get another one."""

import concurrent.futures
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from watching import Bell, programs

import nsbox
from nsbox import Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

MOUNT = "import ctypes; ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)"
FORKS = """
import os, sys, time
held = []
try:
    while True:
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
        held.append(pid)
except BlockingIOError:
    print(len(held), flush=True)
    sys.exit({code})
"""
FILL = """
import sys
with open('/tmp/big', 'wb') as file:
    try:
        for _ in range(64):
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as exc:
        print(exc.errno, flush=True)
        sys.exit({code})
"""
IN_CHILD = """
import os, sys
pid = os.fork()
if pid == 0:
    {}
    os._exit(0)
os.waitpid(pid, 0)
print('main goes on', flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program and what has to come of it."""

    code: str = ""
    command: str = ""
    verdict: Verdict
    exit_code: int | None = None
    signal: int | None = None
    error: type[Exception] | None = nsbox.ExecutionError
    stdout: str | None = None
    evidence: dict[str, object] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, sandbox: nsbox.Sandbox) -> nsbox.ExecutionResult:
        if self.command:
            return sandbox.shell(self.command, **self.options)
        return sandbox.execute(self.code, **self.options)

    def check(self, result: nsbox.ExecutionResult) -> None:
        assert (result.verdict, result.exit_code, result.signal) == (self.verdict, self.exit_code, self.signal), (
            result, result.evidence, result.stderr
        )  # fmt: skip
        assert {name: result.evidence.get(name) for name in self.evidence} == self.evidence
        if self.stdout is not None:
            assert result.stdout == self.stdout
        if self.error is None:
            assert result.ok
            assert result.raise_for_verdict() is result
            return
        with pytest.raises(nsbox.ExecutionError) as raised:
            result.raise_for_verdict()
        assert type(raised.value) is self.error
        assert raised.value.result is result


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    config = nsbox.SandboxConfig(
        resources=nsbox.ResourceAllocation(
            memory=nsbox.MemoryAllocation(limit_mb=96),
            disk=nsbox.DiskAllocation(quota_mb=16),
            processes=nsbox.ProcessAllocation(max_processes=12, max_file_size_mb=12),
        ),
        enforcement=nsbox.EnforcementPolicy(max_execution_seconds=10, max_output_mb=0.25),
    )
    with nsbox.Sandbox(config) as sandbox:
        yield sandbox
        assert programs() == {}


def crash(number: int) -> Case:
    """A program that sends itself a signal."""
    return Case(
        command=f"echo before; kill -{number} $$", verdict=Verdict.SIGNALED, signal=number, stdout="before\n",
        evidence={"cause": "signal", "signal_name": signal.Signals(number).name},
    )  # fmt: skip


SIMPLE = {
    "ok": Case(command="echo hello", verdict=Verdict.OK, exit_code=0, error=None, stdout="hello\n"),
    "python ok": Case(code="print('hello')", verdict=Verdict.OK, exit_code=0, error=None, stdout="hello\n"),
    "exit 3": Case(command="exit 3", verdict=Verdict.NONZERO_EXIT, exit_code=3),
    "exit 127 is no failed start": Case(command="exit 127", verdict=Verdict.NONZERO_EXIT, exit_code=127),
    "exit 137 is no kill": Case(command="exit 137", verdict=Verdict.NONZERO_EXIT, exit_code=137),
    "exception": Case(code="print('before'); 1 / 0", verdict=Verdict.NONZERO_EXIT, exit_code=1, stdout="before\n"),
    "own SIGKILL": crash(signal.SIGKILL),
    "own SIGXCPU is no CPU limit": crash(signal.SIGXCPU),
    "own SIGSYS is no violation": crash(signal.SIGSYS),
    "own SIGTERM": crash(signal.SIGTERM),
    "own SIGSEGV": crash(signal.SIGSEGV),
    "real segmentation fault": Case(
        code="import ctypes; ctypes.string_at(0)", verdict=Verdict.SIGNALED, signal=signal.SIGSEGV
    ),
    "real time signal": Case(
        code="import os; os.kill(os.getpid(), 40)",
        verdict=Verdict.SIGNALED,
        signal=40,
        evidence={"signal_name": "SIG40"},
    ),
}
LIMITS = {
    "wall": Case(
        command="echo before; exec sleep 30", options={"timeout": 0.5}, verdict=Verdict.WALL_TIME_LIMIT, signal=9,
        error=nsbox.ExecutionTimeoutError, stdout="before\n",
        evidence={"cause": "killed", "killed_for": "wall_time", "resource": "wall_time", "limit": 0.5},
    ),
    "wall, SIGTERM ignored": Case(
        command="trap '' TERM INT HUP; echo before; sleep 30", options={"timeout": 0.5},
        verdict=Verdict.WALL_TIME_LIMIT, signal=9, error=nsbox.ExecutionTimeoutError, stdout="before\n",
    ),
    "wall, stops itself": Case(
        command="echo before; kill -STOP $$; echo after", options={"timeout": 0.5}, verdict=Verdict.WALL_TIME_LIMIT,
        signal=9, error=nsbox.ExecutionTimeoutError, stdout="before\n",
    ),
    "wall, stdio closed": Case(
        command="echo before; exec <&- >&- 2>&-; sleep 30", options={"timeout": 0.5}, verdict=Verdict.WALL_TIME_LIMIT,
        signal=9, error=nsbox.ExecutionTimeoutError, stdout="before\n",
    ),
    "wall, main waits for a daemon": Case(
        code="import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\ntime.sleep(30)",
        options={"timeout": 0.2}, verdict=Verdict.WALL_TIME_LIMIT, signal=9, error=nsbox.ExecutionTimeoutError,
    ),
    "cpu": Case(
        code="print('before')\nwhile True: pass", options={"cpu_timeout": 2.0},  # a start alone can take half a second
        verdict=Verdict.CPU_TIME_LIMIT, signal=9, error=nsbox.ExecutionTimeoutError, stdout="before\n",
        evidence={"killed_for": "cpu_time", "resource": "cpu_time", "limit": 2.0},
    ),
    "cpu, SIGXCPU ignored, in children": Case(
        code="import os, signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nos.fork()\nos.fork()\nwhile True: pass",
        options={"cpu_timeout": 0.2}, verdict=Verdict.CPU_TIME_LIMIT, signal=9, error=nsbox.ExecutionTimeoutError,
    ),
    "cpu, fork chain": Case(
        code="import os, time\nif os.fork(): time.sleep(60)\nwhile True:\n  if os.fork(): os._exit(0)\n"
        "  for _ in range(200000): pass",
        options={"cpu_timeout": 0.2}, verdict=Verdict.CPU_TIME_LIMIT, signal=9, error=nsbox.ExecutionTimeoutError,
    ),
    "memory": Case(
        code="print('before'); x = bytearray(200 << 20); print('after')", verdict=Verdict.MEMORY_LIMIT, signal=9,
        error=nsbox.ResourceExceededError, stdout="before\n",
        evidence={"cause": "oom_kill", "resource": "memory", "limit": 96.0, "memory_source": "cgroup"},
    ),
    "output": Case(
        code="import os\nprint('before')\nwhile True: os.write(1, b'x' * 4096)", verdict=Verdict.OUTPUT_LIMIT, signal=9,
        error=nsbox.ResourceExceededError, evidence={"resource": "output", "limit": 0.25},
    ),
    "output, stderr only": Case(
        code="import os\nwhile True: os.write(2, b'x' * 4096)", verdict=Verdict.OUTPUT_LIMIT, signal=9,
        error=nsbox.ResourceExceededError, stdout="",
    ),
    "processes": Case(
        code=FORKS.format(code=1), verdict=Verdict.PROCESS_LIMIT, exit_code=1, error=nsbox.ResourceExceededError,
        stdout="11\n", evidence={"cause": "processes_refused", "usage": 12, "limit": 12},
    ),
    "processes refused, main goes on": Case(
        code=FORKS.format(code=0), verdict=Verdict.OK, exit_code=0, error=None, stdout="11\n",
    ),
    "disk": Case(
        code="open('/dev/shm/x', 'wb').write(bytes(8 << 20))\n" + FILL.format(code=1), verdict=Verdict.DISK_LIMIT,
        exit_code=1, error=nsbox.ResourceExceededError, stdout="28\n",
        evidence={"cause": "quota_full", "resource": "disk", "limit": 16.0, "unit": "MiB"},
    ),
    "disk full, main goes on": Case(
        code="open('/dev/shm/x', 'wb').write(bytes(8 << 20))\n" + FILL.format(code=0), verdict=Verdict.OK, exit_code=0,
        error=None, stdout="28\n", evidence={"quota_full": True},
    ),
    "file size": Case(
        command="exec dd if=/dev/zero of=/tmp/big bs=1M count=13", verdict=Verdict.DISK_LIMIT, signal=signal.SIGXFSZ,
        error=nsbox.ResourceExceededError, evidence={"cause": "file_size", "limit": 12.0},
    ),
    "filter": Case(
        code=f"print('before'); {MOUNT}; print('after')", verdict=Verdict.SECURITY_VIOLATION, signal=9,
        error=nsbox.SecurityViolationError, stdout="before\n", evidence={"cause": "killed", "syscall": "mount"},
    ),
    "filter, in a child whose parent goes on": Case(
        code=IN_CHILD.format(MOUNT) + "import time; time.sleep(20)", verdict=Verdict.SECURITY_VIOLATION, signal=9,
        error=nsbox.SecurityViolationError, evidence={"syscall": "mount"},
    ),
    "memory, in a child whose parent exits 0": Case(
        code=IN_CHILD.format("x = bytearray(200 << 20)"), verdict=Verdict.MEMORY_LIMIT,
        error=nsbox.ResourceExceededError, evidence={"cause": "oom_kill"},
    ),
}  # fmt: skip
IN_LANE = frozenset(
    {
        "exit 137 is no kill", "own SIGKILL", "wall", "cpu", "cpu, SIGXCPU ignored, in children", "memory", "output",
        "processes", "disk", "filter",
    }
)  # fmt: skip


def named(cases: dict[str, Case]) -> list[Any]:
    """The cases as parameters, those that run in the lane with its mark."""
    marks = {True: [pytest.mark.lane_unified], False: []}
    return [pytest.param(case, id=name, marks=marks[name in IN_LANE]) for name, case in cases.items()]


@pytest.mark.parametrize("case", named(SIMPLE))
def test_a_program_that_ends_by_itself_has_its_own_verdict(sandbox: nsbox.Sandbox, case: Case) -> None:
    """Exit codes and signals are the kernel's, and none is mistaken for a kill of nsbox's."""
    case.check(case.run(sandbox))
    assert sandbox.shell("echo usable").stdout == "usable\n"


@pytest.mark.parametrize("case", named(LIMITS))
def test_a_program_that_exceeds_a_limit_has_the_verdict_of_that_limit(sandbox: nsbox.Sandbox, case: Case) -> None:
    """What was printed before is kept, evidence says which limit, the whole tree is dead. The sandbox is usable; after
    an attack it is TERMINATED when the call returns.
    """
    result = case.run(sandbox)
    if case.verdict is Verdict.MEMORY_LIMIT and result.exit_code == 0:
        # On cgroup v1 the main process of a child killed for memory ends by itself before the rest is killed.
        case = Case(**{**vars(case), "exit_code": 0})
    elif case.verdict is Verdict.MEMORY_LIMIT and case.signal is None:
        case = Case(**{**vars(case), "signal": 9})
    case.check(result)
    assert programs() == {}
    if case.verdict is Verdict.SECURITY_VIOLATION:
        assert sandbox.status is nsbox.SandboxStatus.TERMINATED
        return
    sandbox.shell("rm -f /tmp/big /dev/shm/x")
    assert sandbox.shell("echo usable").stdout == "usable\n"


@pytest.mark.parametrize(
    "leave",
    [
        "sleep 60 & exit 0",
        "setsid sh -c 'sleep 60' & exit 0",
        "(setsid sleep 60 &) ; exit 0",
        pytest.param("setsid sh -c 'kill -STOP $$' & exit 0", marks=pytest.mark.lane_unified),
        "trap '' TERM HUP; sleep 60 & sleep 60 >/dev/null 2>&1 <&- & exit 0",
    ],
)
def test_a_daemon_that_holds_stdout_dies_with_its_main_process(sandbox: nsbox.Sandbox, leave: str) -> None:
    """The caller returns when the main process exits, with its exit code, and nothing survives (L01, L03)."""
    result = sandbox.shell(f"echo started; {leave}")
    assert (result.verdict, result.stdout) == (Verdict.OK, "started\n")
    assert programs() == {}


def test_a_double_fork_with_cleared_death_signal_leaves_nothing(sandbox: nsbox.Sandbox) -> None:
    """PR_SET_PDEATHSIG 0, a new session, two forks, all signals ignored: dead with the main process."""
    code = """
import ctypes, os, signal, time
reader, writer = os.pipe()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(1, 0)
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    os.write(writer, b'up')
    time.sleep(60)
os.read(reader, 2)
"""
    assert sandbox.execute(code).verdict is Verdict.OK
    assert programs() == {}


def test_threads_die_with_the_main_process(sandbox: nsbox.Sandbox) -> None:
    """A thread that ends the process by exit_group while others run is an ordinary exit."""
    code = """
import os, threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
threading.Thread(target=os._exit, args=(7,)).start()
time.sleep(60)
"""
    result = sandbox.execute(code)
    assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 7)
    assert result.metrics is not None
    assert result.metrics.process_count_peak == 7


def test_a_program_that_kills_all_it_can_reaches_its_own_processes_only(sandbox: nsbox.Sandbox) -> None:
    """kill(-1) reaches the program's own processes, and signals do not reach PID 1 (L06)."""
    result = sandbox.shell(
        "sleep 60 & for n in TERM KILL STOP SEGV; do kill -$n 1 && echo killed $n; done; "
        "kill -KILL -1; wait $!; exit $?"
    )
    assert (result.verdict, result.exit_code, result.stdout) == (Verdict.NONZERO_EXIT, 128 + 9, "")
    assert result.stderr.count("not permitted") == 4
    assert sandbox.shell("echo usable").stdout == "usable\n"


def test_a_forwarded_stdout_keeps_nothing_open(tmp_path: Path) -> None:
    """A program passes its stdout to another execution by a socket: its result is complete at its end all the same."""
    holder = """
import array, os, socket
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind('/tmp/socket'); server.listen(1)
print('up', file=open('/bell/ring', 'w'), flush=True)
connection, _ = server.accept()
fds = array.array('i', connection.recvmsg(1, socket.CMSG_SPACE(4))[1][0][2])
os.write(fds[0], b'from the other')
connection.send(b'.')
open('/bell/go').readline()
try:
    os.write(fds[0], b'late')
    print('written')
except BrokenPipeError:
    print('broken')
"""
    giver = """
import socket
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect('/tmp/socket')
print('mine,', end=' ', flush=True)
socket.send_fds(connection, [b'.'], [1])
connection.recv(1)
"""
    bell = Bell(tmp_path)
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(sandbox.execute, holder)
        assert bell.wait() == "up"
        given = sandbox.execute(giver)
        assert (given.verdict, given.stdout) == (Verdict.OK, "mine, from the other")
        bell.go()
        assert (held.result(20).verdict, held.result().stdout) == (Verdict.OK, "broken\n")
    bell.close()


def test_a_cancelled_execution_says_so(tmp_path: Path) -> None:
    """`terminate_execution` kills the whole tree, the result is CANCELLED with what was printed; others go on."""
    bell = Bell(tmp_path)
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(sandbox.shell, "trap '' TERM; echo one; sleep 60 & echo > /bell/ring; wait")
        bell.wait()
        (first_id,) = sandbox.executions
        second = pool.submit(sandbox.shell, "echo two; echo > /bell/ring; read line < /bell/go; exit 4")
        bell.wait()
        assert len(sandbox.executions) == 2
        sandbox.terminate_execution(first_id)
        result = first.result(20)
        assert (result.verdict, result.signal, result.stdout) == (Verdict.CANCELLED, 9, "one\n")
        assert result.execution_id == first_id
        assert set(sandbox.executions) != {first_id}
        with pytest.raises(nsbox.InvalidStateError, match=first_id):
            sandbox.terminate_execution(first_id)
        bell.go()
        assert (second.result(20).verdict, second.result().exit_code) == (Verdict.NONZERO_EXIT, 4)
        assert sandbox.executions == {}
    bell.close()


def test_metrics_are_those_of_the_whole_tree(sandbox: nsbox.Sandbox) -> None:
    """CPU time of waited and unwaited children, peak memory over processes, and the number of processes count."""
    code = """
import os, time
x = bytearray(20 << 20)
pids = [os.fork() for _ in range(1)]
if pids == [0]:
    y = bytearray(20 << 20)
    end = time.process_time() + 0.2
    while time.process_time() < end: pass
    os._exit(0)
os.waitpid(pids[0], 0)
"""
    result = sandbox.execute(code)
    metrics = result.metrics
    assert result.ok
    assert metrics is not None
    assert 0.2 <= metrics.cpu_seconds < 1
    assert metrics.cpu_seconds == pytest.approx(metrics.user_seconds + metrics.system_seconds, abs=0.01)
    assert 0.2 <= metrics.wall_seconds < 10
    assert 40 << 20 <= metrics.peak_memory_bytes <= 96 << 20
    assert metrics.process_count_peak == 2
    assert metrics.suspended_seconds == 0
    assert 0 <= metrics.queued_seconds < 5


def test_every_result_knows_its_execution(sandbox: nsbox.Sandbox) -> None:
    """Ids differ, totals of the sandbox add up, and a result is plain data on request."""
    first, second = sandbox.shell("echo ü; echo err >&2"), sandbox.execute("raise ValueError('no')")
    assert first.execution_id != second.execution_id
    assert first.status is nsbox.ExecutionStatus.COMPLETED
    assert second.status is nsbox.ExecutionStatus.FAILED
    assert (first.stdout, first.stdout_bytes, first.stderr_bytes) == ("ü\n", "ü\n".encode(), b"err\n")
    assert first.outputs == ()
    assert first.error is None
    assert second.error is not None
    assert (second.error.name, second.error.value) == ("ValueError", "no")
    assert "raise ValueError('no')" in second.error.traceback
    assert first.metrics is not None
    assert second.metrics is not None
    metadata = sandbox.metadata
    assert metadata.total_executions == 2
    assert metadata.total_cpu_time == pytest.approx(first.metrics.cpu_seconds + second.metrics.cpu_seconds)
    assert metadata.total_memory_used == max(first.metrics.peak_memory_bytes, second.metrics.peak_memory_bytes)
    assert first.to_dict()["verdict"] == "ok"
