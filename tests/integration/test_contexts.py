"""Stateful contexts: cells of Python, JavaScript and bash, each in the state that the last one left."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from watching import Bell, programs, until

import nsbox
from nsbox import Verdict


@pytest.fixture
def sandbox() -> Iterator[nsbox.Sandbox]:
    """One for a test."""
    with nsbox.Sandbox(timeout=20) as made:
        yield made


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    """A FIFO that cells ring."""
    directory = tmp_path / "bell"
    directory.mkdir()
    made = Bell(directory)
    yield made
    made.close()


RING = "with open('/bell/ring', 'w') as ring: ring.write('up\\n')"
"""In a `with`: an interrupt that comes while a file is closed by its finaliser is lost, in every Python."""


def without_ipython(sandbox: nsbox.Sandbox) -> None:
    """Hide it: what is in the working directory comes first."""
    sandbox.write_file("/workspace/IPython.py", "raise ImportError('hidden')")


def value(result: nsbox.ExecutionResult) -> str | None:
    """The text of the last expression."""
    assert result.ok, result
    (output,) = [one for one in result.outputs if one.is_main_result]
    return output.text


# ------------------------------------------------------------ python


@pytest.mark.lane_unified
@pytest.mark.parametrize("plain", [False, True])
def test_state_lives_on_between_cells(sandbox: nsbox.Sandbox, plain: bool) -> None:
    """Variables, imports, functions and open files; with IPython and without."""
    if plain:
        without_ipython(sandbox)
    with sandbox.create_context() as context:
        assert context.language == "python"
        assert context.execute("import math\nx = 1\ndef f(a): return a + x\nfile = open('data', 'w+')").ok
        assert context.execute("x += 1; file.write('abc')").ok
        assert value(context.execute("f(40) + math.floor(0.5)")) == "42"
        assert value(context.execute("file.seek(0); file.read()")) == "'abc'"
        known = context.execute("'get_ipython' in globals()")
        assert value(known) == str(not plain)
    assert not programs()


@pytest.mark.parametrize("plain", [False, True])
def test_a_cell_may_await(sandbox: nsbox.Sandbox, plain: bool) -> None:
    """At the top level, and the last value may be awaited, too; a loop's task lives on from cell to cell."""
    if plain:
        without_ipython(sandbox)
    with sandbox.create_context() as context:
        assert context.execute("import asyncio\nasync def g():\n    await asyncio.sleep(0.001)\n    return 7").ok
        assert value(context.execute("y = await g()\nawait g() + y")) == "14"
        assert context.execute("task = asyncio.get_running_loop().create_task(g()); await asyncio.sleep(0)").ok
        assert value(context.execute("await task")) == "7"


@pytest.mark.parametrize("plain", [False, True])
def test_an_exception_is_reported_with_the_frames_of_the_cells(sandbox: nsbox.Sandbox, plain: bool) -> None:
    """NONZERO_EXIT with `error`, no colours, no frame of the agent's; the context lives on. A syntax error, too."""
    if plain:
        without_ipython(sandbox)
    with sandbox.create_context() as context:
        assert context.execute("def f(x):\n    return 1 / x").ok
        failed = context.execute("print('before')\nf(0)")
        assert (failed.verdict, failed.exit_code, failed.stdout) == (Verdict.NONZERO_EXIT, 1, "before\n")
        assert failed.error is not None
        assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
        assert "return 1 / x" in failed.error.traceback
        assert "f(0)" in failed.error.traceback
        assert "agent" not in failed.error.traceback
        assert "\x1b" not in failed.error.traceback
        wrong = context.execute("def f(:")
        assert wrong.verdict is Verdict.NONZERO_EXIT
        assert wrong.error is not None
        assert wrong.error.name == "SyntaxError"
        own = context.execute("class Mine(Exception): pass\nraise Mine('m')")
        assert own.error is not None
        assert own.error.name == "Mine"
        assert context.execute("f(1)").evidence["context_alive"] is True


