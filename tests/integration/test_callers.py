"""Who may call, and from where: blocking code in threads, trio, asyncio, forked children."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
from forked import in_child
from watching import Bell, parts_of_nsbox, programs

import nsbox
from nsbox import SandboxStatus, Verdict
from nsbox._blocking import shutdown

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


def test_one_sandbox_serves_several_threads() -> None:
    """40 executions from 8 threads, each with the output that is its own."""
    enforcement = nsbox.EnforcementPolicy(max_concurrent_executions=8)
    with nsbox.Sandbox(enforcement=enforcement) as sandbox, concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: sandbox.shell(f"echo {number}; exit {number}"), range(40)))
        assert [(result.stdout, result.exit_code) for result in results] == [(f"{n}\n", n) for n in range(40)]
        assert sandbox.metadata.total_executions == 40
        assert sandbox.status is SandboxStatus.IDLE


def test_several_threads_have_sandboxes_of_their_own() -> None:
    """With one launcher for all."""
    together = threading.Barrier(6)

    def work(number: int) -> str:
        with nsbox.Sandbox(memory_mb=64 + number) as sandbox:
            together.wait(20)
            assert sandbox.shell(f"echo {number} > /tmp/f").ok
            together.wait(20)
            return sandbox.shell("cat /tmp/f").stdout

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [f"{number}\n" for number in range(6)]


def test_terminate_from_several_threads_happens_once() -> None:
    """All return when everything is dead; start from several threads happens once, too, and is refused to the rest."""
    sandbox = nsbox.Sandbox()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(sandbox.start) for _ in range(4)]
        concurrent.futures.wait(starts)
        assert sum(start.exception() is None for start in starts) == 1
        assert {type(start.exception()) for start in starts} == {type(None), nsbox.InvalidStateError}
        for end in [pool.submit(sandbox.terminate) for _ in range(4)]:
            end.result(20)
    assert sandbox.status is SandboxStatus.TERMINATED


async def test_trio_runs_several_sandboxes_at_once() -> None:
    """In the caller's own trio run, without a thread of nsbox's; each has its own result."""
    results: dict[int, str] = {}

    async def work(number: int) -> None:
        async with nsbox.AsyncSandbox(timeout=20) as sandbox:
            result = await sandbox.execute(f"import time; time.sleep(0.05); print({number})")
            results[number] = result.raise_for_verdict().stdout

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(work, number)
    assert results == {number: f"{number}\n" for number in range(8)}
    assert "nsbox supervisor" not in [thread.name for thread in threading.enumerate()]


async def test_trio_goes_on_while_a_program_runs() -> None:
    """Nothing of nsbox blocks the run."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.01)
            ticks += 1

    async with nsbox.AsyncSandbox() as sandbox, trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await sandbox.shell("sleep 0.3")
        nursery.cancel_scope.cancel()
    assert ticks >= 10


def test_a_trio_run_leaves_nothing_when_it_ends() -> None:
    """Also with a sandbox that nobody terminated: it ends with the run at the latest."""

    async def forget() -> nsbox.AsyncSandbox:
        sandbox = await nsbox.AsyncSandbox.create()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sandbox.shell, "sleep 60")
            while not programs():  # noqa: ASYNC110  # there is no event for it
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        return sandbox

    sandbox = trio.run(forget)
    assert parts_of_nsbox() == []
    assert programs() == {}
    assert not sandbox.is_active


def test_asyncio_runs_eight_at_once() -> None:
    """By gather; in one sandbox and in eight."""

    async def main() -> tuple[list[str], list[str]]:
        async def fresh(number: int) -> str:
            async with nsbox.AsyncSandbox(timeout=20) as sandbox:
                return (await sandbox.execute(f"print({number})")).stdout

        several = await asyncio.gather(*(fresh(number) for number in range(8)))
        enforcement = nsbox.EnforcementPolicy(max_concurrent_executions=8)
        async with nsbox.AsyncSandbox(enforcement=enforcement) as sandbox:
            results = await asyncio.gather(*(sandbox.shell(f"sleep 0.05; echo {number}") for number in range(8)))
        return several, [result.stdout for result in results]

    expected = [f"{number}\n" for number in range(8)]
    assert asyncio.run(main()) == (expected, expected)


def test_asyncio_goes_on_while_a_program_runs() -> None:
    """Errors come through with their class, and the loop is never blocked."""

    async def main() -> int:
        ticks = 0
        async with nsbox.AsyncSandbox() as sandbox:
            with pytest.raises(nsbox.ProgramStartError):
                await sandbox.run(["nosuchprogram"])
            task = asyncio.create_task(sandbox.shell("sleep 0.3"))
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
            assert (await task).ok
        return ticks

    assert asyncio.run(main()) >= 10


