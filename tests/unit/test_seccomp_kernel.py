"""The syscall filters in the kernel: every number, the arguments of known attacks, foreign tables, and real programs.

seccomp_probe.c loads the compiled filter with its listener and asks; no launcher is involved.
"""

import errno
import platform
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nsbox._seccomp import abi_name, compile_policy, load_policy, syscall_name
from nsbox._seccomp.syscalls import ARCH_I386, ARCH_X86_64, X32_BIT, syscall_number

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="seccomp_probe.c speaks x86_64's registers"),
    pytest.mark.needs_tool("gcc"),
]

PolicyName = Literal["default", "strict"]
POLICIES: tuple[PolicyName, ...] = ("default", "strict")
ALL_ONES = (0xFFFF_FFFF_FFFF_FFFF,) * 6
HIGH = 1 << 32  # a bit that the kernel does not see in an int
PASSED_BY_THE_KERNEL = {"uretprobe", "uprobe"}  # kernel/seccomp.c lets these past every filter, since Linux 6.14, 6.18


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A system call to ask about."""

    number: int
    arguments: tuple[int, ...] = ALL_ONES
    i386: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The compiled seccomp_probe and a directory for filters."""

    program: Path
    directory: Path

    def filter_file(self, policy: PolicyName | None) -> str:
        """Write a policy's BPF to a file; "-" for no filter."""
        if policy is None:
            return "-"
        path = self.directory / policy
        path.write_bytes(compile_policy(policy).bpf)
        return str(path)

    def ask(self, policy: PolicyName | None, requests: Sequence[Request]) -> list[str]:
        """Return the kernel's answer to each: "allow", "kill TABLE NUMBER", an errno's name, or "signal N"."""
        packed = b"".join(struct.pack("=Qq6Q", r.i386, r.number, *r.arguments) for r in requests)
        command = [str(self.program), "ask", self.filter_file(policy)]
        done = subprocess.run(command, input=packed, capture_output=True, check=False, timeout=110)
        assert (done.returncode, done.stderr) == (0, b"")
        answers = []
        for kind, value, arch, number in struct.iter_unpack("=IiIi", done.stdout):
            texts = {
                1: "allow",
                2: errno.errorcode.get(value, str(value)),
                4: f"signal {value}",
                5: f"returned {value}",
            }
            answers.append(f"kill {abi_name(number, arch)} {number & ~X32_BIT}" if kind == 3 else texts[kind])
        assert len(answers) == len(requests)
        return answers

    def run(self, policy: PolicyName | None, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program under a policy; status 99 and KILLED on stderr if the filter ends it."""
        command = [str(self.program), "run", self.filter_file(policy), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, cwd=cwd)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Compile seccomp_probe.c."""
    directory = tmp_path_factory.mktemp("seccomp")
    program = directory / "seccomp_probe"
    source = Path(__file__).with_name("seccomp_probe.c")
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)], check=True, timeout=60
    )
    return Probe(program=program, directory=directory)


def errno_name(answer: str) -> str:
    """Give an errno of the policy the name that errno.errorcode has for its number."""
    return errno.errorcode[getattr(errno, answer)] if answer.startswith("E") else answer


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("arguments", [ALL_ONES, (0,) * 6], ids=["ones", "zeros"])
def test_the_kernel_answers_every_number_as_the_policy_file_says(
    probe: Probe, policy: PolicyName, arguments: tuple[int, ...]
) -> None:
    """K02: for 0..600 the loaded filter gives the file's answer; without it, all of them would be carried out."""
    requests = [Request(number=number, arguments=arguments) for number in range(601)]
    names = [syscall_name(number, ARCH_X86_64) for number in range(601)]
    unfiltered = probe.ask(None, requests)
    assert {name for name, answer in zip(names, unfiltered, strict=True) if answer != "allow"} <= PASSED_BY_THE_KERNEL
    rules = load_policy(policy)
    for number, (name, control, answer) in enumerate(
        zip(names, unfiltered, probe.ask(policy, requests), strict=True),
    ):
        decided = errno_name(rules.decide(name, arguments))
        expected = f"kill x86_64 {number}" if decided == "kill" else decided
        assert answer == (expected if control == "allow" else control), name


