"""Who belongs to an execution where no cgroup tells."""

import subprocess
import sys

import psutil

from nsbox._supervisor import sampling

TREE = """
import subprocess, threading, time
SLEEP = ["sh", "-c", "sleep 60 & wait"]
thread = threading.Thread(target=lambda: (subprocess.Popen(SLEEP), print(flush=True), time.sleep(60)))
thread.start()
subprocess.Popen(SLEEP)
print(flush=True)
thread.join()
"""


def test_children_are_found_whichever_thread_has_them() -> None:
    """And theirs; as psutil finds them among all processes of the host. Of one that has ended: none."""
    with subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        try:
            tree = psutil.Process(process.pid).children(recursive=True)
            while len(tree) < 4:
                tree = psutil.Process(process.pid).children(recursive=True)
            assert sorted(sampling._descendants(process.pid)) == sorted(one.pid for one in tree)
        finally:
            for one in psutil.Process(process.pid).children(recursive=True):
                one.kill()
            process.kill()
    assert sampling._descendants(process.pid) == []