@pytest.mark.parametrize("plain", [False, True])
def test_outputs_come_in_order_with_what_is_written(sandbox: nsbox.Sandbox, plain: bool) -> None:
    """By their positions in stdout and stderr, where subprocesses write, too; the last value is the main result."""
    if plain:
        without_ipython(sandbox)
    code = """
import subprocess, sys
class Table:
    def _repr_html_(self): return "<table>"
    def _repr_png_(self): return b"\\x89PNG"
    def _repr_json_(self): return {"a": [1]}
    def __repr__(self): return "plain"
print("one")
display(Table())
subprocess.run(["sh", "-c", "echo two; echo err >&2"])
display("text")
print("three")
Table()
"""
    with sandbox.create_context() as context:
        result = context.execute(code)
        assert result.ok, result
        assert result.stdout == "one\ntwo\nthree\n"
        assert [(one.stdout_position, one.stderr_position) for one in result.outputs] == [(4, 0), (8, 4), (14, 4)]
        assert [one.is_main_result for one in result.outputs] == [False, False, True]
        table = result.outputs[2]
        assert (table.text, table.html, table.png, table.json) == ("plain", "<table>", b"\x89PNG", {"a": [1]})
        json.dumps(result.to_dict())


def test_figures_of_matplotlib_are_shown_without_being_asked_for(sandbox: nsbox.Sandbox) -> None:
    """PNG and SVG at the end of the cell, or at plt.show(), once; a figure as the last value, once, too."""
    with sandbox.create_context() as context:
        drawn = context.execute("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('drawn')")
        assert drawn.ok, drawn
        figure = drawn.outputs[-1]
        assert figure.png is not None
        assert figure.png.startswith(b"\x89PNG")
        assert figure.svg is not None
        assert "<svg" in figure.svg
        shown = context.execute("fig, ax = plt.subplots(); print('a'); plt.show(); print('b')")
        assert [one.stdout_position for one in shown.outputs if one.png] == [2]
        assert "Agg" not in shown.stderr
        last = context.execute("fig2, ax = plt.subplots()\nfig2")
        assert [one.is_main_result for one in last.outputs if one.png] == [True]


def test_magics_and_shell_lines_are_those_of_ipython(sandbox: nsbox.Sandbox) -> None:
    """%, %% and !; what a shell line writes is in its place."""
    with sandbox.create_context() as context:
        assert context.execute("print('a')\n!echo $((6 * 7))\nprint('b')").stdout == "a\n42\nb\n"
        assert value(context.execute("lines = !echo x; echo y\nlist(lines)")) == "['x', 'y']"
        assert context.execute("%%writefile made.txt\nhello").ok
        assert sandbox.download_file("/workspace/made.txt") == b"hello\n"
        assert context.execute("%cd /tmp").ok
        assert value(context.execute("import os; os.getcwd()")) == "'/tmp'"


def test_exit_in_a_cell_ends_the_cell(sandbox: nsbox.Sandbox) -> None:
    """With its status; os._exit ends the context, which can be restarted, without its state."""
    with sandbox.create_context() as context:
        assert context.execute("x = 1; import sys; sys.exit(3)").exit_code == 3
        assert context.execute("sys.exit()").ok
        assert value(context.execute("x")) == "1"
        ended = context.execute("import os; print('last', flush=True); os._exit(7)")
        assert (ended.verdict, ended.exit_code, ended.stdout) == (Verdict.NONZERO_EXIT, 7, "last\n")
        assert ended.evidence["context_alive"] is False
        with pytest.raises(nsbox.InvalidStateError, match=r"nonzero_exit.*restart"):
            context.execute("1")
        context.restart()
        assert context.execute("x").error is not None


def test_a_cell_has_its_own_stdin_variables_and_directory(sandbox: nsbox.Sandbox) -> None:
    """For this cell; the next one has none of it, and a directory that a cell itself has changed stays."""
    read = "import os; (input(), os.environ.get('E'), os.getcwd())"
    with sandbox.create_context() as context:
        given = context.execute(read, stdin="line\nrest", environment={"E": "v"}, working_directory="/tmp")
        assert value(given) == "('line', 'v', '/tmp')"
        after = context.execute(read)
        assert after.error is not None
        assert after.error.name == "EOFError"
        assert value(context.execute("(os.environ.get('E'), os.getcwd())")) == "(None, '/workspace')"
        assert context.execute("os.chdir('/tmp')").ok
        assert value(context.execute("os.getcwd()")) == "'/tmp'"
        missing = context.execute("1", working_directory="/nowhere")
        assert missing.error is not None
        assert missing.error.name == "FileNotFoundError"


