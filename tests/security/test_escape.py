"""The whole catalogue of escapes in one program, as root and without: each way out works on the host, or in what plain
`unshare` makes, and inside ends with exactly one errno.

A row is a question of `probing`, what it must be answered inside, and how its control is to be had. Names in @…@ are
this machine's numbers of system calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from probing import ASK, TELL, inside, outside, policy

import nsbox
from nsbox import Verdict
from nsbox._seccomp import load_policy
from nsbox._seccomp.syscalls import syscall_number

UNSHARE = ("unshare", "--map-root-user", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")
"""Namespaces and nothing else, in which everybody is root."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way out.

    Attributes:
        claim: The id, then a word that tells it from others of that claim.
        question: An expression.
        answers: What it may be answered inside.
        control: Who can do it outside: "anybody", "root", or "some" where the kernel's configuration decides.
        harmful: Where it works it changes the machine: the control is asked in namespaces only.
    """

    claim: str
    question: str
    answers: tuple[object, ...]
    control: str = "anybody"
    harmful: bool = False


HELPERS = """
import fcntl, tempfile
libc.syscall.restype = ctypes.c_long  # of an address, too
def syscall(number, *arguments):
    ctypes.set_errno(0)
    return call(number, *[ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments])
def made(*what):
    socket.socket(*what).close()
    return 'made'
def child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except OSError as exc:
            os._exit(exc.errno)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode.get(status, status)
