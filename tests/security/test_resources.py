"""R: what a program can take of the host, by every way that others have found."""

import dataclasses

import pytest
from needs import unified_root
from probing import inside, outside
from watching import until

import nsbox
from nsbox import Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

HOGS = {
    "anonymous": "x = bytearray(256 << 20)",
    "populated in one call": "import mmap\nmmap.mmap(-1, 256 << 20, flags=0x8022)  # private, anonymous, MAP_POPULATE",
    "many processes": "import os, time\nfor _ in range(16):\n if os.fork() == 0:\n  x = bytearray(16 << 20)\n  time.sleep(30)\nos.wait(); os._exit(1)",  # noqa: E501
    "tmpfs": "with open('/dev/shm/x', 'wb') as f:\n for _ in range(60): f.write(bytes(1 << 20))\nwith open('/tmp/y', 'wb') as f:\n for _ in range(60): f.write(bytes(1 << 20))",  # noqa: E501
    "memfd": "import os\nheld = []\nfor _ in range(8):\n held.append(os.memfd_create('x'))\n for _ in range(32): os.write(held[-1], bytes(1 << 20))",  # noqa: E501
    "System V": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nwhile True: ctypes.memset(libc.shmat(libc.shmget(0, 16 << 20, 0o1600), 0, 0), 1, 16 << 20)",  # noqa: E501
    "pipes": "import os, fcntl, time\nfor _ in range(60):\n if os.fork() == 0: break\nfor _ in range(100):\n r, w = os.pipe()\n os.set_blocking(w, False)\n try:\n  fcntl.fcntl(w, 1031, 1 << 20)\n except OSError: pass\n try:\n  while os.write(w, bytes(1 << 16)): pass\n except BlockingIOError: pass\ntime.sleep(30)",  # noqa: E501
    "socket buffers": "import socket, time, os\nheld = []\nfor _ in range(60):\n if os.fork() == 0: break\nfor _ in range(100):\n a, b = socket.socketpair()\n a.setblocking(False)\n held.append((a, b))\n try:\n  while a.send(bytes(1 << 14)): pass\n except BlockingIOError: pass\ntime.sleep(30)",  # noqa: E501
    "page tables": "import mmap, os, time\nfor _ in range(60):\n if os.fork() == 0: break\nm = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000, prot=1)\nfor at in range(0, 2 << 30, 2 << 20): m[at]\ntime.sleep(30)",  # noqa: E501
}


@pytest.mark.parametrize("way", HOGS)
def test_memory_is_limited_whatever_it_is_used_for(way: str) -> None:
    """R01, R02: 256 MiB of each kind end at the limit of 64, by the kernel, and the peak that is told is no more."""
    with nsbox.Sandbox(memory_mb=64, timeout=10) as sandbox:
        result = sandbox.execute(HOGS[way])
    assert result.verdict is Verdict.MEMORY_LIMIT, (result.verdict, result.stderr)
    assert result.metrics is not None
    assert result.metrics.peak_memory_bytes <= 64 << 20


SOCKETS = """
import resource, socket, sys, time
kind = {{'tcp': socket.SOCK_STREAM, 'udp': socket.SOCK_DGRAM}}[{kind!r}]
def pages():
    line = next(one for one in open('/proc/net/sockstat') if one.startswith({kind!r}.upper() + ':'))
    return int(line.rpartition(' ')[2])
before, held = pages(), []
server = socket.create_server(('127.0.0.1', 0)) if kind is socket.SOCK_STREAM else None
for _ in range(100 if server else 200):
    writer = socket.socket(socket.AF_INET, kind)
    writer.setblocking(False)
    if server is None:
        writer.bind(('127.0.0.1', 0))
        held.append((writer, writer.connect(writer.getsockname())))
    else:
        writer.setblocking(True)
        writer.connect(server.getsockname())
        writer.setblocking(False)
        held.append((writer, server.accept()[0]))
    try:
        for _ in range(200):
            writer.send(bytes(40_000))
    except OSError:
        pass
print((pages() - before) * resource.getpagesize() >> 20)
"""


@pytest.mark.lane_unified
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_waits_in_network_sockets_is_limited_too(kind: str) -> None:
    """R02: nobody reads many sockets: their buffers stay below the limit of 16 MiB and some; with a limit of 1 GiB the
    same program fills more than that. The number of pages is the whole machine's.
    """
    found = {}
    for limit in (16, 1024):
        with nsbox.Sandbox(memory_mb=limit, timeout=20) as sandbox:
            result = sandbox.execute(SOCKETS.format(kind=kind))
            assert result.verdict in {Verdict.OK, Verdict.MEMORY_LIMIT}, result.stderr  # the latter on v2 alone
            found[limit] = int(result.stdout or 0)
    assert found[16] <= 24 < found[1024], found


