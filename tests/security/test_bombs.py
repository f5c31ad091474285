"""R: beside every kind of bomb the application, PID 1 and a second sandbox go on as if it were not there."""

import threading
from functools import partial

import pytest
import trio

from nsbox import AsyncSandbox, Verdict

SECONDS = 30.0
AT_ONCE = """
import contextlib, ctypes, mmap, os, resource, select, signal, socket, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def ever(one):
    held = []
    with contextlib.suppress(OSError, RuntimeError, MemoryError):
        while True:
            held.append(one(len(held)))
    return held
"""
FORKS = "\nfor _ in range(30):\n    if os.fork() == 0: break\n"
BOMBS = {
    "processes": "while True:\n    try: os.fork()\n    except OSError: pass",
    "threads": "ever(lambda n: threading.Thread(target=time.sleep, args=(60,), daemon=True).start())\nsignal.pause()",
    "short children": "while True:\n    if os.fork() == 0: os._exit(0)\n    os.wait()",
    "orphans": "while True:\n    if os.fork() == 0:\n        os.fork()\n        os._exit(0)\n    os.wait()",
    "memory": "ever(lambda n: b'x' * (1 << 20))\nos._exit(1)",
    "locked memory": "m = mmap.mmap(-1, 256 << 20)\nlibc.mlockall(3)\nfor at in range(0, 256 << 20, 4096): m[at] = 1",
    "page tables": "while True:\n    m = mmap.mmap(-1, 1 << 30, flags=0x4021, prot=1)\n"
    "    for at in range(0, 1 << 30, 2 << 20): m[at]",
    "bytes": "ever(lambda n: open(f'/tmp/{n}', 'wb').write(bytes(1 << 20)))\nos._exit(1)",
    "files": "ever(lambda n: open(f'/tmp/{n}', 'wb').close())\nos._exit(1)",
    "sparse files": "ever(lambda n: os.truncate(os.open('/tmp/s', os.O_CREAT | os.O_RDWR), 1 << n))\nsignal.pause()",
    "directories": "os.chdir('/tmp')\never(lambda n: (os.mkdir('d'), os.chdir('d')))\nos._exit(1)",
    "names that are not there": "while True: ever(lambda n: os.path.exists(f'/usr/{time.monotonic_ns()}') and n)",
    "descriptors": FORKS + "ever(lambda n: os.open('/usr/bin/env', os.O_RDONLY))\nsignal.pause()",
    "watches": FORKS + "ever(lambda n: libc.inotify_add_watch(libc.inotify_init1(0), b'/usr', 2) < 0 and os._exit(1))",
    "terminals": "ever(lambda n: os.openpty())\nsignal.pause()",
    "epoll": FORKS + "ever(lambda n: select.epoll().register(os.eventfd(0)))\nsignal.pause()",
    "descriptors in flight": FORKS + "a, b = socket.socketpair()\na.setblocking(False)\n"
    "ever(lambda n: socket.send_fds(a, [b'x'], [0] * 200))\nsignal.pause()",
    "pipes": FORKS + "def one(n):\n    r, w = os.pipe2(os.O_NONBLOCK)\n    return os.write(w, bytes(1 << 16))\n"
    "ever(one)\nsignal.pause()",
    "connections": "s = socket.create_server(('127.0.0.1', 0), backlog=4096)\n"
    "while True:\n    ever(lambda n: socket.create_connection(s.getsockname(), 1).send(bytes(1 << 15)))",
    "semaphores": "ever(lambda n: 1 / (libc.semget(0, 32000, 0o1600) >= 0) and n)",
    "messages": "ever(lambda n: [libc.msgsnd(q, struct.pack('l', 1) + bytes(8000), 8000, 0o4000) for q in"
    " [libc.msgget(0, 0o1600)] for _ in '12'])\nsignal.pause()",
    "timers": FORKS + "t = ctypes.c_void_p()\n"
    "ever(lambda n: 1 / (libc.timer_create(1, None, ctypes.byref(t)) == 0))\nsignal.pause()",
    "signals": FORKS + "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
    "ever(lambda n: 1 / (libc.sigqueue(os.getpid(), 40, 0) == 0))\nsignal.pause()",
    "file locks": "import fcntl\nf = open('/tmp/f', 'wb')\never(lambda n: fcntl.lockf(f, 2, 1, 2 * n))\nos._exit(1)",
    "output": "while True: os.write(1, bytes(1 << 16)); os.write(2, bytes(1 << 16))",
    "sleeping": "for n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
}
"""What takes without end; most of them are ended by the wall clock, some by a limit of their own before."""

ALIVE = "import os; print(os.getpid() > 1, 'alive')"


async def beside(bomb: str) -> tuple[Verdict, set[str], int]:
    """What became of a bomb, what the programs of a second sandbox said meanwhile, and how often PID 1 answered."""
    small = partial(AsyncSandbox, memory_mb=64, processes=40, disk_mb=32, timeout=SECONDS, heartbeat_interval=600)
    async with small() as hostile, small() as neighbour, trio.open_nursery() as nursery:
        said: set[str] = set()
        pings = 0
        verdicts: list[Verdict] = []

        async def explode() -> None:
            result = await hostile.execute(AT_ONCE + bomb, timeout=0.4)
            verdicts.append(result.verdict)

        async def look_after() -> None:
            nonlocal pings
            while not verdicts or pings < 3:
                for one in (hostile, neighbour):
                    await one._core.living()[1].control.ping(SECONDS)
                pings += 1

        nursery.start_soon(explode)
        nursery.start_soon(look_after)
        while not verdicts or not said:
            result = await neighbour.execute(ALIVE)
            said.add(f"{result.verdict} {result.stdout}{result.stderr}")
        again = await hostile.execute(ALIVE)
        said.add(f"{again.verdict} {again.stdout}{again.stderr}")
    return verdicts[0], said, pings


SHARED_WITHOUT_ROOT = "descriptors in flight"
"""Counted for each user, unix(7), who without root is one for all sandboxes: another gets a SetupError meanwhile."""


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.needs_root] * (one == SHARED_WITHOUT_ROOT)) for one in BOMBS]
)
def test_beside_a_bomb_everything_else_goes_on(name: str) -> None:
    """R01, R02, R03, R04, R06, R08, R09, P01: the bomb ends by a limit or fails by itself; meanwhile all programs of a
    second sandbox end well, each PID 1 answers every ping, and afterwards the bomb's own sandbox runs programs.
    """
    threads = threading.active_count()
    verdict, said, pings = trio.run(beside, BOMBS[name])
    assert verdict is not Verdict.OK
    assert verdict not in {Verdict.SECURITY_VIOLATION, Verdict.CANCELLED}
    assert said == {"ok True alive\n"}
    assert pings >= 3
    assert threading.active_count() == threads
