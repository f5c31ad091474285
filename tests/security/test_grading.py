"""G: a program that cheats its grader, where the grader runs beside it, and where answers and tests stay outside."""

import ast
import json
import os
import secrets
import subprocess
from pathlib import Path

import pytest

import nsbox
from nsbox import Verdict

CHEATS = {
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return None",
    "patches the asserts": "import unittest\nunittest.TestCase.assertEqual = lambda *_: None\n"
    "def add(a, b): return None",
    "patches the outcome": "import unittest\nunittest.TestResult.wasSuccessful = lambda _: True\n"
    "def add(a, b): return None",
    "patches the run": "import unittest\nunittest.TestCase.run = lambda self, result=None: result\n"
    "def add(a, b): return None",
    "is equal to everything": "class Same(int):\n    def __eq__(self, _): return True\n    __hash__ = None\n"
    "def add(a, b): return Same(7)",
    "looks at the caller": "import sys\ndef add(a, b): return sys._getframe(1).f_locals['wanted']",
    "looks at the module": "import __main__\ndef add(a, b): return __main__.ANSWERS[a, b]",
    "forks": "import os\ndef add(a, b):\n    if os.fork(): os._exit(0)\n    return None",
    "replaces a module": "import sys, types\nsys.modules['unittest'] = types.SimpleNamespace(TestCase=int, main=int)\n"
    "def add(a, b): return None",
}
TESTS = """
import unittest
ANSWERS = {(2, 3): 5, (40, 2): 42}
class Test(unittest.TestCase):
    def test_add(self):
        for arguments, wanted in ANSWERS.items():
            self.assertEqual(add(*arguments), wanted)
if __name__ == "__main__":
    unittest.main()
"""
DRIVER = """
import json, sys
sys.path.insert(0, "/workspace")
from submission import add
print(json.dumps(add(*json.load(sys.stdin))))
"""
CASES = {(2, 3): 5, (40, 2): 42}
HONEST = "def add(a, b): return a + b"


def passes_beside(submission: str) -> bool:
    """The wrong way: tests, answers and submission in one process, and its exit status is believed."""
    return nsbox.execute(f"{submission}\n{TESTS}", timeout=10).ok


def is_accepted(submission: str) -> bool:
    """The right way: questions go in, answers come out, and are compared here."""
    for arguments, wanted in CASES.items():
        with nsbox.Sandbox(timeout=10) as sandbox:
            sandbox.write_file("submission.py", submission)
            result = sandbox.execute(DRIVER, stdin=json.dumps(arguments))
        if not result.ok or result.stdout.strip() != json.dumps(wanted):
            return False
    return True


def test_who_does_not_know_the_answers_gets_no_grade_for_cheating() -> None:
    """G04: exits, patched unittest and builtins, objects that are equal to all, frames: each is taken for a solution
    where the tests run beside the submission, and for none where the answers are compared outside.
    """
    assert (passes_beside(HONEST), is_accepted(HONEST)) == (True, True)
    assert {name for name, cheat in CHEATS.items() if not passes_beside(cheat)} == set()
    assert {name for name, cheat in CHEATS.items() if is_accepted(cheat)} == set()


SEARCH = """
import gc, json, os, sys
word = json.load(sys.stdin)
word = (word[0] + word[1]).encode()  # never in one piece, or it would find itself
found = []
def look(place, content):
    if word in content:
        found.append(place)
for name, value in os.environ.items():
    look('environment', value.encode())
look('arguments', ' '.join(sys.orig_argv).encode())
for top in ('/workspace', '/tmp', '/home', '/run', '/dev/shm', '/etc', '/var', '/opt', '/proc'):
    for directory, folders, names in os.walk(top):
        folders[:] = [one for one in folders if one not in ('map_files', 'task', 'cwd', 'root')]
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and name not in ('mem', 'kmsg', 'pagemap', 'kcore', 'clear_refs'):
                try:
                    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
                        look(path, file.read(1 << 20))
                except (OSError, ValueError):
                    pass
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', buffering=0) as memory:
    for line in maps:
        start, end = (int(one, 16) for one in line.split()[0].split('-'))
        if line.split()[1].startswith('r') and '[v' not in line:
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except OSError:
                continue
            at = content.find(word)
            while at >= 0:
                if content[at - 1 : at + len(word) + 1].startswith(b'<'):
                    found.append('memory')
                at = content.find(word, at + 1)
print(sorted(set(found)))
"""


