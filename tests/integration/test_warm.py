"""Warm interpreters: a program cannot tell that it was not started by `python3 main.py`, but for what the docs name."""

import concurrent.futures
import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import command_line, parts_of_nsbox, until

import nsbox
from nsbox import Verdict

SCRIPTS = r"""
print(1)
---
import sys; print(sys.argv, sys.orig_argv[1:] == sys.argv, sys.path, __name__, __file__, __spec__, __doc__, __package__)
---
import sys; print(sorted(name for name in globals()))
---
import sys; print(sys.flags, sys.stdin.encoding, sys.stdout.errors, sys.stderr.errors, sys.getfilesystemencoding())
---
import sys; print([(f.name, f.mode, f.fileno(), f.line_buffering, f.write_through, f.newlines, f.isatty()) for f in (sys.stdin, sys.stdout, sys.stderr)])
---
import sys; print([type(f).__name__ + type(f.buffer).__name__ for f in (sys.stdin, sys.stdout, sys.stderr)], sys.stdin is sys.__stdin__)
---
import os; print(sorted(os.environ.items()), os.getcwd(), os.getuid(), os.getppid(), oct(os.umask(0)))
---
import os; print(sorted(os.listdir('/proc/self/fd'))[:3], os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid())
---
import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ, signal.SIGCHLD)])
---
import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
---
import resource; print([resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)])
---
import threading; print(threading.enumerate(), threading.current_thread() is threading.main_thread(), threading.active_count())
---
import threading
t = threading.Thread(target=lambda: print('in a thread')); t.start(); t.join()
---
import threading, time
threading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()
print('main is through')
---
import asyncio
async def f():
    await asyncio.sleep(0.01)
    return 5
print(asyncio.run(f()))
---
import multiprocessing
def f(x): return x * x
if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(f, [1, 2, 3]))
---
import multiprocessing
def f(q): q.put('from a spawned one')
if __name__ == '__main__':
    context = multiprocessing.get_context('spawn')
    q = context.Queue(); p = context.Process(target=f, args=(q,)); p.start(); print(q.get()); p.join(); print(p.exitcode)
---
import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(2)'], capture_output=True, text=True))
---
import subprocess; print(subprocess.run('exit 3', shell=True).returncode)
---
import os
pid = os.fork()
if pid == 0:
    print('child', flush=True); os._exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
---
print(input()); print(input())
---
import sys; print(sys.stdin.read().split())
---
for line in open(0): print(line.upper(), end='')
---
input(); input(); input()
---
import sys; sys.exit()
---
import sys; sys.exit(7)
---
import sys; sys.exit('a message')
---
import sys; sys.exit(None)
---
import sys; sys.exit(256)
---
raise SystemExit([1, 2])
---
import os; os._exit(9)
---
import os; print('lost?', end=''); os._exit(0)
---
import atexit; atexit.register(print, 'at exit'); print('first')
---
import atexit, sys; atexit.register(print, 'at exit'); sys.exit(3)
---
import atexit; atexit.register(lambda: 1 / 0); print('first')
---
1 / 0
---
def f(): g()
def g(): raise KeyError('x')
f()
---
try:
    1 / 0
except ZeroDivisionError:
    raise ValueError('second')
---
try:
    1 / 0
except ZeroDivisionError as e:
    raise ValueError('second') from e
---
raise ExceptionGroup('several', [ValueError(1), TypeError(2)])
---
class E(Exception):
    def __str__(self): raise RuntimeError
raise E
---
import sys
sys.excepthook = lambda *a: print('hook', a[0].__name__)
1 / 0
---
raise KeyboardInterrupt
---
import atexit; atexit.register(print, 'at exit'); raise KeyboardInterrupt('x')
---
import os, signal; os.kill(os.getpid(), signal.SIGINT)
---
import os, signal; os.kill(os.getpid(), signal.SIGTERM)
---
import os, signal; os.kill(os.getpid(), signal.SIGKILL)
---
import os; os.abort()
---
import ctypes; ctypes.string_at(0)
---
import signal, os
signal.signal(signal.SIGUSR1, lambda *a: print('caught')); os.kill(os.getpid(), signal.SIGUSR1); print('on')
---
import signal, time
signal.signal(signal.SIGALRM, lambda *a: print('alarm')); signal.setitimer(signal.ITIMER_REAL, 0.02); time.sleep(0.1)
---
import warnings; warnings.warn('careful')
---
import warnings; warnings.warn('old', DeprecationWarning)
---
x = '\d'
---
x =
---
  indented
---
print('tabs')
	print('mixed')
---
# -*- coding: latin-1 -*-
print('plain')
---
from __future__ import annotations
def f(x: Undefined): pass
print(f.__annotations__)
---
def f(x: Undefined): pass
---
x: int = 1; print(__annotations__)
---
class A: pass
import pickle; print(pickle.loads(pickle.dumps(A())).__class__, A.__module__)
---
import dataclasses
@dataclasses.dataclass
class P: x: int = 1
print(P())
---
import typing
def f(x: 'int') -> 'str': ...
print(typing.get_type_hints(f))
---
import inspect
def f(): return 1
print(inspect.getsource(f))
---
import traceback
try: 1 / 0
except Exception: traceback.print_exc()
---
import logging; logging.warning('w'); logging.getLogger('x').error('e')
---
import sys; sys.stderr.write('err\n'); print('out')
---
import sys; sys.stdout.write('no newline')
---
print('ünï😀', '\udcff')
---
print('\ud800')
---
import sys; sys.stdout.buffer.write(b'\xff\x00'); sys.stdout.flush()
---
import sys; sys.stdout.close()
---
import os; os.close(1); print('nowhere')
---
import os; os.write(1, b'raw\n'); print('text'); os.write(1, b'raw again\n')
---
import random; random.seed(5); print(random.random())
---
import hashlib; print(hashlib.sha256(b'x').hexdigest())
---
import decimal, fractions, statistics; print(decimal.Decimal(1) / 7, fractions.Fraction(1, 3), statistics.mean([1, 2]))
---
import json, re, collections, itertools, functools, math; print(json.dumps({'a': [1, 2.5, None]}), math.pi)
---
import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() >= 0)
---
import sys; print(sys.getrecursionlimit())
---
def f(n): return f(n + 1)
try: f(0)
except RecursionError as e: print('deep enough', e)
---
print(len([0] * 10_000_000))
---
import weakref
class A: pass
a = A(); weakref.finalize(a, print, 'finalized'); print('on')
---
class D:
    def __del__(self): print('deleted')
d = D(); print('on')
---
class D:
    def __del__(self): print('deleted')
d = D(); 1 / 0
---
class D:
    def __del__(self): print('deleted')
d = D(); raise SystemExit(2)
---
import sys
def f(): 1 / 0
try: f()
except Exception: pass
print(hasattr(sys, 'last_value'), sys.exc_info())
---
import sys; sys.excepthook = lambda *a: print(a[0], sys.last_type, sys.last_traceback is a[2]); 1 / 0
---
class Odd(BaseException): pass
raise Odd('not an Exception')
---
def f():
    yield 1
    raise StopIteration
list(f())
---
import tempfile, os
with tempfile.NamedTemporaryFile('w+') as f: f.write('x'); f.flush(); print(os.path.getsize(f.name))
---
import helper; print(helper.VALUE)
---
import sqlite3; print(sqlite3.connect(':memory:').execute('select 1 + 1').fetchone())
---
import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); print(c.getpeername()[0])
---
import time, os; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset(); print(time.tzname)
---
import time; print(time.tzname)
---
import locale; print(locale.getpreferredencoding(), locale.setlocale(locale.LC_CTYPE, None))
---
import site, sysconfig; print(site.ENABLE_USER_SITE, site.USER_SITE, site.USER_BASE, sysconfig.get_path('stdlib'))
---
import importlib; print(importlib.import_module('string').digits)
---
import runpy; open('/tmp/m.py', 'w').write('print(__name__)'); runpy.run_path('/tmp/m.py', run_name='other')
---
import code; code.interact(local={}, banner='')
---
exec('print(1)\nraise ValueError("in exec")')
---
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(2) as p: print(list(p.map(abs, [-1, -2])))
---
import concurrent.futures
def f(x): return x + 1
if __name__ == '__main__':
    with concurrent.futures.ProcessPoolExecutor(2) as p: print(list(p.map(f, [1, 2])))
---
import contextvars; v = contextvars.ContextVar('v', default=3); print(v.get())
---
import faulthandler; faulthandler.enable(); print(faulthandler.is_enabled())
---
import sys; sys.settrace(lambda *a: None); print('traced')
---
import unittest
class T(unittest.TestCase):
    def test(self): self.assertEqual(1, 2)
unittest.main()
---
import argparse; p = argparse.ArgumentParser(); p.add_argument('x'); p.parse_args(['--help'])
---
import ctypes; print(ctypes.CDLL(None).getpid() == __import__('os').getpid())
---
import os; print(open('/proc/self/comm').read(), os.readlink('/proc/self/exe'))
---
import sys; print(open('/proc/self/cmdline').read().replace('\0', ' ').strip())
---
f = open('kept.txt', 'w'); f.write('written at the end')
---
import builtins; builtins.kept = open('kept.txt', 'w'); kept.write('held by a module')
---
print(open('kept.txt').read())
---
import sys; sys.stdout = open('out.txt', 'w'); print('elsewhere')
---
print(open('out.txt').read())
---
import builtins
class D:
    def __del__(self): print('deleted', self.x)
builtins.d = D(); d.x = 1
---
import os
class D:
    def __del__(self): print('deleted')
os.d = D(); f = lambda: d
---
import builtins
old = print
builtins.print = lambda *a: old('mine', *a)
class D:
    def __del__(self): print('deleted')
d = D()
---
class D:
    def __init__(self, n): self.n = n
    def __del__(self): print('deleted', self.n)
a, b, _c = D('a'), D('b'), D('c')
a.b, b.a = b, a
---
import helper
class D:
    def __del__(self): print('deleted', helper.VALUE)
helper.d = D()
---
class D:
    def __del__(self): raise ValueError('in __del__')
d = D()
---
class D:
    def __del__(self):
        import json
        print(json)
d = D()
---
class D:
    def __del__(self):
        import sys
        print(sys.path, sys.meta_path, sys.argv, __name__, __file__)
d = D()
---
import weakref
class A: pass
a = A(); r = weakref.ref(a, lambda _: print('gone')); print('on')
---
def g():
    try: yield 1
    finally: print('finally')
x = g(); next(x)
---
import sys
def g():
    try: yield 1
    finally: print('finally')
sys.kept = g(); next(sys.kept)
---
import asyncio
async def f(): pass
c = f()
---
import gc; gc.disable()
class D:
    def __del__(self): print('deleted')
d = D(); d.d = d
---
import gc; gc.callbacks.append(lambda phase, info: print(phase, info['generation']))
---
import gc; gc.freeze()
class D:
    def __del__(self): print('deleted')
d = D()
---
import sys
sys.unraisablehook = lambda u: print('hook', u.exc_type.__name__)
class D:
    def __del__(self): 1 / 0
d = D()
---
import warnings; warnings.simplefilter('always'); f = open('/dev/null')
---
import sys; sys.setprofile(lambda *a: None); print('profiled')
---
import sys
sys.settrace(lambda frame, event, arg: print(event, frame.f_code.co_name))
def f(): pass
f()
---
import ctypes; ctypes.CDLL(None).printf(b'from libc, buffered'); print('from Python')
---
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('with a daemon')
---
import atexit, sys
atexit.register(lambda: sys.stdout.write('registered first\n')); atexit.register(lambda: sys.exit(5)); print('on')
---
import atexit; atexit._clear(); print('cleared')
---
import sys; sys.modules.clear(); print('no modules')
---
import sys; del sys.modules['__main__']
class D:
    def __del__(self): print('deleted')
d = D()
---
import sys; sys.stdout = None; sys.stderr = None
---
import sys; del sys.stdout
---
import sys; sys.exit(-1)
---
import sys; sys.exit(2 ** 40 + 3)
---
import sys; sys.exit(2 ** 70)
---
import sys; sys.exit(True)
---
import os
if os.fork():
    print(os.waitstatus_to_exitcode(os.wait()[1]))
else:
    class D:
        def __del__(self): print('deleted in the child')
    d = D(); raise SystemExit(6)
---
import logging; logging.basicConfig(filename='log.txt', level=10); logging.info('noted')
---
print(open('log.txt').read())
---
import signal
class D:
    def __del__(self): print('deleted', signal.getsignal(signal.SIGTERM))
d = D(); signal.signal(signal.SIGTERM, lambda *a: d)
---
import sys; sys.excepthook = lambda *a: sys.exit(8); 1 / 0
---
import os; os.close(2); 1 / 0
---
import os; os.close(1); print('nowhere'); raise SystemExit(3)
---
import tempfile; d = tempfile.TemporaryDirectory(); print('on')
---
import socket; s = socket.socket(); print('open')
---
import queue, threading
q = queue.Queue()
def work():
    while True:
        item = q.get()
        if item is None: break
        print(item, flush=True)
t = threading.Thread(target=work); t.start(); q.put(1); q.put(None)
"""
CASES = [script.strip("\n") for script in SCRIPTS.split("\n---\n")]
INPUT = "one\ntwo\n"


