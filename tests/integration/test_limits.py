"""Each limit against a program that tries to exceed it; the kernel is what holds it."""

import concurrent.futures
import contextlib
import os
import time
from pathlib import Path

import pytest
from watching import Bell, cpu_ticks, programs

import nsbox
from nsbox import (
    CpuAllocation,
    DiskAllocation,
    EnforcementPolicy,
    MemoryAllocation,
    ProcessAllocation,
    ResourceAllocation,
    Verdict,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]
MIB = 1 << 20


def sandbox_with(
    *,
    cpu: CpuAllocation | None = None,
    memory: MemoryAllocation | None = None,
    disk: DiskAllocation | None = None,
    processes: ProcessAllocation | None = None,
    **fields: object,
) -> nsbox.Sandbox:
    """One with 64 MiB of memory and 20 s, and what is given."""
    resources = ResourceAllocation(
        cpu=cpu or CpuAllocation(), memory=memory or MemoryAllocation(limit_mb=64), disk=disk or DiskAllocation(),
        processes=processes or ProcessAllocation(),
    )  # fmt: skip
    return nsbox.Sandbox(resources=resources, **{"timeout": 20, **fields})


SHARED = "import mmap; m = mmap.mmap(-1, 100 << 20)\nfor i in range(0, 100 << 20, 4096): m[i] = 1"
POPULATE = "import mmap; mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"
FILL = "for _ in range({}): f.write(bytes(1 << 20))"
SEVERAL = """
import os, time
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        x = bytearray(25 << 20)
        time.sleep(1)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("x = bytearray(100 << 20)", id="anonymous"),
        pytest.param(SEVERAL, id="several processes", marks=pytest.mark.lane_unified),
        pytest.param(POPULATE, id="populate"),
        pytest.param(SHARED, id="shared"),
        pytest.param(f"import os\nf = open(os.memfd_create('x'), 'wb')\n{FILL.format(100)}", id="memfd"),
        pytest.param(
            f"f = open('/tmp/x', 'wb')\n{FILL.format(60)}\nx = bytearray(40 << 20)",
            id="tmpfs",
            marks=pytest.mark.lane_unified,
        ),
        pytest.param(f"f = open('/dev/shm/x', 'wb')\n{FILL.format(100)}", id="shm"),
    ],
)
def test_memory_is_limited_however_it_is_taken(code: str) -> None:
    """64 MiB, of which 100 cannot be had; 20 can, in the same sandbox, before and after (R01, R02)."""
    with sandbox_with(processes=ProcessAllocation(max_file_size_mb=200)) as sandbox:
        little = code.replace("100", "12").replace("25 <<", "3 <<").replace("time.sleep(1)", "time.sleep(0)")
        little = little.replace("range(60)", "range(6)").replace("40 <<", "4 <<")
        assert sandbox.execute(little).verdict is Verdict.OK
        sandbox.shell("rm -f /tmp/x /dev/shm/x")
        result = sandbox.execute(code)
        assert (result.verdict, result.evidence["limit"]) == (Verdict.MEMORY_LIMIT, 64.0), (result, result.evidence)
        assert result.metrics is not None
        assert 32 * MIB < result.metrics.peak_memory_bytes <= 65 * MIB  # charged in batches, memory.peak can be over
        sandbox.shell("rm -f /tmp/x /dev/shm/x")
        assert sandbox.execute(little).verdict is Verdict.OK


@pytest.mark.lane_unified
def test_an_execution_that_lost_a_process_to_the_memory_limit_is_over() -> None:
    """A main process that waits for something else for ever is killed at once; the verdict is no time limit."""
    code = "import os, time\nif os.fork() == 0: x = bytearray(100 << 20)\ntime.sleep(60)"
    with sandbox_with() as sandbox:
        result = sandbox.execute(code, timeout=15)
        assert (result.verdict, result.signal) == (Verdict.MEMORY_LIMIT, 9)
        assert result.metrics is not None
        assert result.metrics.wall_seconds < 15


def test_there_is_no_swap_unless_it_is_allowed() -> None:
    """swap_limit_mb=0: memory and swap together are as much as memory alone, where the kernel tells it apart."""
    with sandbox_with() as sandbox:
        assert sandbox.isolation["swap"].startswith("cgroup")
        assert sandbox.execute("x = bytearray(100 << 20)").verdict is Verdict.MEMORY_LIMIT


@pytest.mark.lane_unified
def test_one_execution_s_memory_is_not_another_s(tmp_path: Path) -> None:
    """The one beyond its own limit dies; the one beside it, in the same sandbox, does not notice."""
    bell = Bell(tmp_path)
    with (
        sandbox_with(memory=MemoryAllocation(limit_mb=128), mounts=[bell.mount]) as sandbox,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        beside = pool.submit(
            sandbox.execute,
            "x = bytearray(30 << 20); open('/bell/ring', 'w').write('up\\n'); open('/bell/go').readline()",
        )
        assert bell.wait() == "up"
        greedy = sandbox.execute("x = bytearray(60 << 20)", memory_limit_mb=40)
        assert (greedy.verdict, greedy.evidence["limit"]) == (Verdict.MEMORY_LIMIT, 40)
        bell.go()
        assert beside.result(20).verdict is Verdict.OK
        assert "oom_kills" not in beside.result().evidence
    bell.close()


def test_memory_is_not_limited_where_the_caller_says_so() -> None:
    """enforce_memory_limits=False: 100 MiB beyond a limit of 64 are OK, and the peak is reported."""
    enforcement = EnforcementPolicy(enforce_memory_limits=False, max_execution_seconds=20)
    with nsbox.Sandbox(
        resources=ResourceAllocation(memory=MemoryAllocation(limit_mb=64)), enforcement=enforcement
    ) as sandbox:
        result = sandbox.execute("x = bytearray(100 << 20)")
        assert result.verdict is Verdict.OK
        assert result.metrics is not None
        assert result.metrics.peak_memory_bytes > 100 * MIB


FORK_BOMB = ":(){ :|:& };:"


THREADS = """
import os, threading, time
n = 1
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        n += 1
except RuntimeError:
    os.write(1, str(n).encode())
    os._exit(3)
