"""What root inside, in a sandbox with a writable root, has, and what stays out of reach all the same."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from probing import inside, outside, policy

import nsbox
from nsbox import Mount, Verdict
from nsbox._plan.identity import INIT_ID, RANGE_FIRST
from nsbox._plan.writable import ROOT_CAPABILITIES

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

CAPABILITIES = """
import glob
def sets(pid):
    lines = (line.split(':') for line in read(f'/proc/{pid}/status').splitlines())
    return {name: int(value, 16) for name, value in lines if name.startswith('Cap')}
ask('own', lambda: sets('self'))
def after(*change):
    pid = os.fork()
    if pid == 0:
        for one in change:
            one()
        os.execlp('grep', 'grep', '^Cap', '/proc/self/status')
    os.waitpid(pid, 0)
"""


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(writable_root=True, timeout=60) as sandbox:
        yield sandbox


def test_root_inside_has_the_documented_capabilities_and_nobody_else_any(sandbox: nsbox.Sandbox) -> None:
    """S20: seven, effective, permitted and bounding; others none in any set; none without a writable root."""
    text = (Path(__file__).parents[2] / "docs/root-inside.md").read_text()
    assert all(f"`{name}`" in text for name in ROOT_CAPABILITIES)
    mask = sum(1 << number for number in ROOT_CAPABILITIES.values())
    assert mask == 0xFB
    none = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0}
    assert inside(sandbox, CAPABILITIES, user="root")["own"] == none | {"CapPrm": mask, "CapEff": mask, "CapBnd": mask}
    for user in (None, "nobody", 1234):
        assert inside(sandbox, CAPABILITIES, user=user)["own"] == none
    with nsbox.Sandbox(timeout=60) as plain:
        assert inside(plain, CAPABILITIES, user="root")["own"] == none


def test_who_was_root_inside_has_nothing_left(sandbox: nsbox.Sandbox) -> None:
    """S20: after setuid, exec and a set-uid program of root's no capability is effective or permitted any more."""
    questions = """
os.chmod('/usr/bin/grep', 0o4755)
os.setgid(1000), os.setuid(1000)
ask('setuid', lambda: sorted(set(line.split()[1] for line in read('/proc/self/status').splitlines()
                                 if line.startswith(('CapPrm', 'CapEff')))))
import subprocess
ask('exec', lambda: subprocess.run(['/usr/bin/grep', '-E', '^(CapPrm|CapEff|Uid)', '/proc/self/status'],
                                   capture_output=True, text=True).stdout.split())
ask('back', lambda: os.setuid(0))
ask('write', lambda: opens('/etc/passwd', os.O_WRONLY))
"""
    none = "0" * 16
    found = inside(sandbox, questions, user="root")
    assert found["setuid"] == [none]
    assert found["exec"] == ["Uid:", *["1000"] * 4, "CapPrm:", none, "CapEff:", none]
    assert (found["back"], found["write"]) == ("EPERM", "EACCES")


PID_ONE = """
buffer = ctypes.create_string_buffer(8)
iov = struct.pack('QQ', ctypes.addressof(buffer), 8)
def of(pid):
    ask(f'{pid} exists', lambda: os.path.exists(f'/proc/{pid}'))
    for name in ('environ', 'mem', 'maps', 'fd', 'root', 'cwd', 'exe', 'ns/user'):
        path = f'/proc/{pid}/{name}'
        look = os.listdir if name == 'fd' else os.readlink if name in ('root', 'cwd', 'exe', 'ns/user') else read_byte
        ask(f'{pid} {name}', lambda: bool(look(path)) or True)
    ask(f'{pid} prlimit', lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (100, 100)) and 'done')
    ask(f'{pid} priority', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19) or 'done')
    ask(f'{pid} affinity', lambda: os.sched_setaffinity(pid, {0}) or 'done')
    ask(f'{pid} ptrace', lambda: call(101, 0x4206, pid, 0, 0) and 0 or 'done')  # PTRACE_SEIZE
    ask(f'{pid} vm', lambda: call(310, pid, iov, 1, iov, 1, ctypes.c_long(0)) and 'done')  # process_vm_readv
    ask(f'{pid} getfd', lambda: call(438, os.pidfd_open(pid), 1, 0) and 0 or 'done')  # pidfd_getfd
def read_byte(path):
    with open(path, 'rb') as file:
        return file.read(0)
"""
OWN_CHILD = """
child = os.fork()
if child == 0:
    time.sleep(60)
of(child)
ask('kill', lambda: os.kill(child, 9) or os.waitpid(child, 0)[1])
"""


