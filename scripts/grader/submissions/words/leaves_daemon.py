"""Correct, but it leaves a daemon behind, in a session of its own, that tries to outlive the test.

The daemon holds a lock. A run that finds the lock taken says so instead of the answer, which would be wrong: the grade
is "Accepted" only if no daemon of an earlier test is alive.
"""

import fcntl
import os
import sys
import time
from collections import Counter
from pathlib import Path

LOCK = Path("daemon.lock")


def become_daemon() -> None:
    """Fork twice, hold the lock, close everything else, and stay."""
    ready, told = os.pipe()
    if os.fork() > 0:
        os.close(told)
        os.read(ready, 1)  # nothing comes; the end of file says that the lock is taken
        return
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, str(os.getpid()).encode())
    os.close(told)
    for fd in (0, 1, 2):
        os.close(fd)
    time.sleep(3600)


def daemon_is_alive() -> bool:
    """Whether somebody holds the lock."""
    if not LOCK.exists():
        return False
    with LOCK.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


if daemon_is_alive():
    sys.exit("the daemon of an earlier test is alive")
counted = Counter(sys.stdin.read().lower().split())
for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
    print(word, count, flush=True)
become_daemon()