def test_expected_outputs_are_nowhere_in_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G05: the answer is in the grader's memory, environment, files and parent's words while the program runs, which
    searches its environment, files, /proc and its own memory, a warm interpreter's too, and finds none; put where
    careless graders put it, it is found.
    """
    halves = [secrets.token_hex(12), secrets.token_hex(12)]
    answer = f"<{''.join(halves)}>"
    monkeypatch.setenv("NSBOX_TEST_ANSWER", answer)
    (tmp_path / "answers.json").write_text(answer)
    stdin = json.dumps(halves)
    with (
        subprocess.Popen(["/bin/sh", "-c", "read _", answer], stdin=subprocess.PIPE),
        nsbox.Sandbox(timeout=20, preload=["json"]) as sandbox,
    ):
        for options in ({}, {"environment": {"PYTHONHASHSEED": "0"}}):  # warm, and cold
            result = sandbox.execute(SEARCH, stdin=stdin, **options)
            assert (result.verdict, result.stdout) == (Verdict.OK, "[]\n"), result.stderr
        sandbox.write_file("answers.json", answer)
        careless = sandbox.execute(SEARCH, stdin=stdin, environment={"ANSWER": answer}, arguments=[answer])
    places = ast.literal_eval(careless.stdout)
    assert {"/workspace/answers.json", "environment", "arguments", "memory"} <= set(places)


def test_what_a_submission_leaves_meets_no_other_submission() -> None:
    """G04: a unittest of its own that it leaves in /workspace is what a grader's tests import in the same sandbox,
    which is the control; in a fresh one they import the real one.
    """
    tests = ["python3", "-c", "import unittest; print(hasattr(unittest, 'TestCase'))"]
    with nsbox.Sandbox() as first, nsbox.Sandbox() as second:
        assert first.execute("open('/workspace/unittest.py', 'w').write('print(42)')").ok
        assert first.run(tests).stdout == "42\nFalse\n"
        assert second.run(tests).stdout == "True\n"


FORGE = r"""
import contextlib, os, signal, socket, struct, sys
frames = [struct.pack('<I', len(body)) + body for body in (b'\x91\xa5ready', b'\x93\xa4done\x00\x00')]
frames += [b'{"verdict": "ok", "exit_code": 0}', bytes(4096), struct.pack('=IIQ', 1, 0, 0) * 64]
def to(fd):
    for frame in frames:
        with contextlib.suppress(OSError):
            os.write(fd, frame)
        with contextlib.suppress(OSError):
            socket.socket(fileno=os.dup(fd)).sendmsg([frame], [(1, 1, struct.pack('i', 0))])
for fd in (*range(3, 1024),):
    to(fd)
for path in ('/proc/1/fd', '/proc/self/fd', f'/proc/{os.getppid()}/fd'):
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            if path != '/proc/self/fd' or int(name) > 2:
                with contextlib.suppress(OSError):
                    to(os.open(f'{path}/{name}', os.O_RDWR | os.O_NONBLOCK))
for pid in (os.getppid(), 1, -1):
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGCHLD, signal.SIGTERM):
        if pid > 0:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: to(1)
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("end", "verdict", "exit_code", "signal"),
    [
        ("os._exit(3)", Verdict.NONZERO_EXIT, 3, None),
        ("os.kill(os.getpid(), 11)", Verdict.SIGNALED, None, 11),
        ("os.execv('/bin/false', ['true'])", Verdict.NONZERO_EXIT, 1, None),
    ],
)
def test_whoever_decides_hears_nothing_of_what_a_program_forges(
    end: str, verdict: Verdict, exit_code: int | None, signal: int | None
) -> None:
    """G02: frames of results and heartbeats written to every descriptor and to those of parent and PID 1, signals to
    both, and a daemon that goes on with it: the verdict is that of the end that it comes to, and PID 1 answers.
    """
    with nsbox.Sandbox(timeout=10) as sandbox:
        result = sandbox.execute(f"{FORGE}\n{end}", capture_output=False)
        assert (result.verdict, result.exit_code, result.signal) == (verdict, exit_code, signal)
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert sandbox.status is nsbox.SandboxStatus.IDLE


def test_nothing_that_comes_from_a_sandbox_is_unpickled_or_evaluated() -> None:
    """G06: nsbox imports neither pickle nor its like, and calls eval and exec in what runs inside alone; a result is
    plain data, whatever the program has written.
    """
    root = Path(nsbox.__file__).parent
    inside = {"_contexts/python_agent.py", "_warm/stage.py", "_warm/zygote.py", "_warm/leaving.py"}
    modules, calls = set(), set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                calls.add((node.func.id, str(path.relative_to(root))))
    assert "msgpack" in modules
    assert modules & {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "runpy", "code"} == set()
    assert {path for name, path in calls if name in {"eval", "exec", "compile", "__import__"}} <= inside
    bomb = "import os, pickle\nclass A:\n    def __reduce__(self): return os.mkdir, ('/tmp/nsbox-unpickled',)\n"
    result = nsbox.execute(bomb + "import sys\nsys.stdout.buffer.write(pickle.dumps(A()))")
    assert result.stdout_bytes.endswith(b".")
    assert not os.path.exists("/tmp/nsbox-unpickled")