def test_pid_1_is_out_of_reach_for_root_inside(tmp_path: Path) -> None:
    """S21: it cannot be killed, stopped, limited, slowed, traced or looked into, by any uid; one's own child can."""
    names = ("environ", "mem", "maps", "fd", "root", "cwd", "exe", "ns/user")
    deeds = ("prlimit", "priority", "affinity", "ptrace", "vm", "getfd")
    rules = policy(tmp_path, "ptrace", "process_vm_readv", "pidfd_getfd", "prlimit64")
    with nsbox.Sandbox(writable_root=True, timeout=60, security=rules) as sandbox:
        found = inside(sandbox, PID_ONE + OWN_CHILD.replace("of(child)", "pid = child\nof(pid)"), user="root")
        child = next(key.split()[0] for key in found if key.endswith(" exists"))
        assert all(found[f"{child} {name}"] is True for name in names), found
        assert {deed: found[f"{child} {deed}"] for deed in deeds} == dict.fromkeys(deeds, "done")
        for become in ("", "os.setgid(1000), os.setuid(1000)\n", "os.setgid(65534), os.setuid(65534)\n"):
            found = inside(sandbox, f"{PID_ONE}{become}of(1)\n", user="root")
            assert found.pop("1 exists") is False
            assert {found[f"1 {name}"] for name in names} <= {"ENOENT"}, found
            assert {found[f"1 {deed}"] for deed in deeds} <= {"EPERM"}, found
        questions = f"""
ask('setuid', lambda: os.setuid({INIT_ID}))
ask('setgid', lambda: os.setgid({INIT_ID}))
ask('setreuid', lambda: os.setreuid({INIT_ID}, 0))
ask('chown', lambda: os.chown('/usr/bin/env', {INIT_ID}, {INIT_ID}))
ask('control', lambda: os.chown('/usr/bin/env', {INIT_ID - 1}, {INIT_ID + 1}))
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGXCPU, signal.SIGCHLD, signal.SIGSEGV):
    ask('signal', lambda: os.kill(1, number))  # EPERM where Landlock keeps executions apart
"""
        found = inside(sandbox, questions, user="root")
        assert [found[name] for name in ("setuid", "setgid", "setreuid", "chown")] == ["EINVAL"] * 4
        assert found["control"] is None
        with pytest.raises(nsbox.ProgramStartError, match=f"uid {INIT_ID}"):
            sandbox.shell("true", user=INIT_ID)
        assert sandbox.shell("kill -9 1; echo still here", user="root").stdout == "still here\n"
        sandbox.restart()
        assert sandbox.shell("true").ok


def test_what_only_an_attack_calls_ends_root_inside_as_anybody() -> None:
    """S21: ptrace, mounts, namespaces, bpf: SECURITY_VIOLATION, as for the user, and the end of the sandbox."""
    calls = {"ptrace": 101, "mount": 165, "umount2": 166, "setns": 308, "bpf": 321, "open_by_handle_at": 304}
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    for name, number in calls.items():
        for user in ("root", None):
            code = f"import ctypes; ctypes.CDLL(None).syscall({number}, 0, 0, 0, 0, 0)"
            with nsbox.Sandbox(writable_root=True) as sandbox:
                result = sandbox.execute(code, user=user)
                assert sandbox.status is nsbox.SandboxStatus.TERMINATED
            assert (result.verdict, result.evidence["syscall"]) == (Verdict.SECURITY_VIOLATION, name)