"""
PROCESSES = """
import os, time
n = 1
try:
    while os.fork():
        n += 1
    time.sleep(60)
except BlockingIOError:
    os.write(1, str(n).encode())
    os._exit(3)
"""


@pytest.mark.lane_unified
@pytest.mark.parametrize("code", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_processes_and_threads_are_counted_together(code: str) -> None:
    """Exactly max_processes, the program's own among them; the next is refused, and the verdict says so (R04)."""
    most = 10
    with sandbox_with(processes=ProcessAllocation(max_processes=most)) as sandbox:
        for _ in range(2):
            result = sandbox.execute(code)
            assert (result.verdict, result.exit_code, result.stdout) == (Verdict.PROCESS_LIMIT, 3, str(most))
            assert result.metrics is not None
            assert result.metrics.process_count_peak == most
        assert sandbox.shell("true | true").ok


def test_a_fork_bomb_ends_and_leaves_nothing() -> None:
    """At the wall limit at the latest, and other sandboxes start meanwhile."""
    with sandbox_with(processes=ProcessAllocation(max_processes=30)) as sandbox, nsbox.Sandbox() as other:
        result = sandbox.run(["bash", "-c", f"{FORK_BOMB}\nwhile :; do wait; done"], timeout=0.3)
        assert result.verdict in (Verdict.WALL_TIME_LIMIT, Verdict.PROCESS_LIMIT)
        assert result.evidence["processes_refused"]
        assert other.shell("echo fine").stdout == "fine\n"
        assert sandbox.shell("echo fine").stdout == "fine\n"


BUSY = """
import os, time
for _ in range({forks}): os.fork()
end = time.monotonic() + {seconds}
while time.monotonic() < end: pass
while True:
    try: os.wait()
    except ChildProcessError: break
"""