@pytest.mark.parametrize("policy", POLICIES)
def test_foreign_system_call_tables_are_killed(probe: Probe, policy: PolicyName) -> None:
    """K03: int 0x80 and x32 calls reach the listener with their number, whatever it is; without a filter they run."""
    i386 = [Request(number=number, i386=True) for number in range(480)]
    x32 = [Request(number=number | X32_BIT) for number in range(601)]
    assert set(probe.ask(None, [*i386, *x32])) == {"allow"}
    assert probe.ask(policy, i386) == [f"kill i386 {number}" for number in range(480)]
    assert probe.ask(policy, x32) == [f"kill x32 {number}" for number in range(601)]


@pytest.mark.parametrize(
    ("table", "number", "name"),
    [("i386", 20, "getpid"), ("x32", 39, "getpid"), ("native", 101, "ptrace"), ("native", 165, "mount")],
)
def test_a_program_that_makes_a_forbidden_call_is_stopped_in_it_and_named(
    probe: Probe, table: str, number: int, name: str
) -> None:
    """The caller waits inside the call until it is killed: the print after it is never reached, as it is without."""
    call = [str(probe.program), "call", table, str(number)]
    control = probe.run(None, *call)
    assert control.returncode == 0
    assert control.stdout.strip() != ""
    killed = probe.run("default", *call)
    assert (killed.returncode, killed.stdout) == (99, "")
    reported_number, reported_arch = killed.stderr.removeprefix("KILLED").split()
    assert syscall_name(int(reported_number), int(reported_arch, 0)) == name
    assert abi_name(int(reported_number), int(reported_arch, 0)) == ("x86_64" if table == "native" else table)


@pytest.mark.parametrize(("table", "number"), [("i386", 20), ("x32", 39), ("native", 101)])
def test_without_anybody_at_the_listener_a_forbidden_call_fails_and_is_not_carried_out(
    probe: Probe, table: str, number: int
) -> None:
    """Fail-closed: should the launcher die, the kernel answers ENOSYS; an allowed call is carried out all the same."""

    def returned(*call: str) -> int:
        command = [str(probe.program), "orphan", probe.filter_file("default"), str(probe.program), "call", *call]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert returned("native", "39") > 0  # getpid
    assert returned(table, str(number)) == -errno.ENOSYS