REFUSED = """
import fcntl
os.makedirs('/tmp/a/b', exist_ok=True)
open('/tmp/a/file', 'w').close()
ask('mount', lambda: call(165, b'none', b'/tmp/a', b'tmpfs', 0, 0))
ask('bind', lambda: call(165, b'/usr', b'/tmp/a', 0, 4096, 0))
ask('umount', lambda: call(166, b'/proc/sys', 2))
ask('pivot', lambda: call(155, b'/tmp/a', b'/tmp/a'))
ask('open_tree', lambda: call(428, -100, b'/usr', 1))
ask('fsopen', lambda: call(430, b'tmpfs', 0))
ask('unshare', lambda: call(272, 0x10000000))
ask('unshare mounts', lambda: call(272, 0x20000))
ask('chroot', lambda: os.chroot('/tmp/a'))
ask('sethostname', lambda: socket.sethostname('x'))
ask('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
ask('port', lambda: socket.socket().bind(('127.0.0.1', 80)))
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    for place in ('/tmp', '/usr', '/etc', '/dev', '/run'):
        ask(f'mknod {kind} {place}', lambda: os.mknod(f'{place}/device', kind | 0o666, os.makedev(1, 1)))
ask('whiteout', lambda: os.mknod('/usr/whiteout', stat.S_IFCHR, 0))
ask('trusted', lambda: os.setxattr('/usr/bin/env', 'trusted.overlay.redirect', b'/etc'))
ask('opaque', lambda: os.setxattr('/tmp/a', 'trusted.overlay.opaque', b'y'))
ask('file capability', lambda: os.setxattr('/tmp/a/file', 'security.capability', bytes.fromhex('01000002' + '00' * 16)))
ask('quota', lambda: os.listdir('/run/quota'))
ask('sysctl', lambda: opens('/proc/sys/kernel/core_pattern', os.O_WRONLY))
ask('sysrq', lambda: opens('/proc/sysrq-trigger', os.O_WRONLY))
ask('nofile', lambda: call(302, 0, 7, struct.pack('QQ', 1 << 16, 1 << 16), 0))  # prlimit64
ask('nice', lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
ask('realtime', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
ask('clock', lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
ask('root', lambda: open('/new', 'w').close())
ask('proc', lambda: os.chmod('/proc/self', 0o777))
ask('dev', lambda: os.unlink('/dev/null'))
ask('program texts', lambda: open('/run/nsbox/x', 'w').close())
ask('rename', lambda: os.rename('/run/nsbox', '/run/other'))
flags = struct.pack('l', 16)  # FS_IMMUTABLE_FL
ask('immutable', lambda: fcntl.ioctl(os.open('/tmp/a/file', os.O_RDONLY), 0x40086602, flags))
"""
ALLOWED = """
ask('chown', lambda: os.chown('/tmp', 0, 0))
ask('xattr', lambda: os.setxattr('/usr/bin/env', 'user.note', b'x'))
ask('fifo', lambda: os.mkfifo('/usr/fifo'))
ask('link', lambda: os.link('/usr/bin/env', '/usr/bin/env2'))
"""


def test_root_inside_is_refused_what_anybody_is(tmp_path: Path) -> None:
    """F20: without the filter's rules for it too: mounts, namespaces, chroot, devices, raw sockets, trusted attributes,
    file capabilities, kernel settings, limits; while what its capabilities are for is allowed.
    """
    open_calls = ("mount", "umount2", "pivot_root", "open_tree", "fsopen", "unshare", "mknod", "mknodat", "chroot",
                  "sethostname", "socket", "clock_settime", "sched_setscheduler")  # fmt: skip
    rules = policy(tmp_path, *open_calls)
    with nsbox.Sandbox(writable_root=True, timeout=60, security=rules) as sandbox:
        allowed = inside(sandbox, ALLOWED, user="root")
        assert set(allowed.values()) == {None}, allowed
        found = inside(sandbox, REFUSED, user="root")
    expected = {"unshare": {"ENOSPC", "EPERM"}, "quota": {"ENOENT"}, "sysrq": {"EACCES", "ENOENT"}}
    for name, answer in found.items():
        assert answer in expected.get(name, {"EPERM", "EACCES", "EROFS", "EBUSY"}), (name, answer)