@pytest.mark.parametrize(
    "options", [{"memory_limit_mb": 8}, {"user": "root"}, {"arguments": ["a"]}, {"language": "bash"}, {"timeout": 99}]
)
def test_what_is_the_contexts_cannot_be_a_cells(sandbox: nsbox.Sandbox, options: dict[str, object]) -> None:
    """ConfigError, which names the field; nothing was run."""
    with sandbox.create_context() as context:
        with pytest.raises(nsbox.ConfigError, match=next(iter(options))):
            context.execute("x = 1", **options)
        assert not context.execute("x").ok


def test_odd_sources_are_errors_of_the_cell(sandbox: nsbox.Sandbox) -> None:
    """A NUL, lone surrogates, ten megabytes; the context lives on."""
    with sandbox.create_context() as context:
        nul = context.execute("x = 'a\0b'")
        assert nul.verdict is Verdict.NONZERO_EXIT
        assert nul.error is not None
        assert not context.execute("x = '\ud800'").outputs
        large = context.execute("s = '" + "a" * (10 << 20) + "'\nlen(s)")
        assert value(large) == str(10 << 20)
        assert context.execute("").ok
        with pytest.raises(nsbox.ConfigError):
            context.execute(b"x")  # type: ignore[arg-type]


# ------------------------------------------------------------ limits


@pytest.mark.lane_unified
def test_a_time_limit_interrupts_and_leaves_the_variables(sandbox: nsbox.Sandbox) -> None:
    """WALL_TIME_LIMIT with KeyboardInterrupt; a child of the cell is interrupted, too."""
    with sandbox.create_context() as context:
        over = context.execute("x = 1\nimport subprocess\nsubprocess.run(['sleep', '60'])\nx = 2", timeout=1)
        assert over.verdict is Verdict.WALL_TIME_LIMIT
        assert over.error is not None
        assert over.error.name == "KeyboardInterrupt"
        assert "agent" not in over.error.traceback
        assert over.evidence["limit"] == 1
        assert value(context.execute("x")) == "1"
        assert "sleep 60" not in programs().values()


@pytest.mark.lane_unified
def test_what_does_not_heed_the_interrupt_is_killed(sandbox: nsbox.Sandbox) -> None:
    """After the grace, with all that it has started; the verdict is the limit's, and says that the context is gone."""
    stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    with sandbox.create_context() as context, sandbox.create_context() as other:
        assert other.execute("y = 1").ok
        over = context.execute(stubborn, timeout=0.5)
        assert over.verdict is Verdict.WALL_TIME_LIMIT
        assert over.evidence["context_alive"] is False
        with pytest.raises(nsbox.InvalidStateError, match="wall_time_limit"):
            context.execute("1")
        assert value(other.execute("y")) == "1"
        context.restart()
        assert context.execute("1").ok


def test_swallowing_the_interrupt_does_not_make_it_ok(sandbox: nsbox.Sandbox) -> None:
    """A cell that catches KeyboardInterrupt and ends well has still reached its limit."""
    code = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')"
    with sandbox.create_context() as context:
        over = context.execute(code, timeout=0.5)
        assert (over.verdict, over.exit_code, over.stdout) == (Verdict.WALL_TIME_LIMIT, 0, "caught\n")
        assert context.execute("1").ok


