"""The attacks of `nsbox doctor --self-test`, as data: what a program in the sandbox tries, and what must come of it.

Each is a small Python program that prints what it met with: the name of an errno, a count, "done" where nothing
stopped it. What must come of it is exact, so that a program that fails for another reason does not pass for a defence.
Texts in @…@ are filled in: where the host's secrets are, and this machine's numbers of system calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nsbox._results import Verdict

PRELUDE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def called(number, *arguments):
    return "done" if libc.syscall(number, *arguments) != -1 else errno.errorcode[ctypes.get_errno()]
def reached(family, address):
    with socket.socket(family) as s:
        s.settimeout(2)
        return tried(s.connect, address)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One of them.

    Attributes:
        id: A stable name.
        title: What must hold, for people.
        code: The program, behind `PRELUDE`.
        verdict: How it must end.
        says: What it must print, one of; empty: anything.
        syscall: The system call that must be named as the one it was killed for.
        options: Fields of `ExecutionOptions`.
    """

    id: str
    title: str
    code: str
    verdict: Verdict = Verdict.OK
    says: tuple[str, ...] = ()
    syscall: str = ""
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def _killed(call: str, title: str) -> Attack:
    return Attack(
        id=f"kill_{call}",
        title=title,
        code=f"print(called(@{call}@, 0, 0, 0, 0, 0))",
        verdict=Verdict.SECURITY_VIOLATION,
        syscall=call,
    )