def connected(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
    return 'connected'
def read_by(*ways):
    found = set()
    for way in ways:
        try:
            found.add(read(way))
        except OSError as exc:
            pass
    return sorted(found)
def walked(name):
    here = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(40):
        here = os.open('..', os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
    with open(os.open(name.lstrip('/'), os.O_RDONLY, dir_fd=here)) as file:
        return file.read()
def node(kind, device):
    with tempfile.TemporaryDirectory() as directory:
        os.mknod(directory + '/node', kind | 0o600, device)
    return 'made'
def chrooted(name):
    top = os.open('/', os.O_RDONLY)
    os.chroot('/usr')
    os.fchdir(top)
    os.chroot('.')
    return read(name)
def typed(request):
    master, slave = os.openpty()
    fcntl.ioctl(slave, request, b'x')
    return 'typed'
def leased(operation, argument):
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with tempfile.NamedTemporaryFile() as file:
        path = file.name if operation == 1024 else os.path.dirname(file.name)
        one = os.open(path, os.O_RDONLY)
        file.close()
        fcntl.fcntl(one, operation, argument)
        os.close(one)
    return 'leased'
def out_of_band():
    a, b = socket.socketpair()
    return a.send(b'x', socket.MSG_OOB)
def upper_layer():
    server = socket.create_server(('127.0.0.1', 0))
    one = socket.create_connection(server.getsockname())
    one.setsockopt(6, 31, b'tls')
    return 'tls'
def status(start):
    return [line.split()[1] for line in read('/proc/self/status').splitlines() if line.startswith(start)]
def environments():
    pids = [pid for pid in os.listdir('/proc') if pid.isdigit()]
    return read_by(*[f'/proc/{p}/environ' for p in pids], *[f'/proc/{p}/task/{p}/environ' for p in pids])
def routes(name):
    up = '../' * 20
    links = ('1/root', 'self/root', 'self/cwd/' + up, '1/cwd/' + up, f'self/task/{os.getpid()}/root', 'self/fd/0/' + up)
    return read_by(up + name, *[f'/proc/{link}{name}' for link in links])
def huge():  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_HUGETLB: nothing is taken until it is touched
    return syscall(@mmap@, 0, 2 << 20, 3, 0x44022, (1 << 64) - 1, 0)
def handle():
    return syscall(@name_to_handle_at@, (1 << 64) - 100, b'/usr', (ctypes.c_int * 9)(), (ctypes.c_int)(), 0)
def lowest(fds=range(3, 256)):
    return [fd for fd in fds if is_open(fd)]
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
CANARY = json.loads(@CANARY@)
"""

NAMES = {"user": 0x1000_0000, "mnt": 0x0002_0000, "pid": 0x2000_0000, "net": 0x4000_0000, "ipc": 0x0800_0000,
         "uts": 0x0400_0000, "cgroup": 0x0200_0000, "time": 0x80}  # fmt: skip
ROWS: tuple[Row, ...] = (
    # what is left of the set-up
    Row("S02 descriptors", "lowest()", ([],)),
    Row("S02 directory", "os.getcwd()", ("/workspace",)),
    Row("S09 capabilities", "[one.strip('0') for one in status('Cap')]", ([""] * 5,)),
    Row("S09 privileges", "status('NoNewPrivs')", (["1"],)),
    Row("S10 root", "0 in os.getresuid() + os.getresgid()", (False,)),
    Row("S11 become root", "os.setuid(0)", ("EPERM", "EINVAL")),
    Row("S11 become root's group", "os.setgid(0)", ("EPERM", "EINVAL")),
    Row("S11 groups", "os.setgroups([0])", ("EPERM", "EINVAL"), "root"),
    # files
    Row("F01 name", "read(CANARY['file'])", ("ENOENT",)),
    Row("F01 links", "routes(CANARY['file'])", ([],)),
    Row("F01 walk by descriptors", "walked(CANARY['file'])", ("ENOENT",)),
    Row("F09 chroot", "child(lambda: chrooted(CANARY['file']))", ("EPERM",)),
    Row("F02 program", "opens('/usr/bin/env', os.O_WRONLY)", ("EROFS", "EACCES"), "root"),
    Row("F02 root directory", "opens('/', os.O_TMPFILE | os.O_WRONLY)", ("EROFS", "EACCES"), "some"),
    Row("F02 passwd", "opens('/etc/passwd', os.O_WRONLY)", ("EROFS", "EACCES"), "root"),
    Row("F02 own executable", "opens('/proc/self/exe', os.O_WRONLY)", ("EROFS", "EACCES"), "some"),
    Row("F03 core_pattern", "opens('/proc/sys/kernel/core_pattern', os.O_WRONLY)", ("EROFS", "EACCES"), "root"),
    Row("F03 modprobe", "opens('/proc/sys/kernel/modprobe', os.O_WRONLY)", ("EROFS", "EACCES", "ENOENT"), "some"),
    Row("F03 sysrq", "opens('/proc/sysrq-trigger', os.O_WRONLY)", ("EROFS", "EACCES", "ENOENT"), "some"),
    Row("F03 forwarding", "opens('/proc/sys/net/ipv4/ip_forward', os.O_WRONLY)", ("EROFS", "EACCES")),
    Row("F03 pressure", "opens('/proc/pressure/io', os.O_RDWR)", ("ENOENT",), "some"),
    Row("F04 disks", "os.listdir('/proc/fs')", ([], "ENOENT"), "some"),
    Row("F04 command line", "read('/proc/cmdline')", ("",)),
    Row("F04 interrupts", "read('/proc/interrupts')", ("", "EACCES", "ENOENT")),
    Row("F04 kernel's symbols", "read('/proc/kallsyms')[:9]", ("", "EACCES", "ENOENT"), "some"),
    Row("F04 /sys", "os.listdir('/sys') != []", (False, "ENOENT")),
    Row("F05 others", "[n for n in ('kmsg', 'mem', 'kvm', 'fuse', 'loop-control', 'vsock', 'net/tun', 'uinput', 'vda',"
        " 'userfaultfd') if os.path.lexists('/dev/' + n)]", ([],), "some"),
    Row("F05 block device", "node(stat.S_IFBLK, os.makedev(7, 0))", ("EPERM",), "root"),
    Row("F05 character device", "node(stat.S_IFCHR, os.makedev(1, 1))", ("EPERM",), "root"),
    Row("F06 cgroups", "os.listdir('/sys/fs/cgroup') != []", ("ENOENT", False)),
    Row("F06 path", "sorted({l.split(':')[2] for l in read('/proc/self/cgroup').splitlines()})", (["/"], []), "some"),
    Row("F07 input", "stat.S_ISFIFO(os.fstat(0).st_mode)", (True,)),
    # what it sees of others
    Row("I01 variables", "CANARY['word'] in str(environments())", (False,)),
    Row("I02 processes", "len([p for p in os.listdir('/proc') if p.isdigit()])", (1, 2)),
    Row("I02 parent", "os.getppid()", (0, 1)),
    Row("I02 signal", "os.kill(CANARY['pid'], 0)", ("ESRCH",)),
    Row("I02 pidfd", "os.pidfd_open(CANARY['pid']) > 0", ("ESRCH",)),
    Row("I02 init's memory", "opens('/proc/1/mem', os.O_RDWR)", ("ENOENT", "EACCES"), "some"),
    Row("I02 init's root", "os.readlink('/proc/1/root')", ("ENOENT", "EACCES")),
    Row("I02 init's namespaces", "os.readlink('/proc/1/ns/mnt')", ("ENOENT", "EACCES")),
    Row("I03 host name", "socket.gethostname()", ("sandbox",)),
    Row("I04 log", "syscall(@syslog@, 10, 0, 0)", ("EPERM",), "root"),
    Row("P03 limits of PID 1", "resource.prlimit(1, resource.RLIMIT_CPU)", ("EPERM",)),
    # networks
    Row("N01 loopback", "connected(socket.AF_INET, ('127.0.0.1', CANARY['port']))", ("ECONNREFUSED",)),
    Row("N01 mapped", "connected(socket.AF_INET6, ('::ffff:127.0.0.1', CANARY['port']))", ("ECONNREFUSED",), "some"),
    Row("N02 abstract", "connected(socket.AF_UNIX, '\\0' + CANARY['word'])", ("ECONNREFUSED",)),
    Row("N02 path", "connected(socket.AF_UNIX, CANARY['socket'])", ("ENOENT",)),
    Row("N03 route", "socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9))", ("ENETUNREACH",), "some"),
    Row("N05 packet", "made(17, 3, 0)", ("EAFNOSUPPORT",)),
    Row("N05 raw", "made(2, 3, 1)", ("EPERM",)),
    Row("N05 audit", "made(16, 3, 9)", ("EPROTONOSUPPORT",), "some"),
    Row("N05 events of devices", "made(16, 3, 15)", ("EPROTONOSUPPORT",)),
    Row("N05 diagnosis", "made(16, 3, 4)", ("EPROTONOSUPPORT",)),
    Row("N06 interfaces", "[name for _, name in socket.if_nameindex()]", (["lo"],), "some"),
    Row("N07 vsock", "made(40, 1, 0)", ("EAFNOSUPPORT",), "some"),
    # the kernel's surface
    *(Row(f"K01 {name}", f"child(lambda: syscall(@unshare@, {flag}))", ("EPERM",)) for name, flag in NAMES.items()),
    *(Row(f"K01 clone {name}", f"child(lambda: syscall(@clone@, {flag | 17}, 0, 0, 0, 0) or os._exit(0))", ("EPERM",))
      for name, flag in NAMES.items() if name != "time"),
    Row("K01 clone3", "syscall(@clone3@, 0, 0)", ("ENOSYS",)),
    Row("K02 a number of no call", "syscall(600)", ("ENOSYS",), "some"),
    Row("K04 high bits", "syscall(@socket@, 1 << 32 | 17, 3, 0) > 0", ("EAFNOSUPPORT",)),
    Row("K05 terminal", "opens('/dev/tty', os.O_RDWR)", ("ENXIO",), "some"),
    Row("K05 TIOCSTI", "typed(0x5412)", ("EPERM",), "some"),
    Row("K05 TIOCLINUX", "typed(0x541c)", ("EPERM",)),
    Row("K06 io_uring", "syscall(@io_uring_setup@, 1, 0)", ("ENOSYS",), "some"),
    Row("K07 perf", "syscall(@perf_event_open@, 0, 0, 0, 0, 0)", ("EPERM",), "some"),
    Row("K07 userfaultfd", "syscall(@userfaultfd@, 0x80001)", ("EPERM",), "some"),
    Row("K08 crypto", "made(38, 5, 0)", ("EAFNOSUPPORT",), "some"),
    Row("K08 RxRPC", "made(33, 2, 0)", ("EAFNOSUPPORT",), "some"),
    Row("K08 SCTP", "made(2, 1, 132)", ("EPROTONOSUPPORT",), "some"),
    Row("K09 kernel TLS", "upper_layer()", ("ENOPROTOOPT",)),
    Row("K10 out of band", "out_of_band()", ("ENOTSUP",), "some"),
    Row("K10 watch queue", "syscall(@pipe2@, (ctypes.c_int * 2)(), 0x80)", ("ENOPKG",), "some"),
    Row("K10 requeue", "syscall(@futex@, 0, 11, 0, 0, 0, 0)", ("ENOSYS",)),
    Row("K11 keyring", "syscall(@keyctl@, 0, (1 << 64) - 3, 0)", ("ENOSYS",)),
    Row("K11 key", "syscall(@add_key@, b'user', b'a', b'b', 1, (1 << 64) - 2)", ("ENOSYS",)),
    Row("K12 kcmp", "syscall(@kcmp@, os.getpid(), os.getpid(), 0, 0, 0)", ("EPERM",), "some"),
    Row("K12 process_madvise", "syscall(@process_madvise@, (1 << 64) - 1, 0, 0, 0, 0)", ("ENOSYS",)),
    Row("K13 handles", "handle()", ("ENOTSUP",), "some"),
    Row("K13 fanotify", "syscall(@fanotify_init@, 0x200, 0) > 0", ("EPERM",), "some"),
    Row("K15 clock", "syscall(@adjtimex@, (ctypes.c_char * 512)())", ("EPERM",)),
    Row("K15 name", "syscall(@sethostname@, b'x', 1)", ("EPERM",), harmful=True),
    Row("K16 personality", "child(lambda: syscall(@personality@, 0x400000))", ("EPERM",)),
    Row("K16 LDT", "syscall(@modify_ldt@, 0, 0, 0)", ("ENOSYS",), "some"),
    Row("K16 NUMA", "syscall(@get_mempolicy@, 0, 0, 0, 0, 0)", ("ENOSYS",), "some"),
    Row("K17 listener", "syscall(@seccomp@, 1, 8, 0)", ("EBUSY",)),
    Row("K17 vmsplice", "syscall(@vmsplice@, (1 << 64) - 1, 0, 0, 0)", ("ENOSYS",)),
    Row("R13 huge pages", "huge() != 0", ("ENOMEM",), "some"),
    Row("R13 huge files", "syscall(@memfd_create@, b'huge', 4) > 0", ("EINVAL",), "some"),
    Row("R13 events of AIO", "syscall(@io_setup@, 1, ctypes.byref(ctypes.c_ulong(0)))", ("ENOSYS",), "some"),
    # priorities, and what all sandboxes see
    Row("R10 real time", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", ("EPERM",), "root"),
    Row("R10 niceness", "os.setpriority(os.PRIO_PROCESS, 0, -1)", ("EACCES", "EPERM"), "root"),
    Row("R10 OOM killer", "open('/proc/self/oom_score_adj', 'w', buffering=1).write('-900\\n')", ("EACCES",), "some"),
    Row("X03 lease", "leased(1024, 1)", ("EINVAL",)),
    Row("X03 dnotify", "leased(1026, 1)", ("EINVAL",), "some"),
)  # fmt: skip


@contextlib.contextmanager
def canaries(directory: Path) -> Iterator[dict[str, object]]:
    """What is to be found on the host: a file, a process with a variable, and servers."""
    for path in (directory, *directory.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o755)  # pytest's are 0700: they would be hidden by that alone
    word = f"nsbox-canary-{os.getpid()}"
    (directory / "file").write_text(word)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("", 0)))
        for address in (f"\0{word}", str(directory / "socket")):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.bind(address)
            one.listen()
        holder = stack.enter_context(
            subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env={"CANARY": word}, pass_fds=(tcp.fileno(),))
        )
        yield {"file": str(directory / "file"), "socket": str(directory / "socket"), "word": word,
               "port": tcp.getsockname()[1], "pid": holder.pid}  # fmt: skip


def numbered(text: str, canary: Mapping[str, object] | None = None) -> str:
    """The text with this machine's numbers, and where the canaries are."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "CANARY":
            return repr(json.dumps(canary))
        number = syscall_number(match[1])
        assert number is not None, match[1]
        return str(number)

    return re.sub(r"@(\w+)@", value, text)


def program(canary: Mapping[str, object], *, harmful: bool = True) -> str:
    """All questions, or those alone that change nothing of the machine that answers them."""
    rows = [row for row in ROWS if harmful or not row.harmful]
    asked = "".join(f"ask({row.claim!r}, lambda: {row.question})\n" for row in rows)
    return numbered(HELPERS + asked, canary)


def in_plain_namespaces(questions: str) -> dict[str, Any]:
    """The answers in what `unshare` makes, with an inherited descriptor as careless callers leave them."""
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        done = subprocess.run(
            [*UNSHARE, sys.executable, "-c", ASK + questions + TELL], capture_output=True, text=True, timeout=60,
            check=True, pass_fds=(extra,),
        )  # fmt: skip
    finally:
        os.close(extra)
    return dict(json.loads(done.stdout))


def test_no_way_out_is_open(tmp_path: Path) -> None:
    """S02, S09, S10, S11, F01, F02, F03, F04, F05, F06, F07, F09, I01, I02, I03, I04, N01, N02, N03, N05, N06, N07,
    K01, K02, K04, K05, K06, K07, K08, K09, K10, K11, K12, K13, K15, K16, K17, P03, R10, R13, X03: every row
    has one of its answers, in each kind of namespace; the same program outside gets others.
    """
    with canaries(tmp_path) as canary:
        questions = program(canary)
        controls = (outside(program(canary, harmful=False)), in_plain_namespaces(questions))
        with nsbox.Sandbox() as sandbox:
            found = inside(sandbox, questions)
    assert {row.claim: found[row.claim] for row in ROWS if found[row.claim] not in row.answers} == {}
    held = {"anybody": True, "root": os.geteuid() == 0, "some": False}
    for row in ROWS:
        answers = [control[row.claim] for control in controls if row.claim in control]
        if held[row.control]:
            assert any(answer not in row.answers for answer in answers), (row, answers)


KILLED = tuple(
    call for call, rules in load_policy("default").rules.items()
    if any(rule.answer == "kill" for rule in rules) and syscall_number(call) is not None
)  # fmt: skip
FOREIGN = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex({code!r}))
where = ctypes.addressof(ctypes.c_char.from_buffer(code))
print('called', ctypes.CFUNCTYPE(ctypes.c_long)(where)() != 0)
"""
TABLES = {
    "i386": "b814000000cd80c3",  # mov eax, 20 (getpid); int 0x80; ret
    "x32": "b8270000400f05c3",  # mov eax, 0x40000000 | 39 (getpid); syscall; ret
}


def test_every_call_that_only_an_attack_makes_is_the_last_one() -> None:
    """K12, K13, K14: each of them by itself ends its execution as SECURITY_VIOLATION, named; what stands behind it in
    the program never runs. The control is a call of no harm in the same place.
    """
    code = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.syscall({}, 0, 0, 0, 0, 0, 0)\nprint('went on')"
    assert nsbox.execute(code.format(syscall_number("getpid"))).stdout == "went on\n"
    assert len(KILLED) >= 30
    wrong = {}
    for call in KILLED:
        result = nsbox.execute(code.format(syscall_number(call)))
        if (result.verdict, result.stdout, result.evidence.get("syscall")) != (Verdict.SECURITY_VIOLATION, "", call):
            wrong[call] = (result.verdict, result.stdout)
    assert wrong == {}


@pytest.mark.parametrize("table", TABLES)
def test_no_other_table_of_system_calls_leads_around_the_filter(table: str) -> None:
    """K03: getpid by int 0x80 or by x32's number is the last call, though getpid is allowed; the same instructions
    with the machine's own table are its control, and outside the foreign one is answered.
    """
    own = FOREIGN.format(code="b8270000000f05c3")
    foreign = FOREIGN.format(code=TABLES[table])
    ran = subprocess.run([sys.executable, "-c", foreign], capture_output=True, text=True, check=False, timeout=30)
    assert ran.stdout in {"called True\n", ""}  # no answer: a kernel without that table ends the program itself
    assert nsbox.execute(own).stdout == "called True\n"
    result = nsbox.execute(foreign)
    assert (result.verdict, result.stdout) == (Verdict.SECURITY_VIOLATION, "")
    assert (result.evidence["syscall"], result.evidence["syscall_architecture"]) == ("getpid", table)


BEHIND = """
def made_by(call):
    def attempt():
        if call() < 0:
            raise OSError(ctypes.get_errno(), 'refused')
    return child(attempt)
own = os.getpid()
ask('mount', lambda: made_by(lambda: libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)))
ask('bind', lambda: made_by(lambda: libc.mount(b'/usr', b'/tmp', None, 4096, None)))
ask('remount', lambda: made_by(lambda: libc.mount(None, b'/usr', None, 4096 | 32, None)))
ask('share', lambda: made_by(lambda: libc.mount(None, b'/', None, 0x4000 | 1 << 20, None)))
ask('umount2', lambda: made_by(lambda: libc.umount2(b'/proc', 2)))
ask('pivot_root', lambda: syscall(@pivot_root@, b'/tmp', b'/tmp'))
ask('open_tree', lambda: syscall(@open_tree@, (1 << 64) - 100, b'/usr', 1) > 0)
ask('move_mount', lambda: syscall(@move_mount@, (1 << 64) - 100, b'/usr', (1 << 64) - 100, b'/tmp', 0))
ask('fsopen', lambda: syscall(@fsopen@, b'tmpfs', 0) > 0)
ask('fspick', lambda: syscall(@fspick@, (1 << 64) - 100, b'/tmp', 0) > 0)
ask('mount_setattr', lambda: syscall(@mount_setattr@, (1 << 64) - 100, b'/usr', 0, (ctypes.c_ulonglong * 4)(0, 1), 32))
for kind in ('user', 'mnt', 'net', 'pid', 'ipc', 'uts', 'cgroup', 'time'):
    ask('setns ' + kind, lambda: made_by(lambda: libc.setns(os.open('/proc/self/ns/' + kind, os.O_RDONLY), 0)))
