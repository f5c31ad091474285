"""JavaScript programs run by a Node that was started ahead: as any other, and never in the way of what is asked for."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from watching import Bell, programs, until

import nsbox
from nsbox import ExecutionResult, Verdict

pytestmark = [pytest.mark.needs_cgroups, pytest.mark.needs_scopes, pytest.mark.needs_tool("node")]

NAME = "console.log(__filename.includes('/standby-'))"

OWN = "process.execArgv.filter((word) => !word.includes('='))"
SCRIPTS = {
    "argv": f"console.log(process.argv.length, process.argv[1] === __filename, {OWN})",
    "modules": "console.log(module.children.length, Object.keys(require.cache).length, require.main === module)",
    "preloaded": "console.log(process._preload_modules, module.parent)",
    "this": "console.log(this === module.exports, typeof globalThis, Object.keys(globalThis))",
    "input": "process.stdin.on('data', (d) => console.log(String(d))).on('end', () => console.log('end'))",
    "input at once": "console.log(require('fs').readFileSync(0, 'utf8'))",
    "raised": "function f() { throw new TypeError('no') }\nf()",
    "syntax": "let a = 1;\nlet a = 2;",
    "rejected": "Promise.reject(new Error('later'))",
    "exit": "process.on('exit', (code) => console.log('exit', code)); process.exitCode = 7",
    "signal": "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 10000)",
    "handled": """
process.on('SIGUSR2', () => { console.log('got'); process.exit(3); });
process.kill(process.pid, 'SIGUSR2');
setTimeout(() => {}, 10000);
""",
    "abort": "process.abort()",
    "worker": f"new (require('worker_threads').Worker)(`console.log({OWN})`, {{ eval: true }})",
    "fork": f"""
if (process.argv[2]) process.send({OWN});
else require('child_process').fork(__filename, ['x']).on('message', (m) => console.log(m));
""",
    "child": "console.log(require('child_process').execSync('cat; echo $0', { input: 'to it' }).toString())",
    "module": "import { sep } from 'node:path';\nconsole.log(sep, await Promise.resolve(5))",
    "timers": "setTimeout(() => console.log('b'), 100); setImmediate(() => console.log('a')); console.log(0)",
    "errors": "console.error('bad'); console.log('good')",
    "large": "console.log('x'.repeat(300000))",
    "environment": "console.log(Object.keys(process.env).sort(), process.cwd(), require('os').homedir())",
    "ids": "console.log(process.getuid(), process.getgid(), process.umask(), process.getgroups())",
    "fds": "console.log(require('fs').readdirSync('/proc/self/fd').slice(0, 3))",
    "limits": "console.log(require('fs').readFileSync('/proc/self/limits', 'utf8'))",
    "status": """