def described(result: nsbox.ExecutionResult) -> tuple[object, ...]:
    """What must be equal: all that a program says and comes to, without what differs from run to run."""

    def plain(text: str) -> str:
        text = re.sub(r"exec-[0-9a-f]{16}", "exec-ID", text)
        return re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", re.sub(r"(Ran 1 test in|started) [0-9.]+", r"\1 0", text))

    return result.verdict, result.exit_code, result.signal, plain(result.stdout), plain(result.stderr)


def wait_until_warm(sandbox: nsbox.Sandbox) -> None:
    """Run programs until an interpreter is there."""
    for _ in range(2):
        assert sandbox.execute("pass").ok
    until(lambda: sandbox.isolation["interpreter"] == "warm", "the interpreter is warm", 30)


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[nsbox.Sandbox, nsbox.Sandbox]]:
    """A cold sandbox, and a warm one."""
    with nsbox.Sandbox(warm=False) as cold, nsbox.Sandbox() as warm:
        wait_until_warm(warm)
        for sandbox in (cold, warm):
            assert sandbox.shell("echo VALUE = 42 > helper.py").ok
        yield cold, warm


def test_scripts_come_to_the_same_cold_and_warm(pair: tuple[nsbox.Sandbox, nsbox.Sandbox]) -> None:
    """A hundred scripts: stdout, stderr, exit code, signal and verdict are equal."""
    assert len(CASES) > 100
    different = []
    for script in CASES:
        cold, warm = (described(sandbox.execute(script, stdin=INPUT)) for sandbox in pair)
        if cold != warm:
            different.append((script, cold, warm))
    assert different == []
    assert pair[1].isolation["interpreter"] == "warm"