ask('ptrace init', lambda: syscall(@ptrace@, 16, 1, 0, 0))
kept = ctypes.create_string_buffer(8)
here = (ctypes.c_ulong * 2)(ctypes.addressof(kept), 8)
ask('read init', lambda: syscall(@process_vm_readv@, 1, here, 1, here, 1, 0))
ask('handle', lambda: syscall(@open_by_handle_at@, 0, (ctypes.c_int * 4)(8, 1), 0))
ask('modules', lambda: syscall(@init_module@, 0, 0, 0))
ask('unload', lambda: syscall(@delete_module@, b'no_such_module', 0o4000))
ask('kexec', lambda: syscall(@kexec_load@, 0, 0, 0, 0))
ask('swapon', lambda: syscall(@swapon@, b'/tmp/none', 0))
ask('swapoff', lambda: syscall(@swapoff@, b'/tmp/none'))
ask('acct', lambda: syscall(@acct@, b'/tmp/none'))
ask('iopl', lambda: syscall(@iopl@, 3))
"""
OPEN = (
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fspick", "mount_setattr", "setns", "ptrace",
    "process_vm_readv", "open_by_handle_at", "init_module", "delete_module", "kexec_load", "swapon", "swapoff", "acct",
    "iopl",
)  # fmt: skip
REFUSED = {"EPERM", "ESRCH", "ENOSYS"}  # the last by kernels that are built without it, modules for example


def test_the_kernel_refuses_it_with_the_filter_out_of_the_way(tmp_path: Path) -> None:
    """F08, F10, K12, K13, K14: mounts old and new, namespaces, other processes, modules: EPERM, or no such process; in
    plain namespaces mounting by each way and entering is carried out.
    """
    questions = numbered(HELPERS + BEHIND, {})
    control = in_plain_namespaces(questions)
    works = {"mount", "bind", "share", "open_tree", "fsopen", "fspick", "setns mnt", "setns net", "setns uts"}
    assert {name for name in works if control[name] not in (0, True)} == set()
    with nsbox.Sandbox(security=policy(tmp_path, *OPEN)) as sandbox:
        found = inside(sandbox, questions)
    assert found.pop("setns user") == "EINVAL"  # its own it is in already, setns(2)
    assert {name: answer for name, answer in found.items() if answer not in REFUSED} == {}
    assert {found[name] for name in works} == {"EPERM"}