const status = require('fs').readFileSync('/proc/self/status', 'utf8');
console.log(status.match(/(Seccomp|Cap...|NoNewPrivs|Sig...):.*/g));
""",
}


@pytest.fixture
def sandbox() -> Iterator[nsbox.Sandbox]:
    """One in which a Node waits."""
    with nsbox.Sandbox(timeout=30) as made:
        wait_for_standby(made)
        yield made


def javascript(sandbox: nsbox.Sandbox, code: str, **options: object) -> ExecutionResult:
    """A program in a sandbox for Python."""
    return sandbox.execute(code, language="javascript", **options)


def waiting() -> list[int]:
    """What was started ahead, and has no program yet or has one."""
    return [pid for pid, line in programs().items() if "/standby.cjs" in line]


def wait_for_standby(sandbox: nsbox.Sandbox) -> None:
    """Run as many programs as it takes."""
    for _ in range(2):
        assert javascript(sandbox, NAME).stdout == "false\n"
    until(waiting, "another program is started ahead")


def test_each_program_has_one_of_its_own(sandbox: nsbox.Sandbox) -> None:
    """Used once, and replaced; a program sees nothing of the one before."""
    for number in range(3):
        result = javascript(sandbox, f"console.log(typeof globalThis.left); globalThis.left = {number}\n{NAME}")
        assert result.stdout == "undefined\ntrue\n"
        until(waiting, "there is the next one")
    assert len(waiting()) == 1


def test_a_program_is_as_if_it_had_been_started_then(sandbox: nsbox.Sandbox) -> None:
    """Output, status and verdict are those of one that was not started ahead, but for the name of its directory."""

    def seen(result: ExecutionResult) -> tuple[object, ...]:
        place = (re.findall(r"/run/nsbox/([^/]+)/main.js", result.stdout + result.stderr) or ["-"])[0]
        return (
            result.verdict, result.exit_code, result.signal, result.stdout.replace(place, "HERE"),
            result.stderr.replace(place, "HERE"),
        )  # fmt: skip

    with nsbox.Sandbox(timeout=30, warm=False) as other:
        for name, code in SCRIPTS.items():
            until(lambda: sandbox._core.standbys.ready, "one waits")
            ahead, cold = (javascript(one, code, stdin="one\ntwo\n") for one in (sandbox, other))
            assert seen(ahead) == seen(cold), name


@pytest.mark.parametrize(
    ("code", "options", "verdict"),
    [
        ("while (true);", {"timeout": 0.3}, Verdict.WALL_TIME_LIMIT),
        ("setTimeout(() => {}, 60000)", {"timeout": 0.3}, Verdict.WALL_TIME_LIMIT),
        ("while (true);", {"cpu_timeout": 0.3}, Verdict.CPU_TIME_LIMIT),
        ("const all = []; while (true) all.push(Buffer.alloc(1 << 24, 1))", {}, Verdict.MEMORY_LIMIT),
        ("for (let i = 0; i < 99; i++) require('child_process').spawn('sleep', ['60'])", {}, Verdict.PROCESS_LIMIT),
        ("require('child_process').spawnSync('yes', { stdio: 'inherit' })", {}, Verdict.OUTPUT_LIMIT),
    ],
)  # fmt: skip
def test_the_limits_are_those_of_the_program(
    sandbox: nsbox.Sandbox, code: str, options: dict[str, object], verdict: Verdict
) -> None:
    """They begin with it, and not with the Node that has waited; the sandbox goes on."""
    time.sleep(0.5)  # longer than any limit below
    result = javascript(sandbox, f"{NAME}\n{code}", **options)
    assert result.stdout.startswith("true\n")
    assert result.verdict is verdict, (result, result.evidence)
    assert result.metrics is not None
    assert javascript(sandbox, "console.log(2)").stdout == "2\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"environment": {"NAME": "value"}}, "value"),
        ({"arguments": ("value",)}, "value"),
        ({"working_directory": "/tmp"}, "/tmp"),  # the sandbox's own
        ({"memory_limit_mb": 128}, "undefined"),
    ],
)
def test_what_was_not_started_for_it_does_not_run_it(
    sandbox: nsbox.Sandbox, options: dict[str, object], expected: str
) -> None:
    """A program with options that a process gets at its start is started then, and what waits goes on waiting."""
    before = waiting()
    code = (
        f"{NAME}\nconsole.log(process.env.NAME ?? process.argv[2] ?? (process.cwd() === '/tmp' ? '/tmp' : 'undefined'))"
    )
    assert javascript(sandbox, code, **options).stdout == f"false\n{expected}\n"
    assert waiting() == before != []
    assert javascript(sandbox, NAME).stdout == "true\n"


def test_changed_variables_are_those_of_the_next_program(sandbox: nsbox.Sandbox) -> None:
    """What was started with the old ones is replaced."""
    (before,) = waiting()
    sandbox.set_environment_variables({"NAME": "value"})
    assert javascript(sandbox, f"{NAME}\nconsole.log(process.env.NAME)").stdout == "false\nvalue\n"
    until(lambda: waiting() and before not in waiting(), "another waits")
    assert javascript(sandbox, f"{NAME}\nconsole.log(process.env.NAME)").stdout == "true\nvalue\n"


def test_one_that_dies_while_it_waits_is_replaced(sandbox: nsbox.Sandbox) -> None:
    """A program is started as any other then."""
    (pid,) = waiting()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not sandbox._core.standbys.ready, "it is known")
    result = javascript(sandbox, NAME)
    assert (result.verdict, result.stdout) == (Verdict.OK, "false\n")
    until(waiting, "another waits")


def test_no_other_program_reaches_what_waits(sandbox: nsbox.Sandbox) -> None:
    """Not by a signal, not by /proc, not by its file, which is not there yet. The same user may do so outside."""
    attack = """