# (claim, call, arguments, answer of default); each "allow" is the control of the refusals around it
ARGUMENTS: list[tuple[str, str, tuple[int, ...], str]] = [
    ("K05 TIOCSTI", "ioctl", (0, 0x5412), "EPERM"),
    ("K04 TIOCSTI with a high bit", "ioctl", (0, 0x5412 | HIGH), "EPERM"),
    ("K04 TIOCSTI, sign-extended", "ioctl", (0, 0x5412 | 0xFFFF_FFFF << 32), "EPERM"),
    ("K05 TIOCLINUX", "ioctl", (0, 0x541C | HIGH), "EPERM"),
    ("K05 TIOCSETD", "ioctl", (0, 0x5423), "EPERM"),
    ("TCGETS", "ioctl", (0, 0x5401), "allow"),
    ("TIOCGWINSZ", "ioctl", (0, 0x5413), "allow"),
    ("AF_UNIX stream", "socket", (1, 1, 0), "allow"),
    ("AF_UNIX datagram, cloexec", "socket", (1, 2 | 0o2000000, 0), "allow"),
    ("AF_UNIX raw", "socket", (1, 3, 0), "EPERM"),
    ("AF_INET TCP", "socket", (2, 1 | 0o2000000 | 0o4000, 6), "allow"),
    ("AF_INET6 UDP", "socket", (10, 2, 17), "allow"),
    ("ping", "socket", (2, 2, 1), "allow"),
    ("N05 AF_INET raw", "socket", (2, 3, 255), "EPERM"),
    ("K04 AF_INET raw with high bits", "socket", (2 | HIGH, 3 | HIGH, 0), "EPERM"),
    ("raw with flags", "socket", (10, 3 | 0o2000000, 58), "EPERM"),
    ("SOCK_PACKET", "socket", (2, 10, 0), "EPERM"),
    ("SCTP seqpacket", "socket", (2, 5, 132), "ESOCKTNOSUPPORT"),
    ("SCTP stream", "socket", (2, 1, 132), "EPROTONOSUPPORT"),
    ("MPTCP", "socket", (2, 1, 262), "EPROTONOSUPPORT"),
    ("NETLINK_ROUTE", "socket", (16, 3 | 0o2000000, 0), "allow"),
    ("NETLINK_AUDIT", "socket", (16, 3, 9), "EPROTONOSUPPORT"),
    ("NETLINK_NETFILTER", "socket", (16, 3, 12), "EPROTONOSUPPORT"),
    ("NETLINK_XFRM", "socket", (16, 2, 6 | HIGH), "EPROTONOSUPPORT"),
    ("K08 AF_PACKET", "socket", (17, 3, 0), "EAFNOSUPPORT"),
    ("K08 AF_ALG", "socket", (38, 5, 0), "EAFNOSUPPORT"),
    ("K04 AF_ALG with a high bit", "socket", (38 | HIGH, 5, 0), "EAFNOSUPPORT"),
    ("K08 AF_VSOCK", "socket", (40, 1, 0), "EAFNOSUPPORT"),
    ("K08 AF_RXRPC", "socket", (33, 2, 0), "EAFNOSUPPORT"),
    ("K08 AF_XDP", "socket", (44, 3, 0), "EAFNOSUPPORT"),
    ("K08 AF_TIPC", "socket", (30, 1, 0), "EAFNOSUPPORT"),
    ("AF_UNSPEC", "socket", (0, 1, 0), "EAFNOSUPPORT"),
    ("pair of AF_UNIX", "socketpair", (1, 1, 0), "allow"),
    ("pair of AF_TIPC", "socketpair", (30, 1, 0), "EOPNOTSUPP"),
    ("K09 TCP_ULP", "setsockopt", (3, 6, 31), "ENOPROTOOPT"),
    ("K09 TCP_ULP with high bits", "setsockopt", (3, 6 | HIGH, 31 | HIGH), "ENOPROTOOPT"),
    ("TCP_NODELAY", "setsockopt", (3, 6, 1), "allow"),
    ("31 of SOL_SOCKET", "setsockopt", (3, 1, 31), "allow"),
    ("IPT_SO_SET_REPLACE", "setsockopt", (3, 0, 64), "EPERM"),
    ("K10 send MSG_OOB", "sendto", (3, 0, 0, 1, 0, 0), "EOPNOTSUPP"),
    ("K10 send MSG_OOB among others", "sendto", (3, 0, 0, 0x4001 | HIGH, 0, 0), "EOPNOTSUPP"),
    ("send MSG_NOSIGNAL", "sendto", (3, 0, 0, 0x4000, 0, 0), "allow"),
    ("K10 recv MSG_OOB", "recvfrom", (3, 0, 0, 1, 0, 0), "EOPNOTSUPP"),
    ("recv MSG_PEEK", "recvfrom", (3, 0, 0, 2, 0, 0), "allow"),
    ("K10 sendmsg MSG_OOB", "sendmsg", (3, 0, 1), "EOPNOTSUPP"),
    ("sendmsg", "sendmsg", (3, 1, 0), "allow"),
    ("K10 recvmsg MSG_OOB", "recvmsg", (3, 0, 1), "EOPNOTSUPP"),
    ("K10 sendmmsg MSG_OOB", "sendmmsg", (3, 0, 1, 1), "EOPNOTSUPP"),
    ("K10 recvmmsg MSG_OOB", "recvmmsg", (3, 0, 1, 1), "EOPNOTSUPP"),
    ("K10 watch queue", "pipe2", (0, 0x80), "ENOPKG"),
    ("pipe2 O_CLOEXEC", "pipe2", (0, 0o2000000), "allow"),
    ("K10 FUTEX_WAIT_REQUEUE_PI", "futex", (0, 11), "ENOSYS"),
    ("K10 FUTEX_CMP_REQUEUE_PI, private", "futex", (0, 12 | 128), "ENOSYS"),
    ("K10 FUTEX_WAIT_REQUEUE_PI, realtime", "futex", (0, 11 | 256 | 128 | HIGH), "ENOSYS"),
    ("FUTEX_WAIT private", "futex", (0, 128), "allow"),
    ("FUTEX_LOCK_PI", "futex", (0, 6), "allow"),
    ("fork", "clone", (0x01200011,), "allow"),
    ("thread", "clone", (0x003D0F00,), "allow"),
    ("K01 clone NEWUSER", "clone", (0x10000011,), "EPERM"),
    ("K01 clone NEWNET", "clone", (0x40000011,), "EPERM"),
    ("K01 clone NEWNS with a high bit", "clone", (0x00020011 | HIGH,), "EPERM"),
    ("clone3", "clone3", (0, 88), "ENOSYS"),
    ("K01 unshare NEWUSER", "unshare", (0x10000000,), "EPERM"),
    ("K01 unshare NEWTIME", "unshare", (0x80 | HIGH,), "EPERM"),
    ("unshare FS and FILES", "unshare", (0x600,), "allow"),
    ("X03 F_SETLEASE", "fcntl", (3, 1024 | HIGH), "EINVAL"),
    ("X03 F_NOTIFY", "fcntl", (3, 1026), "EINVAL"),
    ("F_SETFL", "fcntl", (3, 4), "allow"),
    ("F_SETPIPE_SZ", "fcntl", (3, 1031), "allow"),
    ("K16 ADDR_NO_RANDOMIZE", "personality", (0x40000,), "EPERM"),
    ("K16 READ_IMPLIES_EXEC", "personality", (0x400000 | HIGH,), "EPERM"),
    ("personality query", "personality", (0xFFFF_FFFF,), "allow"),
    ("PER_LINUX", "personality", (0,), "allow"),
    ("PR_SET_MM", "prctl", (35 | HIGH, 1), "EPERM"),
    ("PR_SCHED_CORE", "prctl", (62,), "EINVAL"),
    ("PR_SET_NAME", "prctl", (15,), "allow"),
    ("second listener", "seccomp", (1, 8), "EBUSY"),
    ("F05 block device", "mknodat", (3, 0, 0x61B0), "EPERM"),
    ("F05 character device", "mknod", (0, 0x21B6 | HIGH), "EPERM"),
    ("FIFO", "mknodat", (3, 0, 0x11B6), "allow"),
]