def fingerprint(path: str) -> tuple[Any, ...]:
    """What of a file changes when it is changed."""
    one = os.stat(path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return (one.st_ino, one.st_mode, one.st_uid, one.st_gid, one.st_nlink, one.st_mtime_ns, one.st_ctime_ns, digest)


CHANGES = """
import mmap
name = {path!r}
with open(name, 'r+b') as file:
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[:4] = b'evil'
    file.seek(0, 2)
    file.write(b'more')
os.chmod(name, 0o4777)
os.chown(name, 1000, 1000)
os.setxattr(name, 'user.note', b'x')
os.utime(name, (1, 1))
os.link(name, name + '.hard')
os.rename(name, name + '.moved')
os.symlink('/etc/hostname', name)
descriptor = os.open(name + '.moved', os.O_RDONLY)
os.close(os.open(f'/proc/self/fd/{{descriptor}}', os.O_RDWR))
ask('begins', lambda: read(name + '.moved')[:4])
os.truncate(name + '.hard', 0)
"""


def test_files_of_the_host_stay_as_they_are(tmp_path: Path) -> None:
    """F21: written, mapped, linked, renamed and truncated by root inside, on the host's root and in a directory."""
    path = "/usr/bin/env"
    before = fingerprint(path), os.stat("/usr/bin").st_mtime_ns
    with nsbox.Sandbox(writable_root=True, timeout=60) as sandbox:
        assert inside(sandbox, CHANGES.format(path=path), user="root") == {"begins": "evil"}
    assert (fingerprint(path), os.stat("/usr/bin").st_mtime_ns) == before
    control = tmp_path / "file"
    control.write_bytes(b"x" * 100)
    was = fingerprint(str(control))
    assert outside(CHANGES.format(path=str(control))) == {"begins": "evil"}
    assert fingerprint(str(control) + ".moved") != was


def test_set_uid_files_of_root_inside_are_nobodys_outside(sandbox: nsbox.Sandbox) -> None:
    """F22: what it stores is owned by the sandbox's range of host uids, on a file system without set-uid programs."""
    made = sandbox.shell("cp /usr/bin/id /usr/local/id && chmod 6755 /usr/local/id && stat -c %u:%a /usr/local/id",
                         user="root")  # fmt: skip
    assert made.stdout == "0:6755\n", made.stderr
    assert sandbox.shell("/usr/local/id -u").stdout == "1000\n"
    cell = sandbox._core._cell
    assert cell is not None
    found = os.stat("overlay%usr/upper/local/id", dir_fd=cell.quota)
    assert stat.S_IMODE(found.st_mode) == 0o6755
    assert found.st_uid >= RANGE_FIRST
    assert found.st_gid >= RANGE_FIRST
    assert os.fstatvfs(cell.quota).f_flag & os.ST_NOSUID


SEEN = """
found = []
for top in ('/etc', '/var'):
    for directory, _, names in os.walk(top):
        found += [os.path.join(directory, name) for name in names]
ask('files', lambda: found)
ask('lib', lambda: sorted(os.listdir('/var/lib')))
ask('shadow', lambda: sorted({line.split(':')[1] for line in read('/etc/shadow').splitlines()}))
for path in ('/etc/ssh', '/etc/sudoers', '/etc/machine-id', '/etc/apt/sources.list', '/etc/ssl/private', '/root/.ssh'):
    ask(path, lambda: os.path.exists(path))
ask('logs', lambda: sorted(os.listdir('/var/log')))
"""


def test_root_inside_sees_of_the_hosts_etc_and_var_what_everybody_may_read(sandbox: nsbox.Sandbox) -> None:
    """F23: no file that the host keeps from others, no account, key, log or data; the lists of packages alone."""
    found = inside(sandbox, SEEN, user="root")
    made = {"/etc/shadow", "/etc/gshadow"}
    private = []
    for path in found["files"]:
        if path in made or os.path.islink(path) or not os.path.exists(path):
            continue
        status = os.stat(path)
        if not status.st_mode & stat.S_IROTH and status.st_size:
            private.append(path)
    assert private == []
    assert found["shadow"] == ["*"]
    assert found["lib"] == ["apt", "dpkg", "misc", "pam", "python", "systemd", "ucf"]
    assert found["logs"] == ["apt"]
    assert not any(found[path] for path in found if path.startswith("/"))
    host = {line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    own = {line.split(":")[0] for line in sandbox.shell("cat /etc/passwd").stdout.splitlines()}
    master = Path("/usr/share/base-passwd/passwd.master")
    known = {line.split(":")[0] for line in master.read_text().splitlines()} if master.exists() else own
    assert own <= known | {"user"}
    assert len(found["files"]) > 100  # the control: there is something to see
    assert host


def test_files_that_are_mounted_keep_their_owners_for_root_inside(tmp_path: Path) -> None:
    """F24: a private file of a mounted directory is not read, a writable mount gives no more than it gives others."""
    tmp_path.chmod(0o755)
    for name, mode in (("private", 0o600), ("shown", 0o644)):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    questions = """
ask('private', lambda: read('/data/private'))
ask('shown', lambda: read('/data/shown'))
ask('write', lambda: opens('/data/shown', os.O_WRONLY))
ask('chown', lambda: os.chown('/data/shown', 0, 0))
ask('chmod', lambda: os.chmod('/data/private', 0o644))
ask('new', lambda: open('/data/new', 'w').close())
"""
    mount = Mount(source=tmp_path, target="/data", read_only=False)
    with nsbox.Sandbox(writable_root=True, timeout=60, mounts=[mount]) as sandbox:
        found = inside(sandbox, questions, user="root")
    assert found.pop("shown") == "shown"
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


def test_root_of_one_sandbox_is_not_root_of_another(tmp_path: Path) -> None:
    """X20: what one stores in a directory that both may write is not the other's to read; its own it reads."""
    tmp_path.chmod(0o777)
    mount = Mount(source=tmp_path, target="/data", read_only=False)
    with (
        nsbox.Sandbox(writable_root=True, timeout=60, mounts=[mount]) as one,
        nsbox.Sandbox(writable_root=True, timeout=60, mounts=[mount]) as two,
    ):
        assert one.shell("umask 077; echo secret > /data/file; cat /data/file", user="root").stdout == "secret\n"
        assert "Permission denied" in two.shell("cat /data/file", user="root").stderr
        assert two.shell("chmod 644 /data/file; chown 0 /data/file", user="root").ok is False