def test_an_async_sandbox_belongs_to_one_loop() -> None:
    """Used in another, it says so, and nothing happens to it."""
    sandbox = nsbox.AsyncSandbox()
    asyncio.run(sandbox.start())

    async def elsewhere() -> None:
        with pytest.raises(nsbox.InvalidStateError, match="another event loop"):
            await sandbox.shell("true")

    trio.run(elsewhere)
    asyncio.run(sandbox.terminate())
    assert sandbox.status is SandboxStatus.TERMINATED


def test_blocking_code_inside_of_an_event_loop_works_too() -> None:
    """`nsbox.execute` blocks the loop, as any blocking call does, and returns."""

    async def main() -> str:
        return nsbox.execute("print(1)").stdout

    assert asyncio.run(main()) == trio.run(main) == "1\n"


def test_a_forked_child_starts_its_own_and_touches_nothing_of_its_parent_s() -> None:
    """os.fork after the first use: the child's sandboxes work, the parent's live on after the child's exit (T10)."""
    with nsbox.Sandbox() as sandbox:
        sandbox.shell("echo kept > /tmp/f")

        def child() -> tuple[str, str]:
            with pytest.raises(nsbox.InvalidStateError, match="forked"):
                sandbox.shell("true")
            sandbox.terminate()
            with nsbox.Sandbox() as own:
                output = own.execute("print('child')").stdout
            shutdown()
            return output, sandbox.status.value

        assert in_child(child)[0] == "child\n"
        assert sandbox.shell("cat /tmp/f").stdout == "kept\n"
    assert in_child(lambda: nsbox.execute("print(2)").stdout) == "2\n"


def work_in_a_pool(number: int) -> str:
    """What a worker process does."""
    return nsbox.execute(f"print({number})").stdout


def test_a_multiprocessing_pool_of_forked_workers_works() -> None:
    """In a parent that used nsbox before, and in workers that are killed at the pool's end."""
    assert nsbox.execute("print(1)").ok
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work_in_a_pool, range(4)) == [f"{number}\n" for number in range(4)]
    assert nsbox.execute("print(1)").ok


def test_a_parent_that_ignores_or_reaps_children_is_no_problem() -> None:
    """SIGCHLD ignored: the kernel reaps for the application, and nsbox does not miss it (bubblewrap 0.11.1)."""
    code = (
        "import signal, os, nsbox\nsignal.signal(signal.SIGCHLD, {})\n"
        "print(nsbox.execute('print(1)').verdict.value, nsbox.execute('exit(3)').exit_code)"
    )
    for handler in ("signal.SIG_IGN", "signal.SIG_DFL", "lambda *_: os.waitpid(-1, os.WNOHANG)"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(handler)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout == "ok 3\n", (handler, done.stderr)


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)])
def test_an_application_without_standard_streams_works(closed: tuple[int, ...], tmp_path: Path) -> None:
    """With fds 0, 1 or 2 closed before the first import (T10)."""
    code = """
import sys, nsbox
result = nsbox.execute('print(input())', stdin='x')
open(sys.argv[1], 'w').write(repr((result.stdout, result.stderr)))
"""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-c", code, str(out)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=close, timeout=60, check=False,
    )  # fmt: skip
    assert out.read_text() == "('x\\n', '')"


def test_a_gil_that_is_held_delays_no_kill() -> None:
    """The deadline is the launcher's: while this process computes without pause, the program is killed all the same."""
    code = """
import ctypes, threading, nsbox
libc = ctypes.PyDLL(None)  # PyDLL keeps the GIL during the call
result = []
with nsbox.Sandbox() as sandbox:
    sandbox.shell('true')
    thread = threading.Thread(target=lambda: result.append(sandbox.execute('while True: pass', timeout=0.3)))
    thread.start()
    while not sandbox.executions: pass
    libc.usleep(ctypes.c_uint(2_000_000))
    thread.join()
print(result[0].verdict.value, result[0].metrics.wall_seconds)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    verdict, seconds = done.stdout.split()
    assert verdict == Verdict.WALL_TIME_LIMIT.value, done.stderr
    assert 0.3 <= float(seconds) < 1.5


async def test_a_worker_thread_of_trio_may_block(tmp_path: Path) -> None:
    """The blocking class in `trio.to_thread`, beside the asynchronous one in the run itself."""
    bell = Bell(tmp_path)
    async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
        other = await trio.to_thread.run_sync(partial(nsbox.Sandbox.create, mounts=[bell.mount]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sandbox.shell, "echo > /bell/ring; read line < /bell/go")
            await trio.to_thread.run_sync(bell.wait)
            assert (await trio.to_thread.run_sync(other.shell, "echo other")).stdout == "other\n"
            bell.go()
        await trio.to_thread.run_sync(other.terminate)
    bell.close()