@pytest.mark.parametrize(
    ("cpu", "share"),
    [
        (CpuAllocation(cores=0.2), 0.2),
        pytest.param(CpuAllocation(cores=0.5), 0.5, marks=pytest.mark.lane_unified),
        (CpuAllocation(cores=1, limit_percent=30), 0.3),
    ],
    ids=str,
)
def test_cpu_bandwidth_is_that_of_the_whole_tree(cpu: CpuAllocation, share: float) -> None:
    """Two busy processes get no more than the share together; one alone, and without the limit, gets more."""
    with sandbox_with(cpu=cpu) as sandbox:
        metrics = sandbox.execute(BUSY.format(forks=1, seconds=1)).metrics
        assert metrics is not None
        # a period's quota may be used at once at both ends: half a period of 20 ms per CPU on either side
        assert share * 0.4 < metrics.cpu_seconds / metrics.wall_seconds < share * 1.15 + 0.03
    with sandbox_with(cpu=CpuAllocation(cores=2)) as sandbox:
        free = sandbox.execute(BUSY.format(forks=1, seconds=0.5)).metrics
        assert free is not None
        assert free.cpu_seconds / free.wall_seconds > share * 1.2 + 0.04


def test_cpuset_pins_every_process() -> None:
    """sched_getaffinity inside, also after an attempt to widen it; without it, all that the application may use."""
    allowed = sorted(os.sched_getaffinity(0))
    code = f"""
import os
print(sorted(os.sched_getaffinity(0)))
try: os.sched_setaffinity(0, {set(allowed)})
except OSError: pass
print(sorted(os.sched_getaffinity(0)))
"""
    with sandbox_with(cpu=CpuAllocation(cpuset=[allowed[-1]])) as sandbox:
        assert sandbox.execute(code).stdout == f"[{allowed[-1]}]\n" * 2
    with sandbox_with() as sandbox:
        assert sandbox.execute(code).stdout == f"{allowed}\n" * 2
    with pytest.raises(nsbox.ConfigError, match=r"cpuset=\[8191\]"), sandbox_with(cpu=CpuAllocation(cpuset=[8191])):
        pass


def test_priority_decides_when_a_cpu_is_short(tmp_path: Path) -> None:
    """On one CPU the sandbox of high priority gets most of it beside one of low priority."""
    bell = Bell(tmp_path)
    cpu = [min(os.sched_getaffinity(0))]
    spin = "import os\nprint('{}', os.getpid(), file=open('/bell/ring', 'w'), flush=True)\nwhile True: pass"
    used: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        for priority in ("low", "high"):
            allocation = CpuAllocation(priority=priority, cpuset=cpu)
            sandbox = stack.enter_context(sandbox_with(cpu=allocation, mounts=[bell.mount]))
            pool.submit(sandbox.execute, spin.format(priority), arguments=[priority])
            bell.wait()
        found = {line.split()[-1]: pid for pid, line in programs().items()}
        for _ in range(2):  # the second time minus the first
            used = {name: cpu_ticks(pid) - used.get(name, 0) for name, pid in found.items()}
            time.sleep(0.7)
    bell.close()
    assert set(used) == {"low", "high"}
    assert used["high"] > 3 * used["low"]


DEEP = "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)"


def test_open_files_file_size_and_stack_are_limited() -> None:
    """Each process has the configured limits, soft and hard, and cannot raise them."""
    processes = ProcessAllocation(max_open_files=20, max_file_size_mb=2, stack_mb=3)
    code = """
import resource as r, os, signal
print([r.getrlimit(n) for n in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_STACK)], r.getrlimit(r.RLIMIT_CORE)[1] <= 1)
fds = []
try:
    while True: fds.append(os.open('/dev/null', 0))
except OSError as exc: print(exc.errno, fds[-1])
for fd in fds[:-5]: os.close(fd)
try: r.setrlimit(r.RLIMIT_NOFILE, (30, 30))
except ValueError as exc: print('refused')
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)
try: print(os.pwrite(file, b'xx', (2 << 20) - 1)); os.pwrite(file, b'x', 2 << 20)
except OSError as exc: print(exc.errno)
"""
    with sandbox_with(processes=processes) as sandbox:
        limits = [(20, 20), (2 << 20, 2 << 20), (3 << 20, 3 << 20)]
        assert sandbox.execute(code).stdout == f"{limits} True\n24 19\nrefused\n1\n27\n"
        deep = sandbox.execute(DEEP)
        assert (deep.verdict, deep.signal) == (Verdict.SIGNALED, 11)


PLACES = ("/workspace", "/tmp", "/dev/shm", "/home/user")


