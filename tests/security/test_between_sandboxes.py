"""X: what passes from one sandbox to another, and from a sandbox to the one after it."""

import os
import threading
from pathlib import Path
from typing import Literal

import pytest
from probing import inside
from watching import Bell, until

import nsbox
from nsbox._host import landlock_abi

LEAVE = """
for path in ('/tmp/left', '/dev/shm/left', '/workspace/left', '/home/user/left'):
    ask(path, lambda: open(path, 'x').close())
ask('shm', lambda: libc.shmget(0x1234, 4096, 0o1666))
ask('sem', lambda: libc.semget(0x1234, 1, 0o1666))
ask('msg', lambda: libc.msgget(0x1234, 0o1666))
ask('mqueue', lambda: libc.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o666, None) >= 0)
ask('sysvipc', lambda: sum(len(read('/proc/sysvipc/' + name).splitlines()) - 1 for name in ('shm', 'sem', 'msg')))
"""
FIND = """
ask('files', lambda: [path for path in ('/tmp', '/dev/shm', '/workspace', '/home/user') if 'left' in os.listdir(path)])
ask('shm', lambda: call(29, 0x1234, 0, 0))
ask('sem', lambda: call(64, 0x1234, 0, 0))
ask('msg', lambda: call(68, 0x1234, 0))
ask('mqueue', lambda: libc.mq_open(b'/left', os.O_RDWR) >= 0)
ask('keys', lambda: call(250, 0, -4, 0))
"""
NOTHING = {"files": [], "shm": "ENOENT", "sem": "ENOENT", "msg": "ENOENT", "mqueue": False, "keys": "ENOSYS"}


def test_nothing_of_one_sandbox_is_in_another() -> None:
    """X01: files, shared memory, semaphores, queues and keyrings, beside it and after it; and gone after a reset."""
    with nsbox.Sandbox() as first, nsbox.Sandbox() as second:
        left = inside(first, LEAVE)
        again = inside(first, FIND)
        assert (left["sysvipc"], left["mqueue"]) == (3, True)
        assert again["files"] == ["/tmp", "/dev/shm", "/workspace", "/home/user"]
        # as root a segment of shared memory goes with its last user already, kernel.shm_rmid_forced
        assert [again[name] != "ENOENT" for name in ("shm", "sem", "msg")] == [os.geteuid() != 0, True, True]
        assert inside(second, FIND) == NOTHING
        first.reset()
        assert inside(first, FIND) == NOTHING
    with nsbox.Sandbox() as third:
        assert inside(third, FIND) == NOTHING


def test_leases_and_directory_notifications_are_refused() -> None:
    """X03: F_SETLEASE and F_NOTIFY on files that all sandboxes see are EINVAL; other fcntl operations are not."""
    questions = """
import fcntl
file = os.open('/usr/bin/env', os.O_RDONLY)
ask('lease', lambda: fcntl.fcntl(file, 1024, 0))
ask('notify', lambda: fcntl.fcntl(os.open('/usr/bin', os.O_RDONLY), 1026, 1))
ask('flags', lambda: fcntl.fcntl(file, fcntl.F_GETFD))
"""
    with nsbox.Sandbox() as sandbox:
        assert inside(sandbox, questions) == {"lease": "EINVAL", "notify": "EINVAL", "flags": 1}


def test_two_sandboxes_cannot_meet_on_loopback_or_by_abstract_name() -> None:
    """X02: what one listens on, the other does not reach; the one itself does."""
    meet = """
import threading
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0meet'); abstract.listen()
server = socket.create_server(('127.0.0.1', 5555))
"""
    question = """
for family, address in ((socket.AF_UNIX, '\\0meet'), (socket.AF_INET, ('127.0.0.1', 5555))):
    with socket.socket(family) as one:
        ask(str(int(family)), lambda: one.connect(address))
"""
    with nsbox.Sandbox() as first, nsbox.Sandbox() as second:
        holder = threading.Thread(target=lambda: first.execute("import socket, time\n" + meet + "time.sleep(30)"))
        assert set(inside(first, meet + question).values()) == {None}
        holder.start()
        until(lambda: inside(first, question)["1"] is None, "the holder listens")
        found = inside(second, question)
        first.terminate_execution(next(iter(first.executions)))
        holder.join()
    assert set(found.values()) == {"ECONNREFUSED"}