@pytest.mark.lane_unified
def test_a_warm_program_has_the_isolation_of_a_cold_one(pair: tuple[nsbox.Sandbox, nsbox.Sandbox]) -> None:
    """Its status in /proc, its cgroups, its mounts and its namespaces are those of a cold one, line by line."""
    look = """
import os
for line in open('/proc/self/status'):
    if line.split(':')[0] in ('Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs',
                              'Seccomp', 'Seccomp_filters', 'SigBlk', 'SigIgn', 'Threads', 'NSpid', 'Umask'):
        print(line.split(':')[0], *([] if line.startswith('NSpid') else line.split()[1:]))
print(open('/proc/self/cgroup').read())
print(sorted(line.split()[4] for line in open('/proc/self/mountinfo')))
print(open('/proc/self/oom_score_adj').read(), open('/proc/self/limits').read())
print([os.access('/proc/self/' + name, os.R_OK) for name in ('environ', 'maps', 'mem', 'fd')])
"""
    cold, warm = (sandbox.execute(look) for sandbox in pair)
    assert cold.ok
    assert warm.ok
    assert warm.stdout == cold.stdout


def test_limits_hold_for_warm_programs(pair: tuple[nsbox.Sandbox, nsbox.Sandbox]) -> None:
    """Time, output, memory, processes, the filter: the verdicts are those of cold ones."""
    programs = {
        "while True: pass": {"timeout": 0.5},
        "import time; time.sleep(60)": {"timeout": 0.5},
        "while True: pass ": {"cpu_timeout": 0.3},
        "while True: print('x' * 100000)": {},
        "import os, sys\nfor _ in range(200):\n    if os.fork() == 0: os.read(0, 1) or __import__('time').sleep(9)": {},
        "import ctypes; ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None)": {},
    }
    for program, options in programs.items():
        verdicts = [sandbox.execute(program, **options).verdict for sandbox in pair]
        assert verdicts[0] == verdicts[1] != Verdict.OK, program
        if verdicts[0] is Verdict.SECURITY_VIOLATION:
            break