@pytest.mark.parametrize("last", PLACES)
def test_the_disk_quota_is_one_for_everything_writable(last: str) -> None:
    """2 MiB in each of four places fill 8 MiB; deleting makes room again (R07)."""
    with sandbox_with(disk=DiskAllocation(quota_mb=8)) as sandbox:
        places = [place for place in PLACES if place != last] + [last]
        fill = "; ".join(f"head -c {2 * MIB - 16384} /dev/zero > {place}/fill || exit 9" for place in places)
        assert sandbox.shell(fill).ok
        more = sandbox.run(["dd", "if=/dev/zero", f"of={last}/more", "bs=1M", "count=2"])
        assert (more.verdict, more.exit_code, more.evidence["limit"]) == (Verdict.DISK_LIMIT, 1, 8)
        assert "No space left" in more.stderr
        sandbox.shell("rm */more /tmp/more /dev/shm/more $HOME/more /tmp/fill")
        again = sandbox.run(["dd", "if=/dev/zero", f"of={last}/more", "bs=1M", "count=1"])
        assert again.ok, again.stderr
        sparse = sandbox.run(["truncate", "-s", "1T", "/tmp/sparse"])
        assert sparse.signal == 25 or sparse.exit_code != 0


@pytest.mark.parametrize("place", PLACES)
def test_the_inode_quota_is_one_for_everything_writable(place: str) -> None:
    """Exactly quota_inodes files and directories, wherever; a program that fails for it has DISK_LIMIT."""
    code = f"""
import os
n = 0
try:
    while True:
        p = {PLACES!r}[n % 4] if n < 40 else {place!r}
        os.mkdir(f'{{p}}/d{{n}}') if n % 2 else open(f'{{p}}/f{{n}}', 'x').close()
        n += 1
except OSError as exc:
    print(n, exc.errno)
    raise SystemExit(1)
"""
    with sandbox_with(disk=DiskAllocation(quota_inodes=100)) as sandbox:
        result = sandbox.execute(code)
        assert (result.verdict, result.stdout) == (Verdict.DISK_LIMIT, "100 28\n"), result.stderr
        assert sandbox.shell("rm -r /workspace/* && touch /workspace/x").ok


@pytest.mark.parametrize("children", [0, pytest.param(3, marks=pytest.mark.lane_unified)])
def test_the_cpu_limit_is_over_the_whole_tree(children: int) -> None:
    """Also where the time was used by children that were waited for or not; one within the limit is OK (R05)."""
    enforcement = EnforcementPolicy(max_cpu_seconds=0.3, max_execution_seconds=20)
    code = "import os, time\n" + "os.fork()\n" * (children // 2) + "while True: pass"
    with nsbox.Sandbox(enforcement=enforcement) as sandbox:
        result = sandbox.execute(code)
        assert (result.verdict, result.evidence["limit"]) == (Verdict.CPU_TIME_LIMIT, 0.3)
        assert result.metrics is not None
        assert 0.3 <= result.metrics.cpu_seconds < 0.6
        short = sandbox.shell("true; true | true; sleep 0.5")
        assert short.verdict is Verdict.OK


def test_cpu_time_of_short_lived_children_adds_up() -> None:
    """Each of many children stays far below the limit, and all together do not."""
    code = """
import os, time
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.02
        while time.process_time() < end: pass
        os._exit(0)
    os.wait()
"""
    with nsbox.Sandbox(timeout=20) as sandbox:
        assert sandbox.execute(code, cpu_timeout=0.3).verdict is Verdict.CPU_TIME_LIMIT


def test_the_default_limits_are_strict() -> None:
    """A sandbox that nobody configured has them all."""
    with nsbox.Sandbox() as sandbox:
        resources, enforcement = sandbox.resources, sandbox.config.enforcement
        assert (resources.memory.limit_mb, resources.memory.swap_limit_mb) == (512, 0)
        assert (resources.processes.max_processes, enforcement.max_execution_seconds) == (64, 30)
        assert sandbox.execute("x = bytearray(600 << 20)").verdict is Verdict.MEMORY_LIMIT
        assert sandbox.run(["bash", "-c", "ulimit -n -u -s -f"]).stdout.split()[0:1]
