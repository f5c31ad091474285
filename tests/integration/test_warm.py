"""Warm interpreters: a program cannot tell that it was not started by `python3 main.py`, but for what the docs name."""

import concurrent.futures
import contextlib
import encodings
import os
import pkgutil
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from differential import DOCUMENTED, SCRIPTS, differences
from watching import command_line, parts_of_nsbox, until

import nsbox
from nsbox import Verdict

DOCUMENT = Path(__file__).parents[2] / "docs/warm.md"


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


@pytest.mark.parametrize("about", SCRIPTS)
def test_scripts_come_to_the_same_cold_and_warm(about: str, pair: tuple[nsbox.Sandbox, nsbox.Sandbox]) -> None:
    """Hundreds of them: stdout, stderr, exit code, signal and verdict are equal, and all of them were forked."""
    before = pair[1].execute("print(hash('a'))").stdout
    assert differences(SCRIPTS[about], *pair) == []
    assert pair[1].execute("print(hash('a'))").stdout == before  # by the same interpreter
    assert pair[1].isolation["interpreter"] == "warm"


def test_there_are_hundreds_of_scripts_and_no_two_are_equal() -> None:
    """Or what the test before this one says of itself would not be so."""
    scripts = [script for some in SCRIPTS.values() for script in some]
    assert len(scripts) == len(set(scripts)) > 800


def test_what_differs_is_what_the_documents_say(pair: tuple[nsbox.Sandbox, nsbox.Sandbox]) -> None:
    """Each difference that they name is one: what no longer differs has no place there. It is told, too: differences."""
    text = DOCUMENT.read_text()
    assert [words for words in DOCUMENTED if words not in text] == []
    found = [script for script, *_ in differences(tuple(DOCUMENTED.values()), *pair)]
    assert found == list(DOCUMENTED.values())


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


def test_many_modules_can_be_preloaded() -> None:
    """More than there was room for once."""
    found = [module.name for module in pkgutil.iter_modules(encodings.__path__)]
    names = [f"encodings.{name}" for name in found if name not in ("mbcs", "oem")]  # of Windows
    assert len(names) > 100
    with nsbox.Sandbox(preload=names) as sandbox:
        assert sandbox.execute(f"import sys; print(set({names}) - sys.modules.keys())").stdout == "set()\n"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nosuchmodule", "preload='nosuchmodule' cannot be imported: ModuleNotFoundError"),
        ("threaded", "preload='threaded' starts 1 thread"),
        ("exiting", "preload='exiting' cannot be imported: SystemExit"),
        ("failing", "preload='failing' cannot be imported: ZeroDivisionError"),
        ("sharing", "preload='sharing' maps memory that is shared and can be written to"),
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
        "sharing": "import mmap\nheld = mmap.mmap(-1, 4096)",
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
            for turn in range(6):
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