@pytest.mark.needs_cgroups
def test_the_memory_of_a_warm_program_is_its_own() -> None:
    """It is killed at its own limit, also at the tighter one of an execution; the interpreter lives on."""
    with nsbox.Sandbox(memory_mb=64) as sandbox:
        wait_until_warm(sandbox)
        for limit in (None, 32):
            result = sandbox.execute("x = [bytearray(1 << 20) for _ in range(100)]", memory_limit_mb=limit)
            assert result.verdict is Verdict.MEMORY_LIMIT
        assert sandbox.execute("print('on')").stdout == "on\n"
        assert sandbox.isolation["interpreter"] == "warm"


def test_variables_that_are_read_at_start_get_an_interpreter_of_their_own() -> None:
    """PYTHONHASHSEED, LANG and their like are in force, as in a fresh one; others stay warm."""
    with nsbox.Sandbox() as sandbox:
        wait_until_warm(sandbox)
        hashed = {sandbox.execute("print(hash('a'))", environment={"PYTHONHASHSEED": "1"}).stdout for _ in range(3)}
        assert len(hashed) == 1
        assert (
            sandbox.execute("import sys; print(sys.flags.utf8_mode)", environment={"PYTHONUTF8": "1"}).stdout == "1\n"
        )
        shared = {sandbox.execute("print(hash('a'))", environment={"OTHER": "1"}).stdout for _ in range(3)}
        assert len(shared) == 1  # the interpreter's, which the documents say
        path = sandbox.execute("import sys; print(sys.path[1])", environment={"PYTHONPATH": "/tmp/own"}).stdout
        assert path == "/tmp/own\n"