def test_the_kernel_answers_the_arguments_of_known_attacks_as_written_here(probe: Probe) -> None:
    """K04, K05, K08 to K10, K16: each refusal beside the honest use of the same call; strict is never laxer."""
    requests = []
    for _, call, arguments, _ in ARGUMENTS:
        number = syscall_number(call)
        assert number is not None
        requests.append(Request(number=number, arguments=(*arguments, *(0,) * (6 - len(arguments)))))
    assert set(probe.ask(None, requests)) == {"allow"}
    answers = dict(zip((claim for claim, *_ in ARGUMENTS), probe.ask("default", requests), strict=True))
    assert answers == {claim: errno_name(answer) for claim, _, _, answer in ARGUMENTS}
    strict = dict(zip((claim for claim, *_ in ARGUMENTS), probe.ask("strict", requests), strict=True))
    assert {claim for claim, answer in strict.items() if answer == "allow"} < {
        claim for claim, answer in answers.items() if answer == "allow"
    }
    assert strict["AF_INET TCP"] == "EAFNOSUPPORT"


PYTHON = """
import asyncio, multiprocessing, os, socket, subprocess, sys, tempfile, threading, json, sqlite3, random, time
def square(n):
    return n * n
async def main():
    process = await asyncio.create_subprocess_exec("/bin/echo", "async", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().strip(), await asyncio.to_thread(square, 7)
if __name__ == "__main__":
    threads = [threading.Thread(target=square, args=(i,)) for i in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(subprocess.run(["/bin/sh", "-c", "echo sub | cat"], capture_output=True, text=True).stdout.strip())
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, range(4)))
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.dict(); shared["a"] = 1; print(dict(shared))
    print(*asyncio.run(main()))
    name = tempfile.mktemp(); database = sqlite3.connect(name); database.execute("create table t(a)"); database.commit()
    database.close(); os.unlink(name)
    a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1))
    os.sync()
"""
PYTHON_OUTPUT = "sub\n[0, 1, 4, 9]\n{'a': 1}\nasync 49\nb'x'\n"


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_python_with_threads_processes_and_event_loops_runs(
    probe: Probe, policy: PolicyName | None, tmp_path: Path
) -> None:
    """CPython's own ways to concurrency work under both policies as they do without."""
    (tmp_path / "program.py").write_text(PYTHON)
    done = probe.run(policy, sys.executable, "program.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, PYTHON_OUTPUT, "")


DEB = """
mkdir -p p/DEBIAN
printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: m\\nDescription: d\\n' > p/DEBIAN/control
dpkg-deb -b p >/dev/null && dpkg-deb -f p.deb Package
"""
TAR = """
mkdir d && touch d/f && mkfifo d/p
tar cf d.tar d && rm -r d && tar xpf d.tar && ls d | xargs
"""
TOOLS = {
    "bash": ("x=$(seq 3 | tac | xargs); (sleep 0 & wait); read y < <(echo $x); echo $y", "3 2 1\n"),
    "gcc": ("echo 'int puts(const char *);int main(){puts(\"hi\");}' > a.c; gcc a.c -o a && ./a", "hi\n"),
    "git": ("git init -q . && echo a > f && git add f && git status --short", "A  f\n"),
    "tar": (TAR, "f p\n"),
    "dpkg-deb": (DEB, "p\n"),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_an_ordinary_tool_runs(probe: Probe, policy: PolicyName | None, tool: str, tmp_path: Path) -> None:
    """Interpreters, compilers and archivers work under both policies as they do without."""
    script, output = TOOLS[tool]
    done = probe.run(policy, "bash", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_a_loopback_server_runs_under_default_and_strict_has_no_network(probe: Probe) -> None:
    """TCP on the loopback is ordinary; strict answers as a kernel without INET would."""
    program = (
        "import socket, threading, os\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "threading.Thread(target=lambda: s.accept()[0].sendall(b'hello')).start()\n"
        "print(socket.create_connection(s.getsockname()).recv(5).decode(), socket.if_nameindex()[0][1])\n"
    )
    policies: tuple[PolicyName | None, ...] = (None, "default")
    for policy in policies:
        assert probe.run(policy, sys.executable, "-c", program).stdout == "hello lo\n"
    assert f"OSError: [Errno {errno.EAFNOSUPPORT}]" in probe.run("strict", sys.executable, "-c", program).stderr


@pytest.mark.needs_root
def test_typing_into_the_terminal_is_refused_also_with_a_high_bit(probe: Probe) -> None:
    """K04, K05: TIOCSTI on a real pty, by the raw system call; without the filter the kernel's own answer comes."""
    program = (
        "import ctypes, errno, os, pty, sys\n"
        "master, slave = pty.openpty()\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"number = {syscall_number('ioctl')}\n"
        "for request in (0x5412, 0x5412 | 1 << 32):\n"
        "    result = libc.syscall(number, slave, ctypes.c_ulong(request), ctypes.c_char_p(b'x'))\n"
        "    print('done' if result == 0 else errno.errorcode[ctypes.get_errno()])\n"
    )
    control = probe.run(None, sys.executable, "-c", program).stdout.split()
    assert control in (["done", "done"], ["EIO", "EIO"])  # the latter without CAP_SYS_ADMIN, since Linux 6.2
    assert probe.run("default", sys.executable, "-c", program).stdout.split() == ["EPERM", "EPERM"]


@pytest.mark.needs_tool("unshare")
def test_a_nested_sandbox_is_told_no_and_not_killed(probe: Probe) -> None:
    """K01: unshare(1) makes a user namespace here, and under each policy gets EPERM, which honest tools handle."""
    assert probe.run(None, "unshare", "--user", "true").returncode == 0
    for policy in POLICIES:
        refused = probe.run(policy, "unshare", "--user", "true")
        assert refused.returncode == 1
        assert "Operation not permitted" in refused.stderr


@pytest.mark.needs_tool("strace")
def test_a_debugger_is_killed(probe: Probe) -> None:
    """K12: strace works here, and under the filter its first ptrace ends it, in a grandchild too."""
    assert probe.run(None, "strace", "-o", "/dev/null", "true").returncode == 0
    killed = probe.run("default", "sh", "-c", "strace -o /dev/null true; echo survived")
    assert (killed.returncode, killed.stdout) == (99, "")
    number, arch = killed.stderr.split("KILLED")[1].split()
    assert syscall_name(int(number), int(arch, 0)) == "ptrace"
    assert int(arch, 0) == ARCH_X86_64 != ARCH_I386
