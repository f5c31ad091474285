"""K: what a program can ask of the kernel. The filters themselves are asked call by call in tests/unit; here are the
defences that stand beside them, each with the filter's own refusal taken away.
"""

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from probing import inside, outside, policy

import nsbox
from nsbox import Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

NAMESPACES = {
    "user": 0x1000_0000, "mnt": 0x0002_0000, "pid": 0x2000_0000, "net": 0x4000_0000, "ipc": 0x0800_0000,
    "uts": 0x0400_0000,
}  # fmt: skip
UNSHARE = f"""
for name, flag in {json.dumps(NAMESPACES)}.items():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(flag) == 0 else ctypes.get_errno())
    answers[name] = errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 'made')
"""


def test_namespaces_are_refused_by_the_filter_and_behind_it(tmp_path: Path) -> None:
    """K01: unshare gives EPERM; with the filter's refusal taken away the kernel refuses a user namespace: ENOSPC."""
    assert set(outside(UNSHARE).values()) == {"made"}
    with nsbox.Sandbox() as sandbox:
        assert set(inside(sandbox, UNSHARE).values()) == {"EPERM"}
    with nsbox.Sandbox(security=policy(tmp_path, "unshare")) as sandbox:
        found = inside(sandbox, UNSHARE)
    assert found.pop("user") == "ENOSPC"
    assert set(found.values()) == {"EPERM"}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("mount", "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
        ("setns", "libc.setns(os.open('/proc/self/ns/uts', os.O_RDONLY), 0)"),
        ("ptrace", "libc.ptrace(16, os.getppid(), 0, 0)"),
        ("process_vm_readv", "libc.process_vm_readv(os.getpid(), 0, 0, 0, 0, 0)"),
        ("open_by_handle_at", "libc.open_by_handle_at(3, 0, 0)"),
        ("init_module", "libc.init_module(0, 0, 0)"),
        ("reboot", "libc.reboot(0)"),
        ("iopl", "libc.iopl(3)"),
    ],
)
def test_a_call_that_only_an_attack_makes_ends_the_whole_execution(name: str, call: str) -> None:
    """K12: even from a grandchild in a session of its own the call is named, and nothing of the execution goes on; nor
    does its sandbox, which is ended before the call returns.
    """
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {call}
    print('went on', flush=True)
os.wait()
print('went on', flush=True)
import time; time.sleep(30)
"""
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute(code)
        assert sandbox.status is nsbox.SandboxStatus.TERMINATED
    assert (result.verdict, result.evidence["syscall"]) == (Verdict.SECURITY_VIOLATION, name)


def test_a_set_uid_program_gains_nothing() -> None:
    """K19: no_new_privs is set, and every mount is nosuid: su is there with its bit, and runs as its caller."""
    questions = """
ask('status', lambda: [l.split()[1] for l in read('/proc/self/status').splitlines() if l.startswith('NoNewPrivs')])
ask('without nosuid', lambda: [l.split()[4] for l in read('/proc/self/mountinfo').splitlines()
                               if 'nosuid' not in l.split()[5].split(',')])
ask('bit', lambda: bool(os.stat('/usr/bin/su').st_mode & stat.S_ISUID))
"""
    assert outside(questions)["status"] == ["0"]
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions)
        assert not sandbox.run(["/usr/bin/su", "-c", "id"], stdin="").ok
    assert found == {"status": ["1"], "without nosuid": [], "bit": True}


def test_no_terminal_of_the_callers_is_within_reach() -> None:
    """K05: with a caller on a terminal, /dev/tty opens outside and is ENXIO inside: another session, no terminal."""
    program = (
        "import os\ntry: os.open('/dev/tty', os.O_RDWR)\n"
        "except OSError as e: print(e.errno, os.getsid(0) == os.getpid())"
    )
    code = f"import nsbox, os\nos.close(os.open('/dev/tty', os.O_RDWR))\nprint(nsbox.execute({program!r}).stdout)"
    done = subprocess.run(
        ["script", "-qec", shlex.join([sys.executable, "-c", code]), "/dev/null"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.stdout.split() == ["6", "True"], done.stdout


def test_a_crash_starts_no_handler_of_the_hosts() -> None:
    """K20: the core limit is one byte, which also keeps a handler behind a pipe from running, core(5)."""
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, "ask('core', lambda: resource.getrlimit(resource.RLIMIT_CORE))")
        result = sandbox.execute("import os; os.abort()")
        left = sandbox.shell("ls /workspace").stdout
    assert found["core"] == [min(1, resource.getrlimit(resource.RLIMIT_CORE)[1] % 2**64)] * 2
    assert (result.verdict, result.signal, left) == (Verdict.SIGNALED, 6, "")