@pytest.mark.lane_unified
def test_cpu_time_is_each_cells_own(sandbox: nsbox.Sandbox) -> None:
    """The limit counts from the cell's begin, with its children; the metrics do so, too."""
    burn = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
    with sandbox.create_context() as context:
        for _ in range(3):
            assert context.execute(burn.format(0.2), cpu_timeout=0.6).ok
        spent = context.execute(burn.format(0.2))
        assert spent.metrics is not None
        assert 0.15 < spent.metrics.cpu_seconds < 0.6
        over = context.execute(burn.format(10), cpu_timeout=0.3)
        assert over.verdict is Verdict.CPU_TIME_LIMIT
        assert context.execute("1").ok


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_context_out_of_memory_leaves_the_others() -> None:
    """MEMORY_LIMIT; the other contexts and the sandbox live, and the context after a restart."""
    small = nsbox.ResourceAllocation(
        memory=nsbox.MemoryAllocation(limit_mb=128)
    )  # a slow kernel takes long to fill more
    with (
        nsbox.Sandbox(timeout=60, resources=small) as sandbox,
        sandbox.create_context() as context,
        sandbox.create_context("bash") as other,
    ):
        assert other.execute("x=kept").ok
        over = context.execute("hog = bytearray(1 << 30)\nhog[::4096] = b'x' * len(hog[::4096])")
        assert over.verdict is Verdict.MEMORY_LIMIT
        assert over.evidence["context_alive"] is False
        assert other.execute("echo $x").stdout == "kept\n"
        assert sandbox.execute("print(1)").stdout == "1\n"
        context.restart()
        assert context.execute("1").ok


def test_output_has_a_limit_a_cell() -> None:
    """Text and displays together; what is beyond is dropped, and the context goes on."""
    with nsbox.Sandbox(enforcement=nsbox.EnforcementPolicy(max_output_mb=0.25)) as sandbox:
        context = sandbox.create_context()
        for _ in range(2):
            assert context.execute("print('x' * 200_000)").ok
        flood = context.execute("while True: print('x' * 1000)")
        assert (flood.verdict, len(flood.stdout_bytes), flood.truncated) == (Verdict.OUTPUT_LIMIT, 1 << 18, True)
        large = context.execute("display({'text/plain': 'x' * 500_000}, raw=True)")
        assert (large.verdict, large.outputs) == (Verdict.OUTPUT_LIMIT, ())
        many = context.execute("for _ in range(3000): display('x')")
        assert many.verdict is Verdict.OUTPUT_LIMIT
        assert 500 < len(many.outputs) < 1100
        assert context.execute("print(1)").stdout == "1\n"


def test_a_full_disk_is_said() -> None:
    """DISK_LIMIT for a cell that fails of it."""
    with nsbox.Sandbox(disk_mb=4) as small, small.create_context() as context:
        full = context.execute("open('f', 'wb').write(b'x' * (8 << 20))")
        assert full.verdict is Verdict.DISK_LIMIT


# ------------------------------------------------------------ interrupts and cancellation


@pytest.mark.lane_unified
def test_interrupt_leaves_the_variables(bell: Bell) -> None:
    """CANCELLED with KeyboardInterrupt; without a running cell nothing happens."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, sandbox.create_context() as context:
        context.interrupt()
        found: list[nsbox.ExecutionResult] = []
        code = f"x = 1\n{RING}\nimport time\nwhile True: time.sleep(0.01)"
        thread = threading.Thread(target=lambda: found.append(context.execute(code)))
        thread.start()
        bell.wait()
        context.interrupt()
        thread.join()
        (result,) = found
        assert result.verdict is Verdict.CANCELLED
        assert result.error is not None
        assert result.error.name == "KeyboardInterrupt"
        assert value(context.execute("x")) == "1"


async def test_cancellation_interrupts_the_cell_and_spares_the_context(bell: Bell) -> None:
    """The scope ends when the cell has; a cell that goes on takes the context with it."""
    async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
        context = await sandbox.create_context()
        for stubborn in (False, True):
            ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(context.execute, f"{ignore}x = 1\n{RING}\nimport time\ntime.sleep(60)")
                await trio.to_thread.run_sync(bell.wait)
                nursery.cancel_scope.cancel()
            assert not sandbox.executions
            if not stubborn:
                assert value(await context.execute("x")) == "1"
        with pytest.raises(nsbox.InvalidStateError):
            await context.execute("x")


def test_terminate_execution_ends_the_cell_only(bell: Bell) -> None:
    """Its result says CANCELLED; the context lives on."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, sandbox.create_context() as context:
        found: list[nsbox.ExecutionResult] = []
        code = f"x = 1\n{RING}\nimport time\ntime.sleep(60)"
        thread = threading.Thread(target=lambda: found.append(context.execute(code)))
        thread.start()
        bell.wait()
        (running,) = sandbox.executions
        assert sandbox.status is nsbox.SandboxStatus.BUSY
        sandbox.terminate_execution(running)
        thread.join()
        assert found[0].verdict is Verdict.CANCELLED
        assert value(context.execute("x")) == "1"
        assert sandbox.status is nsbox.SandboxStatus.IDLE