def test_what_the_machine_counts_as_a_whole_cannot_be_used_up() -> None:
    """R13: events of Linux AIO have one limit for all, fs.aio-max-nr, which any program outside can take; inside the
    call is ENOSYS, and nothing has been taken.
    """
    questions = """
taken = []
def take(size):
    context = ctypes.c_ulong(0)
    taken.append((context, call(206, size, ctypes.byref(context))))
def fill():
    for size in (1 << 20, 1 << 16, 1 << 12, 1 << 8, 1):
        try:
            while True:
                take(size)
        except OSError as exc:
            if exc.errno != errno.EAGAIN and exc.errno != errno.EINVAL: raise
    return 'full'
ask('fill', fill)
ask('number', lambda: int(read('/proc/sys/fs/aio-nr')) >= 1 << 15)
"""
    assert outside(questions) == {"fill": "full", "number": True}
    with nsbox.Sandbox() as sandbox:
        assert inside(sandbox, questions) == {"fill": "ENOSYS", "number": False}


def test_the_same_programs_run_where_there_is_room() -> None:
    """R01: under a limit of 1 GiB the control of the test above allocates its 256 MiB and ends well."""
    with nsbox.Sandbox(memory_mb=1024) as sandbox:
        assert sandbox.execute(HOGS["anonymous"]).ok
        assert sandbox.execute(HOGS["memfd"]).ok


def test_files_are_limited_in_number_size_and_sum() -> None:
    """R03, R07: inodes, one file's size, and the sum over all places that can be written, which share one quota."""
    questions = """
def fill(directory, size):
    count = 0
    try:
        while True:
            with open(f'{directory}/{count}', 'wb') as file:
                file.write(bytes(size))
            count += 1
    except OSError as exc:
        return [errno.errorcode[exc.errno], count]
ask('sparse', lambda: os.truncate(os.open('/tmp/sparse', os.O_CREAT | os.O_RDWR), 1 << 40))
ask('inodes', lambda: fill('/tmp', 0))
for name in os.listdir('/tmp'):
    if not os.path.isdir('/tmp/' + name): os.unlink('/tmp/' + name)
ask('bytes', lambda: fill('/workspace', 1 << 20))
ask('elsewhere', lambda: open('/dev/shm/x', 'wb', buffering=0).write(bytes(8192)))
ask('home', lambda: open('/home/user/x', 'wb', buffering=0).write(bytes(8192)))
"""
    disk = nsbox.DiskAllocation(quota_mb=8, quota_inodes=500)
    with nsbox.Sandbox(resources=nsbox.ResourceAllocation(disk=disk)) as sandbox:
        found = inside(sandbox, "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)" + questions)
    assert found["sparse"] == "EFBIG"
    assert found["inodes"][0] == "ENOSPC"
    assert 480 <= found["inodes"][1] <= 500
    assert found["bytes"][0] == "ENOSPC"
    assert 6 <= found["bytes"][1] <= 8
    assert (found["elsewhere"], found["home"]) == ("ENOSPC", "ENOSPC")


FORKS = """
import os, threading, time
count = 0
try:
    for _ in range(200):
        {}
        count += 1
except (OSError, RuntimeError):
    pass
print(count, flush=True)
os._exit(1)
"""


@pytest.mark.parametrize(
    "way",
    ["if os.fork() == 0: time.sleep(60)", "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"],
    ids=["processes", "threads"],
)
def test_processes_and_threads_are_counted_together_and_limited(way: str) -> None:
    """R04: of 200 forks, or threads, 15 are carried out beside the program itself, and that is the verdict."""
    with nsbox.Sandbox(processes=16) as sandbox:
        result = sandbox.execute(FORKS.format(way))
        assert (result.verdict, result.stdout) == (Verdict.PROCESS_LIMIT, "15\n")
        assert sandbox.execute("print(1)").ok


SHARED_WORK = """
import os, signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        for _ in range(300_000):
            pass
        os._exit(0)
    os.wait()
"""
IGNORE_ALL = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
time.sleep(60)
"""


def test_cpu_time_is_summed_over_the_whole_tree() -> None:
    """R05: children that share the work, each within any limit of its own, are stopped at the sum, signals ignored."""
    with nsbox.Sandbox(timeout=20) as sandbox:
        result = sandbox.execute(SHARED_WORK, cpu_timeout=0.4)
    assert result.verdict is Verdict.CPU_TIME_LIMIT
    assert result.metrics is not None
    assert 0.4 <= result.metrics.cpu_seconds < 2


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.close(0); os.close(1); os.close(2)\nimport time; time.sleep(60)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        IGNORE_ALL,
    ],
    ids=["closed", "stopped", "ignoring"],
)
def test_wall_time_ends_what_closes_stops_and_ignores_everything(code: str) -> None:
    """R06: closed streams, a stopped process and ignored signals do not outlast the limit."""
    with nsbox.Sandbox() as sandbox:
        assert sandbox.execute(code, timeout=0.3).verdict is Verdict.WALL_TIME_LIMIT
        assert sandbox.execute("print(1)").ok


def test_a_flood_on_both_streams_ends_at_the_limit() -> None:
    """R08: what is returned of stdout and stderr together is the limit to the byte, marked as cut."""
    code = "import os\nwhile True: os.write(1, b'o' * 5000); os.write(2, b'e' * 5000)"
    with nsbox.Sandbox(enforcement=nsbox.EnforcementPolicy(max_output_mb=1)) as sandbox:
        result = sandbox.execute(code)
    assert (result.verdict, result.truncated) == (Verdict.OUTPUT_LIMIT, True)
    assert len(result.stdout_bytes) + len(result.stderr_bytes) == 1 << 20
    assert result.stdout_bytes
    assert result.stderr_bytes


COUNTS = """
def most(make):
    held = []
    try:
        for _ in range(2000):
            held.append(make())
    except OSError as exc:
        return [errno.errorcode[exc.errno], len(held)]
    finally:
        for one in held:
            for fd in one if isinstance(one, tuple) else (one,):
                os.close(fd)