import os, signal
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()))
for pid in range(2, 400):
    for call in (lambda: os.kill(pid, signal.SIGUSR1), lambda: open(f"/proc/{pid}/fd/0", "wb").write(b"\\n")):
        try:
            if pid != os.getpid():
                call()
                print("reached", pid)
        except ProcessLookupError:
            pass
        except OSError as exc:
            print(type(exc).__name__)
for name in os.listdir("/run/nsbox"):
    if name.startswith("standby"):
        print(sorted(os.listdir(f"/run/nsbox/{name}")))
        try:
            open(f"/run/nsbox/{name}/main.js", "w")
        except OSError as exc:
            print(exc.strerror)
"""
    result = sandbox.execute(attack)
    assert "reached" not in result.stdout
    assert "PermissionError" in result.stdout  # it is there
    assert "['standby.cjs']\nRead-only file system\n" in result.stdout
    assert javascript(sandbox, NAME).stdout == "true\n"


@pytest.mark.parametrize("how", ["suspend", "restart", "reset"])
def test_it_lives_and_dies_with_its_sandbox(sandbox: nsbox.Sandbox, how: str) -> None:
    """It stands still while the sandbox does, and is gone with the processes of before a restart."""
    if how == "suspend":
        sandbox.suspend()
        sandbox.resume()
        assert javascript(sandbox, NAME).stdout == "true\n"
        return
    getattr(sandbox, how)()
    until(lambda: not waiting(), "it is gone")
    assert javascript(sandbox, NAME).stdout == "false\n"
    until(waiting, "another waits")


def test_ending_the_program_ends_it(sandbox: nsbox.Sandbox) -> None:
    """By terminate_execution: CANCELLED; the sandbox goes on."""
    results: list[ExecutionResult] = []
    worker = threading.Thread(target=lambda: results.append(javascript(sandbox, f"{NAME}\nsetInterval(() => {{}}, 9)")))
    worker.start()
    until(lambda: sandbox.executions, "it runs")
    for execution in tuple(sandbox.executions):
        sandbox.terminate_execution(execution)
    worker.join(20)
    assert [result.verdict for result in results] == [Verdict.CANCELLED]
    assert javascript(sandbox, "console.log(3)").stdout == "3\n"


def test_cancelling_the_caller_ends_it(tmp_path: Path) -> None:
    """The caller's scope ends; the program is dead by then, and the next one runs."""
    bell = Bell(tmp_path)

    async def main() -> None:
        async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
            for _ in range(2):
                await sandbox.execute("1", language="javascript")
            await trio.to_thread.run_sync(until, waiting, "another is started ahead")
            code = f"require('fs').writeFileSync('/bell/ring', String({NAME[12:-1]}) + '\\n'); while (true);"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: sandbox.execute(code, language="javascript"))
                assert await trio.to_thread.run_sync(bell.wait) == "true"
                nursery.cancel_scope.cancel()
            assert (await sandbox.execute("console.log(4)", language="javascript")).stdout == "4\n"

    trio.run(main)
    bell.close()


def test_output_is_streamed_as_it_is_written(sandbox: nsbox.Sandbox) -> None:
    """And more of it than a pipe holds arrives whole, with input that a pipe does not hold, either."""
    text = "line\n" * 100_000
    stream = sandbox.execute_stream("process.stdin.pipe(process.stdout)", language="javascript", stdin=text)
    with stream as events:
        parts = [event.content for event in events if isinstance(event, nsbox.ExecutionOutput)]
        assert stream.result is not None
    assert "".join(parts) == text
    assert len(parts) > 1


@pytest.mark.parametrize(
    "fields",
    [
        {"warm": False},
        {"resources": nsbox.ResourceAllocation(memory=nsbox.MemoryAllocation(limit_mb=200))},
        {"resources": nsbox.ResourceAllocation(processes=nsbox.ProcessAllocation(max_processes=40))},
    ],
)
def test_where_it_could_be_in_the_way_nothing_is_started_ahead(fields: dict[str, object]) -> None:
    """In small sandboxes, and where the caller wants nothing warm."""
    with nsbox.Sandbox(**fields) as sandbox:
        for _ in range(4):
            assert javascript(sandbox, NAME).stdout == "false\n"
        assert not sandbox._core.standbys.ready
        assert not waiting()