@pytest.mark.parametrize("how", ["close", "terminate", "reset"])
def test_the_end_of_a_context_ends_its_cell(bell: Bell, how: str) -> None:
    """CANCELLED, whoever ended it; nothing of it is left."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
        context = sandbox.create_context()
        found: list[nsbox.ExecutionResult] = []
        code = f"import subprocess\nsubprocess.Popen(['sleep', '60'])\n{RING}\nimport time\ntime.sleep(60)"
        thread = threading.Thread(target=lambda: found.append(context.execute(code)))
        thread.start()
        bell.wait()
        if how == "close":
            context.close()
        elif how == "terminate":
            sandbox.terminate()
        else:
            sandbox.reset()
        thread.join()
        assert found[0].verdict is Verdict.CANCELLED
        assert "sleep 60" not in programs().values()
        with pytest.raises(nsbox.InvalidStateError):
            context.execute("1")
        if how == "close":
            with pytest.raises(nsbox.InvalidStateError, match="closed"):
                context.restart()


# ------------------------------------------------------------ the sandbox's life


def test_one_cell_at_a_time_and_several_contexts_at_once(bell: Bell) -> None:
    """The second cell of a context waits; another context's does not."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
        one, other = sandbox.create_context(), sandbox.create_context()
        found: list[nsbox.ExecutionResult] = []
        wait = f"{RING}\nopen('/bell/go').readline()\nx = 1"
        first = threading.Thread(target=lambda: found.append(one.execute(wait)))
        first.start()
        bell.wait()
        second = threading.Thread(target=lambda: found.append(one.execute("x + 1")))
        second.start()
        assert value(other.execute("5")) == "5"
        bell.go()
        first.join()
        second.join()
        assert [value(result) for result in found[1:]] == ["2"]


def test_cells_take_slots_and_idle_contexts_do_not() -> None:
    """Events are those of executions; a cell beyond max_concurrent_executions is refused."""
    enforcement = nsbox.EnforcementPolicy(max_concurrent_executions=1)
    with nsbox.Sandbox(enforcement=enforcement) as sandbox:
        events: list[str] = []
        sandbox.on(nsbox.Event, lambda event: events.append(event.name))
        one, _ = sandbox.create_context(), sandbox.create_context()
        assert not sandbox.executions
        assert sandbox.execute("print(1)").ok
        assert one.execute("print(2)").stdout == "2\n"
        with sandbox.spawn(["sleep", "60"]), pytest.raises(nsbox.ResourceLimitError):
            one.execute("1")
        assert one.execute("1 / 0").verdict is Verdict.NONZERO_EXIT
        sandbox.terminate()
        assert events.count("execution_started") == 4
        assert "execution_output" in events
        assert events.count("execution_failed") == 2


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_contexts_survive_suspension(bell: Bell) -> None:
    """Idle and in the middle of a cell, whose clock stands still."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, sandbox.create_context() as context:
        assert context.execute("x = 1").ok
        sandbox.suspend()
        with pytest.raises(nsbox.InvalidStateError):
            context.execute("x")
        sandbox.resume()
        found: list[nsbox.ExecutionResult] = []
        code = f"{RING}\nopen('/bell/go').readline()\nx += 1"
        thread = threading.Thread(target=lambda: found.append(context.execute(code)))
        thread.start()
        bell.wait()
        sandbox.suspend()
        sandbox.resume()
        bell.go()
        thread.join()
        assert found[0].ok
        assert found[0].metrics is not None
        assert found[0].metrics.suspended_seconds > 0
        assert value(context.execute("x")) == "2"


def test_restart_of_the_sandbox_ends_contexts_which_can_be_made_anew(sandbox: nsbox.Sandbox) -> None:
    """InvalidStateError until the context is restarted; files are kept, state is not."""
    context = sandbox.create_context()
    assert context.execute("x = 1; open('kept', 'w').write('k')").ok
    sandbox.restart()
    with pytest.raises(nsbox.InvalidStateError, match="restart"):
        context.execute("x")
    context.restart()
    assert value(context.execute("open('kept').read()")) == "'k'"
    assert not context.execute("x").ok


def test_a_dead_pid_1_is_no_fault_of_a_cell(bell: Bell) -> None:
    """NetworkError for the cell, as for every execution."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
        context = sandbox.create_context()
        failures: list[Exception] = []

        def run() -> None:
            try:
                context.execute(f"{RING}\nimport time; time.sleep(60)")
            except nsbox.SandboxError as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        bell.wait()
        cell = sandbox._core.living()[1]
        signal.pidfd_send_signal(cell.pidfd, signal.SIGKILL)
        thread.join()
        assert isinstance(failures[0], nsbox.NetworkError)