ATTACKS: tuple[Attack, ...] = (
    Attack(id="runs", title="an honest program runs", code='print("alive")', says=("alive",)),
    Attack(
        id="not_root",
        title="it is not root, and cannot become root",
        code="print(0 in os.getresuid() + os.getresgid(), tried(os.setuid, 0))",
        says=("False EPERM", "False EINVAL"),  # EINVAL: 0 is not even mapped, setuid(2)
    ),
    Attack(
        id="capabilities",
        title="no capabilities, no new privileges, a filter",
        code="""
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*[int(status["Cap" + name], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")])
print(*[int(status[name]) for name in ("NoNewPrivs", "Seccomp")])
""",
        says=("0 0 0 0 0\n1 2",),
    ),
    Attack(
        id="processes_hidden",
        title="it sees no process but its own, and is not PID 1",
        code='print([p for p in os.listdir("/proc") if p.isdigit()] == [os.readlink("/proc/self")], os.getpid() == 1)',
        says=("True False",),
    ),
    Attack(  # "done": both have the same uid, and the kernel drops the signals; the next attack shows that it lives
        id="init_safe",
        title="PID 1 takes no signal from it",
        code="print(*{tried(os.kill, 1, number) for number in range(1, 65)})",
        says=("EPERM", "done"),
    ),
    Attack(
        id="init_limits",
        title="nor any limit, and PID 1 cannot be looked into",
        code="""
import resource
ways = [f"/proc/1/{name}" for name in ("mem", "environ", "root/etc", "ns/user")]
print(tried(resource.prlimit, 1, resource.RLIMIT_CPU), {tried(os.stat if "ns" in way else open, way) for way in ways}
      <= {"ENOENT", "EACCES"})
""",
        says=("EPERM True",),
    ),
    Attack(
        id="descriptors",
        title="no descriptor is left over from the set-up",
        code="print([fd for fd in range(3, 256) if tried(os.fstat, fd) == 'done'])",
        says=("[]",),
    ),
    Attack(
        id="network",
        title="its own loopback works, and no address beyond",
        code="""
own = socket.create_server(("127.0.0.1", 0))
ways = (own.getsockname(), ("192.0.2.1", 80))
print(*[reached(socket.AF_INET, way) for way in ways], len(socket.if_nameindex()))
""",
        says=("done ENETUNREACH 1",),
    ),
    Attack(
        id="host_sockets",
        title="the host's loopback and abstract sockets are out of reach",
        code='print(reached(socket.AF_INET, ("127.0.0.1", @PORT@)), reached(socket.AF_UNIX, "\\0@ABSTRACT@"))',
        says=("ECONNREFUSED ECONNREFUSED",),
    ),
    Attack(
        id="host_files",
        title="the host's files are not there",
        code='print(*[tried(open, way + "@FILE@") for way in ("", "/proc/1/root", "/proc/self/root", "/../..")])',
        says=("ENOENT ENOENT ENOENT ENOENT", "ENOENT EACCES ENOENT ENOENT"),
    ),
    Attack(
        id="host_environment",
        title="the application's environment is not there",
        code="""
found = 0
for pid in os.listdir("/proc"):
    try:
        found += "@VARIABLE@" in open(f"/proc/{pid}/environ", errors="replace").read()
    except OSError:
        pass
print(found + ("@VARIABLE@" in os.environ))
""",
        says=("0",),
    ),
    Attack(
        id="read_only",
        title="it can write its files, and no others",
        code="""
ways = ("/workspace/a", "/a", "/usr/a", "/etc/passwd", "/proc/sys/kernel/core_pattern")
print(*[{"EROFS": "no", "EACCES": "no"}.get(met, met) for met in (tried(open, way, "a") for way in ways)])
""",
        says=("done no no no no",),
    ),
    Attack(
        id="devices",
        title="no devices but the harmless ones, no /sys",
        code="""
harmless = set("fd full null ptmx pts random shm stderr stdin stdout tty urandom zero".split())
print(sorted(set(os.listdir("/dev")) - harmless), os.path.exists("/sys/kernel"))
""",
        says=("[] False",),
    ),
    Attack(
        id="namespaces",
        title="it makes no namespaces",
        code="print(called(@unshare@, 0x10000000), called(@unshare@, 0x40000000), called(@clone3@, 0, 0))",
        says=("EPERM EPERM ENOSYS",),
    ),
    Attack(
        id="io_uring",
        title="no io_uring, no other asynchronous input and output, no keyrings",
        code="print(called(@io_uring_setup@, 1, 0), called(@io_setup@, 1, 0), called(@keyctl@, 0, -3, 0))",
        says=("ENOSYS ENOSYS ENOSYS",),
    ),
    Attack(
        id="families",
        title="no vsock, packet and crypto sockets",
        code="print(*[tried(socket.socket, family, socket.SOCK_DGRAM) for family in (40, 17, 38)])",
        says=("EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT",),
    ),
    Attack(
        id="terminal",
        title="nothing is typed into a terminal, and there is none of the caller's",
        code="""
import fcntl
print(tried(fcntl.ioctl, os.openpty()[1], 0x5412, b"x"), tried(open, "/dev/tty"))
""",
        says=("EPERM ENXIO",),
    ),
    _killed("mount", "mounting is killed"),
    _killed("ptrace", "tracing processes is killed"),
    _killed("bpf", "loading kernel programs is killed"),
    _killed("setns", "entering namespaces is killed"),
    _killed("open_by_handle_at", "opening files by number is killed"),
    Attack(
        id="memory",
        title="memory limit",
        code="kept = bytearray(os.urandom(4096)) * (64 << 8)",
        verdict=Verdict.MEMORY_LIMIT,
        options=MappingProxyType({"memory_limit_mb": 32}),
    ),
    Attack(
        id="processes",
        title="process limit",
        code="""
import signal
try:
    while True:
        if os.fork() == 0: signal.pause()
except OSError:
    sys.exit(1)
""",
        verdict=Verdict.PROCESS_LIMIT,
    ),
    Attack(
        id="wall_time",
        title="wall clock limit, with SIGTERM ignored",
        code="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()",
        verdict=Verdict.WALL_TIME_LIMIT,
        options=MappingProxyType({"timeout": 0.3}),
    ),
    Attack(
        id="cpu_time",
        title="CPU time limit, over two processes",
        code="os.fork()\nwhile True: pass",
        verdict=Verdict.CPU_TIME_LIMIT,
        options=MappingProxyType({"cpu_timeout": 0.3}),
    ),
    Attack(
        id="output",
        title="output limit",
        code="while True: os.write(1, b'x' * 65536)",
        verdict=Verdict.OUTPUT_LIMIT,
        options=MappingProxyType({"capture_output": False}),
    ),
    Attack(
        id="daemon",
        title="a daemon starts, in a session of its own",
        code="""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        while True: os.sched_yield()
    os._exit(0)
os.wait()
print(len([p for p in os.listdir("/proc") if p.isdigit()]) - 1, "left")
""",
        says=("1 left",),
    ),
    Attack(
        id="survivors",
        title="and has not survived its execution",
        code='print(len([p for p in os.listdir("/proc") if p.isdigit()]) - 1, "left")',
        says=("0 left",),
    ),
    Attack(  # the last: what fills the disk stays there until the sandbox is gone
        id="disk",
        title="disk quota, over several files",
        code="""
try:
    for number in range(1000):
        with open(f"/tmp/{number}", "wb", buffering=0) as file:
            for _ in range(16): file.write(bytes(1 << 16))
except OSError:
    sys.exit(1)
""",
        verdict=Verdict.DISK_LIMIT,
    ),
)