ask('fds', lambda: most(lambda: os.dup(0)))
ask('inotify', lambda: most(libc_inotify))
ask('terminals', lambda: most(os.openpty))
"""


def test_what_the_kernel_counts_per_user_is_counted_per_sandbox() -> None:
    """R09: descriptors, inotify instances and terminals end at small numbers of the sandbox's own."""
    prelude = """
def libc_inotify():
    return call(294, 0)
"""
    processes = nsbox.ProcessAllocation(max_open_files=200)
    with nsbox.Sandbox(resources=nsbox.ResourceAllocation(processes=processes)) as first, nsbox.Sandbox() as second:
        for sandbox, files in ((first, 200), (second, 256)):
            found = inside(sandbox, prelude + COUNTS)
            assert found["fds"] == ["EMFILE", files - 3]
            assert found["inotify"] == ["EMFILE", 16]
            assert found["terminals"][1] <= 64


COMPILERS = {
    "a large result": "int a[1 << 28] = {1}; int main(void) { return 0; }",
    "endless expansion": "#define A B B B B\n#define B C C C C\n#define C D D D D\n#define D E E E E\n"
    + "".join(f"#define {a} {b} {b} {b} {b}\n" for a, b in zip("EFGHIJKL", "FGHIJKLM", strict=True))
    + "int main(void) { A }",
    "a file of the host's": '#include "/etc/shadow"\nint main(void) { return 0; }',
    "a file as data": '__asm__(".incbin \\"/etc/shadow\\""); int main(void) { return 0; }',
}


@pytest.mark.needs_tool("gcc")
@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_is_held_as_a_program_is(name: str) -> None:
    """R11: bombs and curious includes end as COMPILE_ERROR, by the compiler's own limits or for want of the file; the
    sandbox goes on, and an honest program beside them is compiled and runs.
    """
    runtime = dataclasses.replace(nsbox.RUNTIMES["c"], compile_seconds=2.0)
    with nsbox.Sandbox(runtime=runtime) as sandbox:
        result = sandbox.execute(COMPILERS[name])
        assert result.verdict is Verdict.COMPILE_ERROR, result.evidence
        assert "root:" not in result.stderr
        assert sandbox.execute('int puts(const char *); int main(void) { puts("hi"); }').stdout == "hi\n"


def test_nothing_of_the_dead_stays_charged() -> None:
    """R12: after a hundred executions that wrote files and sent through sockets the kernel keeps no more than a few
    dying cgroups of theirs, cgroup-v2.rst: those that it has not got round to.
    """
    root = unified_root()
    assert root is not None

    def dying() -> int:
        lines = (root / "cgroup.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("nr_dying_descendants"))

    before = dying()
    with nsbox.Sandbox() as sandbox:
        for _ in range(100):
            assert sandbox.shell("head -c 100000 /dev/zero >/tmp/x; cat /usr/bin/env >/dev/null; rm /tmp/x").ok
    until(lambda: dying() <= before + 20, "the cgroups of the executions are gone")


def test_priority_over_the_hosts_processes_is_not_to_be_had() -> None:
    """R10: real-time and deadline classes, negative nice values and protection from the OOM killer are refused."""
    questions = """
ask('fifo', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
ask('nice', lambda: os.setpriority(os.PRIO_PROCESS, 0, -1))
ask('oom', lambda: open('/proc/self/oom_score_adj', 'w', buffering=1).write('-1\\n'))
ask('limits', lambda: [resource.getrlimit(one)[1] for one in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE)])
ask('nicer', lambda: os.setpriority(os.PRIO_PROCESS, 0, 5))
"""
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            found = inside(sandbox, questions, user=user)
            assert found == {"fifo": "EPERM", "nice": "EACCES", "oom": "EACCES", "limits": [0, 0], "nicer": None}