def test_an_interpreter_killed_under_its_contexts_is_their_end_only(sandbox: nsbox.Sandbox) -> None:
    """SIGNALED for the cell that runs, InvalidStateError without one; the sandbox and other contexts live."""
    with sandbox.create_context() as context, sandbox.create_context() as other:
        killed = context.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert (killed.verdict, killed.signal) == (Verdict.SIGNALED, signal.SIGKILL)
        assert killed.evidence["context_alive"] is False
        (pid,) = [pid for pid, line in programs().items() if "python_agent.py" in line]
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in programs(), "it is dead")
        with contextlib.suppress(nsbox.InvalidStateError):  # whether it is heard of before, or by the cell
            assert other.execute("1").verdict is Verdict.SIGNALED
        with pytest.raises(nsbox.InvalidStateError, match="restart"):
            other.execute("1")
        assert sandbox.execute("print(1)").ok
        other.restart()
        assert value(other.execute("1")) == "1"


async def test_restarting_a_context_cancels_its_cell(bell: Bell) -> None:
    """The one that ran is CANCELLED; the next one has the new state."""
    async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
        context = await sandbox.create_context()
        found: list[nsbox.ExecutionResult] = []

        async def run(code: str) -> None:
            found.append(await context.execute(code))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, f"x = 1\n{RING}\nimport time\ntime.sleep(60)")
            await trio.to_thread.run_sync(bell.wait)
            nursery.start_soon(context.restart)
        assert found[0].verdict is Verdict.CANCELLED
        assert not (await context.execute("x")).ok


def test_there_is_a_bound_on_contexts(sandbox: nsbox.Sandbox) -> None:
    """ResourceLimitError at the 33rd; a closed one makes room."""
    made = [sandbox.create_context("bash") for _ in range(32)]
    with pytest.raises(nsbox.ResourceLimitError, match="32"):
        sandbox.create_context("bash")
    made[0].close()
    sandbox.create_context("bash").close()


async def test_asyncio_may_use_contexts() -> None:
    """The same object, from another event loop."""

    async def main() -> str | None:
        async with nsbox.AsyncSandbox() as sandbox, await sandbox.create_context() as context:
            await context.execute("x = 20")
            return value(await context.execute("x + 1"))

    assert await trio.to_thread.run_sync(lambda: asyncio.run(main())) == "21"


# ------------------------------------------------------------ fork


@pytest.mark.lane_unified
@pytest.mark.parametrize("plain", [False, True])
def test_a_fork_has_the_same_state_and_goes_its_own_way(sandbox: nsbox.Sandbox, plain: bool) -> None:
    """Output, await and limits are its own; closing the first leaves the second."""
    if plain:
        without_ipython(sandbox)
    context = sandbox.create_context()
    assert context.execute("x = [1]; import asyncio; await asyncio.sleep(0)").ok
    other = context.fork()
    assert other.id != context.id
    assert value(other.execute("x.append(2); await asyncio.sleep(0.001); print('out'); x")) == "[1, 2]"
    assert value(context.execute("x")) == "[1]"
    over = other.execute("while True: pass", timeout=0.5)
    assert over.verdict is Verdict.WALL_TIME_LIMIT
    third = other.fork()
    context.close()
    assert value(third.execute("x")) == "[1, 2]"
    other.close()
    third.close()
    until(lambda: not programs(), "everything has ended")