def test_random_numbers_differ_from_program_to_program() -> None:
    """Each has a state of its own."""
    with nsbox.Sandbox() as sandbox:
        wait_until_warm(sandbox)
        found = {sandbox.execute("import random; print(random.random())").stdout for _ in range(5)}
        assert len(found) == 5


def test_preloaded_modules_are_there_at_once() -> None:
    """They are imported in the interpreter before any program, in a fresh sandbox too."""
    for _ in range(3):
        with nsbox.Sandbox(preload=["decimal", "xml.dom.minidom"]) as sandbox:
            assert sandbox.isolation["interpreter"] == "warm"
            assert sandbox.execute("import sys; print('decimal' in sys.modules, 'xml.dom.minidom' in sys.modules)").ok


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nosuchmodule", "preload='nosuchmodule' cannot be imported: ModuleNotFoundError"),
        ("threaded", "preload='threaded' starts 1 thread"),
        ("exiting", "preload='exiting' cannot be imported: SystemExit"),
        ("failing", "preload='failing' cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_preloaded_is_refused(
    module: str, message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the reason, and nothing is left; a sandbox without it starts."""
    texts = {
        "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "exiting": "raise SystemExit(0)",
        "failing": "1 / 0",
    }
    directory = tmp_path_factory.mktemp("modules")
    directory.chmod(0o755)
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)
    mount = nsbox.Mount(source=directory, target="/opt/modules")
    with pytest.raises(nsbox.ConfigError, match=re.escape(message)):
        nsbox.Sandbox.create(preload=[module], mounts=[mount], environment={"PYTHONPATH": "/opt/modules"})
    assert nsbox.execute("print(1)").ok


@pytest.mark.parametrize("fields", [{"warm": False}, {"runtime": nsbox.Runtime(name="x", file_name="x", run=["true"])}])
def test_preload_needs_an_interpreter(fields: dict[str, object]) -> None:
    """A sandbox that has none refuses it, when it is made."""
    with pytest.raises(nsbox.ConfigError, match="preload"):
        nsbox.Sandbox(preload=["json"], **fields)


def test_an_interpreter_that_dies_is_replaced() -> None:
    """Programs are run cold meanwhile, and warm again later; none fails."""
    with nsbox.Sandbox() as sandbox:
        wait_until_warm(sandbox)
        os.kill(interpreters()[0], signal.SIGKILL)
        until(lambda: sandbox.isolation["interpreter"] == "cold", "its death is known")
        for _ in range(3):
            assert sandbox.execute("print(1)").stdout == "1\n"
        until(lambda: sandbox.isolation["interpreter"] == "warm", "there is another one", 30)
        assert sandbox.execute("print(2)").stdout == "2\n"


@pytest.mark.lane_unified
def test_no_program_is_lost_with_the_interpreter() -> None:
    """It is killed in the middle of many executions, again and again: each has its own output and its verdict."""
    with nsbox.Sandbox() as first:
        wait_until_warm(first)
        started = threading.Barrier(5)
        wrong: list[object] = []

        def work(number: int) -> None:
            started.wait(30)
            for turn in range(12):
                with nsbox.Sandbox() as sandbox:
                    text = f"{number} {turn}\n"
                    results = [sandbox.execute(f"print(input(), {turn})", stdin=f"{number}\n"), sandbox.run(["true"])]
                    if [result.stdout for result in results] != [text, ""] or not all(one.ok for one in results):
                        wrong.append(results)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(work, number) for number in range(4)]
            started.wait(30)
            killed = 0
            while not all(call.done() for call in calls):
                for pid in interpreters():
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        if not is_in_sandbox(pid):
                            os.kill(pid, signal.SIGKILL)
                            killed += 1
                first.execute("pass")  # and the next one is started
            for call in calls:
                call.result()
        assert wrong == []
        assert killed > 1
        until(lambda: first.execute("pass").ok and first.isolation["interpreter"] == "warm", "there is another", 60)


def is_in_sandbox(pid: int) -> bool:
    """Whether it is in one pid namespace more than the launcher, proc_pid_status(5)."""

    def depth(of: int) -> int:
        status = Path(f"/proc/{of}/status").read_text().splitlines()
        return len(next(line for line in status if line.startswith("NSpid:")).split())

    return depth(pid) > depth(parts_of_nsbox()[0])


def interpreters() -> list[int]:
    """The warm ones, and their parked children."""
    return [pid for pid in parts_of_nsbox() if command_line(pid) == "nsbox-launcher interpreter"]


def test_commands_run_beside_warm_programs() -> None:
    """`run` after `execute`, and the other way round, many times; each is what it is."""
    with nsbox.Sandbox() as sandbox:
        wait_until_warm(sandbox)
        for number in range(12):
            assert sandbox.run(["echo", str(number)]).stdout == f"{number}\n"
            assert sandbox.execute(f"print({number})").stdout == f"{number}\n"
            if number % 3 == 0:
                assert sandbox.run(["true"]).ok
