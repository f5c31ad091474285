"""I: what a program learns of its caller and of the host."""

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from probing import inside, outside
from watching import command_line, parts_of_nsbox, until

import nsbox

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

ENVIRONMENTS = """
import glob
found = [dict(os.environ).get('NSBOX_TEST_SECRET')]
for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/task/*/environ'):
    try:
        found.append(read(path))
    except OSError:
        pass
ask('found', lambda: any(text and 'swordfish' in text for text in found))
"""


def environments(pids: Iterable[int]) -> set[bytes]:
    """Those of the processes that are still there: some of the launcher's live for a moment only."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add(Path(f"/proc/{pid}/environ").read_bytes())
    return found


def test_the_environment_of_the_caller_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """I01: not in the program's own, not in any process' or thread's environ. nsbox's processes have none at all, but
    for warm interpreters, which have what every program is given.
    """
    assert outside(ENVIRONMENTS, NSBOX_TEST_SECRET="swordfish")  # noqa: S106  # a word to look for == {"found": True}
    monkeypatch.setenv("NSBOX_TEST_SECRET", "swordfish")
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            assert inside(sandbox, ENVIRONMENTS, user=user) == {"found": False}
        until(lambda: sandbox.isolation["interpreter"] != "warming", "the interpreter has its own command line")
        cold = {pid for pid in parts_of_nsbox() if command_line(pid) != "nsbox-launcher interpreter"}
        assert environments(cold) == {b""}
        assert not any(b"swordfish" in one for one in environments(parts_of_nsbox()))


def test_no_process_but_its_own_is_visible() -> None:
    """I02: /proc has the program and what it started, not even PID 1; kill and pidfd_open find no other process."""
    questions = f"""
ask('pids', lambda: sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))
ask('own', os.getpid)
ask('signal', lambda: os.kill({os.getpid()}, 0))
ask('pidfd', lambda: os.pidfd_open({os.getpid()}))
ask('init', lambda: read('/proc/1/cmdline'))
"""
    assert len(outside(questions)["pids"]) > 2
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions)
    assert found["pids"] == [found["own"]]
    assert (found["signal"], found["pidfd"], found["init"]) == ("ESRCH", "ESRCH", "ENOENT")


def test_names_of_the_host_are_not_told() -> None:
    """I03: host name, machine id, kernel command line, DMI, accounts and home directories are others or absent."""
    questions = """
ask('host', socket.gethostname)
ask('machine', lambda: read('/etc/machine-id'))
ask('command line', lambda: read('/proc/cmdline'))
ask('dmi', lambda: read('/sys/class/dmi/id/product_uuid'))
ask('accounts', lambda: len(read('/etc/passwd').splitlines()))
ask('shadow', lambda: read('/etc/shadow'))
ask('homes', lambda: os.listdir('/home'))
"""
    control = outside(questions)
    assert control["accounts"] > 3
    assert control["command line"]
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions)
    assert found == {
        "host": "sandbox", "machine": "ENOENT", "command line": "", "dmi": "ENOENT", "accounts": 3, "shadow": "ENOENT",
        "homes": ["user"],
    }  # fmt: skip
    assert socket.gethostname() != "sandbox"


def test_the_kernel_log_is_closed() -> None:
    """I04: syslog(2) is EPERM, /dev/kmsg is not there, /proc/kmsg cannot be opened; the host's root may open it."""
    questions = """
ask('syslog', lambda: call(103, 10, None, 0))
ask('device', lambda: opens('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK))
ask('file', lambda: opens('/proc/kmsg', os.O_RDONLY | os.O_NONBLOCK))
"""
    assert outside(questions)["device"] == "opened"
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions, user="root")
    assert found == {"syslog": "EPERM", "device": "ENOENT", "file": found["file"]}
    assert found["file"] in {"EACCES", "EPERM"}