def test_a_program_with_threads_cannot_be_forked(sandbox: nsbox.Sandbox) -> None:
    """InvalidStateError that says so; without them it can."""
    with sandbox.create_context() as context:
        start = (
            "import threading\ngate = threading.Event()\nthread = threading.Thread(target=gate.wait)\nthread.start()"
        )
        assert context.execute(start).ok
        with pytest.raises(nsbox.InvalidStateError, match="2 threads"):
            context.fork()
        assert context.execute("gate.set(); thread.join()").ok
        context.fork().close()


def test_only_python_can_be_forked(sandbox: nsbox.Sandbox) -> None:
    """ConfigError."""
    with sandbox.create_context("bash") as context, pytest.raises(nsbox.ConfigError, match="cannot be forked"):
        context.fork()


# ------------------------------------------------------------ other languages


@pytest.mark.lane_unified
def test_bash_keeps_directory_variables_and_functions(sandbox: nsbox.Sandbox) -> None:
    """And its exit status is the cell's; an interrupt ends the cell, however deep it is in functions."""
    with sandbox.create_context("bash") as context:
        assert context.execute('cd /tmp; x="a b"; declare -i n=3; f() { echo "$1 $x $n"; }').ok
        assert context.execute("f 1; pwd; cat; echo $E", stdin="in\n", environment={"E": "it's"}).stdout == (
            "1 a b 3\n/tmp\nin\nit's\n"
        )
        assert context.execute("(exit 4)").exit_code == 4
        assert context.execute("if").exit_code == 2
        deep = "g() { while :; do sleep 0.05; done; echo inner; }\nh() { g; echo middle; }\nh\necho outer"
        over = context.execute(deep, timeout=0.5)
        assert (over.verdict, over.stdout) == (Verdict.WALL_TIME_LIMIT, "")
        assert context.execute("f 2; echo $E").stdout == "2 a b 3\n\n"
        assert context.execute("exit 5").exit_code == 5
        with pytest.raises(nsbox.InvalidStateError):
            context.execute("f 3")


@pytest.mark.needs_tool("node")
def test_javascript_keeps_its_state_and_shows_the_last_value(sandbox: nsbox.Sandbox) -> None:
    """`let`, functions, await, console.log, errors with their stack, interrupts of both kinds, exit."""
    with sandbox.create_context("javascript") as context:
        assert value(context.execute("let x = 40; const f = (a) => a + x; x")) == "40"
        assert value(context.execute("x += 1; f(1)")) == "42"
        waited = context.execute(
            "console.log('a'); const y = await new Promise(r => setTimeout(() => r(5), 5)); console.log('b'); y"
        )
        assert (value(waited), waited.stdout) == ("5", "a\nb\n")
        shown = context.execute("display(null, {'text/html': '<b>', 'image/png': Buffer.from([1])}); undefined")
        assert (shown.outputs[0].html, shown.outputs[0].png) == ("<b>", b"\x01")
        failed = context.execute("function g() { throw new TypeError('bad') }\ng()")
        assert failed.error is not None
        assert (failed.error.name, failed.error.value) == ("TypeError", "bad")
        assert "at g" in failed.error.traceback
        assert "node_agent" not in failed.error.traceback
        for endless in ("while (true) {}", "await new Promise(() => 0)"):
            over = context.execute(endless, timeout=0.5)
            assert (over.verdict, over.evidence["context_alive"]) == (Verdict.WALL_TIME_LIMIT, True)
        assert value(context.execute("x + y")) == "46"
        with pytest.raises(nsbox.ConfigError, match="stdin"):
            context.execute("1", stdin="x")
        assert context.execute("process.exit(6)").exit_code == 6


def test_a_language_that_is_not_there_is_named(sandbox: nsbox.Sandbox) -> None:
    """ConfigError for an unknown one; UnsupportedHostError, with the package, for a missing interpreter."""
    with pytest.raises(nsbox.ConfigError, match="ruby"):
        sandbox.create_context("ruby")
    for language, package in (("javascript", "nodejs"), ("python", "python3")):
        with nsbox.Sandbox(environment={"PATH": "/nowhere"}) as empty:
            with pytest.raises(nsbox.UnsupportedHostError, match=language) as caught:
                empty.create_context(language)
            assert package in caught.value.remedies[0]