WATCH_FILES = """
import os, struct
watcher = libc.inotify_init1(os.O_NONBLOCK)
ask('watches', lambda: watcher < 0 and call(294, 0) or [libc.inotify_add_watch(watcher, name, 0x20) for name in names])
open('/bell/ring', 'w').write('watching\\n')
open('/bell/go').readline()
def opened():
    events, seen = os.read(watcher, 4096), set()
    while events:
        watch, _, _, length = struct.unpack_from('iIII', events)
        seen.add(watch)
        events = events[16 + length :]
    return sorted(seen)
ask('opened', lambda: opened())
"""


@pytest.mark.parametrize("security", ["default", "strict"])
def test_strict_lets_nobody_watch_what_others_open(security: Literal["default", "strict"], tmp_path: Path) -> None:
    """X04: files of the host are one for all: with the default policy inotify(7) tells that another sandbox opens
    them, which is documented and the control; under strict there is no inotify. Files of its own nobody else has.
    """
    bell = Bell(tmp_path)
    names = ("/usr/bin/env", "/dev/zero", "/workspace/own")
    questions = f"names = {[name.encode() for name in names]!r}\nopen('/workspace/own', 'w').close()\n{WATCH_FILES}"
    found: list[dict[str, object]] = []
    try:
        with nsbox.Sandbox(mounts=[bell.mount], security=security) as first, nsbox.Sandbox() as second:
            watcher = threading.Thread(target=lambda: found.append(inside(first, questions)))
            watcher.start()
            bell.wait()
            touched = second.shell(f"touch /workspace/own; for name in {' '.join(names)}; do head -c 1 $name; done")
            bell.go()
            watcher.join()
    finally:
        bell.close()
    assert touched.ok
    assert found[0]["watches"] == ([1, 2, 3] if security == "default" else "ENOSYS")
    assert found[0]["opened"] == ([1, 2] if security == "default" else "EBADF")


WATCH_OTHERS = """
import signal
ask('pid', lambda: int(read('/workspace/pid')))
pid = answers.get('pid', 0)
ask('environ', lambda: 'hunter2' in read(f'/proc/{pid}/environ'))
ask('cmdline', lambda: read(f'/proc/{pid}/cmdline') != '')
ask('memory', lambda: opens(f'/proc/{pid}/mem', os.O_RDONLY))
ask('fd', lambda: opens(f'/proc/{pid}/fd/0', os.O_RDONLY))
ask('signal', lambda: os.kill(pid, 0))
ask('listed', lambda: str(pid) in os.listdir('/proc'))
"""
HOLDER = "echo $$ > /workspace/pid; echo up; read line"


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.skipif(landlock_abi() < 6, reason="needs Landlock ABI 6, Linux 6.12")
def test_an_execution_is_nothing_to_the_others_of_its_sandbox() -> None:
    """X05: neither its environment nor its memory nor a signal; a child of the same execution is the control."""
    with nsbox.Sandbox() as sandbox:
        with sandbox.spawn(["/bin/sh", "-c", HOLDER], environment={"TOKEN": "hunter2"}) as process:
            assert process.stdout.receive_some() == b"up\n"
            seen = inside(sandbox, WATCH_OTHERS)
        own = """
import subprocess
child = subprocess.Popen(['/bin/sh', '-c', 'echo $$ > /workspace/pid; echo up; read line'],
                         env={'TOKEN': 'hunter2'}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
"""
        control = inside(sandbox, own + WATCH_OTHERS + "\nchild.stdin.close(); child.wait()\n")
    assert control.pop("pid") > 1
    assert control == {
        "environ": True, "cmdline": True, "memory": "opened", "fd": "opened", "signal": None, "listed": True,
    }  # fmt: skip
    assert seen.pop("pid") > 1
    hidden = dict.fromkeys(("environ", "cmdline", "memory", "fd"), "ENOENT")
    assert seen == {**hidden, "signal": "EPERM", "listed": False}
