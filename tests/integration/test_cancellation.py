"""A caller that gives up: whatever was started is dead when it goes on, whenever it gave up."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from stepping import cancel_at_each_checkpoint
from watching import Bell, parts_of_nsbox, programs, until

import nsbox
from nsbox import SandboxStatus, Verdict
from nsbox._supervisor.supervisor import stop_current

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

FIRST = {"start", "start: TEMPLATE"}
"""What the first sandbox of all waits for: its turn and the launcher, and its template."""
MADE = {"start: CREATE", "reset: CREATE"}
"""What is waited for where it has not been made ahead."""
LIVING = {
    "run", "suspend: FREEZE", "resume: THAW", "restart: RESTART", "reset: DESTROY", "execute", "terminate: DESTROY",
}  # fmt: skip


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


async def test_an_execution_can_be_cancelled_at_each_of_its_checkpoints() -> None:
    """It and what it started is dead, the sandbox is usable, its slot is free (L09, T5)."""
    async with nsbox.AsyncSandbox(timeout=20) as sandbox:

        def check() -> None:
            assert programs() == {}
            assert sandbox.executions == {}
            assert sandbox.status in (SandboxStatus.RUNNING, SandboxStatus.IDLE)

        async def once() -> None:
            assert (await sandbox.shell("setsid sleep 0.02 & echo x; sleep 0.02", stdin=bytes(1 << 20))).ok

        assert await cancel_at_each_checkpoint(once, check, 100) == {"run"}
        check()
        assert (await sandbox.shell("echo usable")).stdout == "usable\n"


@contextlib.asynccontextmanager
async def supervisor_of_its_own() -> AsyncIterator[None]:
    """Started by the sandbox, which is the first one of all."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await stop_current()


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_sandbox_s_life_can_be_cancelled_at_each_of_its_checkpoints(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """start, restart, reset, suspend, resume, terminate: nothing is left, whatever was reached.

    What has been made ahead is waited for by nobody; where nothing is, start and reset always wait for a sandbox.
    """
    if not ahead:
        monkeypatch.setattr("nsbox._plan.template.SPARES", 0)

    async def once() -> None:
        async with nsbox.AsyncSandbox(timeout=20) as sandbox:
            await sandbox.shell("true")
            await sandbox.suspend()
            await sandbox.resume()
            await sandbox.restart()
            await sandbox.reset()
            assert (await sandbox.execute("print(1)")).ok

    def check() -> None:
        assert programs() == {}

    found = await cancel_at_each_checkpoint(once, check, 200)
    always = LIVING if ahead else LIVING | MADE
    assert always <= found <= always | MADE | FIRST


async def test_creation_that_is_cancelled_makes_nothing() -> None:
    """The sandbox is TERMINATED, or was made: never half of it."""
    seen = []

    async def create() -> None:
        sandbox = nsbox.AsyncSandbox()
        expected = SandboxStatus.TERMINATED
        async with supervisor_of_its_own():
            try:
                await sandbox.start()
                expected = SandboxStatus.RUNNING
            finally:
                assert sandbox.status is expected
                seen.append(expected)
                with trio.CancelScope(shield=True):
                    await sandbox.terminate()

    found = await cancel_at_each_checkpoint(create, lambda: None, 100)
    assert found - LIVING == {*FIRST, "start: CREATE"}
    assert seen[-1] is SandboxStatus.RUNNING
    assert SandboxStatus.TERMINATED in seen


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 5, 10, 20, pytest.param(50, marks=pytest.mark.lane_unified), 100])
async def test_a_deadline_of_the_caller_s_kills(milliseconds: int) -> None:
    """trio.move_on_after at times that hit start, run and output: the tree is dead when the scope is left."""
    async with nsbox.AsyncSandbox(timeout=20) as sandbox:
        for command in ("setsid sleep 60 & trap '' TERM; sleep 60", "cat /dev/zero | head -c 10000000; sleep 60"):
            with trio.move_on_after(milliseconds / 1000) as scope:
                await sandbox.shell(command)
            assert scope.cancelled_caught
            assert programs() == {}
        assert (await sandbox.shell("echo usable")).stdout == "usable\n"


async def test_one_cancelled_execution_leaves_the_others_alone(bell: Bell) -> None:
    """Only its own tree is killed."""
    async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox, trio.open_nursery() as nursery:
        results: list[nsbox.ExecutionResult] = []

        async def other() -> None:
            results.append(await sandbox.shell("echo > /bell/ring; read line < /bell/go; echo done"))

        nursery.start_soon(other)
        await trio.to_thread.run_sync(bell.wait)
        with trio.move_on_after(0.02):
            await sandbox.shell("sleep 60")
        assert sandbox.status is SandboxStatus.BUSY
        bell.go()
        with trio.fail_after(20):
            while not results:  # noqa: ASYNC110  # the nursery would end with it
                await trio.sleep(0.005)
    assert (results[0].verdict, results[0].stdout) == (Verdict.OK, "done\n")


async def test_a_cancelled_caller_of_a_suspended_sandbox_does_not_wait_for_a_resume(bell: Bell) -> None:
    """A frozen execution is killed as any other."""
    async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sandbox.shell, "echo > /bell/ring; sleep 60")
            await trio.to_thread.run_sync(bell.wait)
            await sandbox.suspend()
            nursery.cancel_scope.cancel()
        assert programs() == {}
        assert sandbox.status is SandboxStatus.SUSPENDED
        await sandbox.resume()
        assert sandbox.status is SandboxStatus.IDLE
        assert (await sandbox.shell("echo usable")).stdout == "usable\n"


def test_an_asyncio_task_can_be_cancelled(bell: Bell) -> None:
    """task.cancel(), wait_for and a second cancel: CancelledError, when everything is dead."""

    async def main() -> None:
        async with nsbox.AsyncSandbox(mounts=[bell.mount], timeout=20) as sandbox:
            for times in (1, 3):
                task = asyncio.create_task(sandbox.shell("setsid sleep 60 & echo > /bell/ring; sleep 60"))
                await asyncio.to_thread(bell.wait)
                for _ in range(times):
                    task.cancel()
                    await asyncio.sleep(0)
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert programs() == {}
                assert sandbox.executions == {}
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sandbox.shell("sleep 60"), 0.05)
            assert programs() == {}
            task = asyncio.create_task(sandbox.shell("sleep 60"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sandbox.shell("echo usable")).stdout == "usable\n"

    asyncio.run(main())


def test_an_asyncio_loop_that_ends_takes_its_executions_with_it(bell: Bell) -> None:
    """asyncio.run cancels what is left; the sandbox's end comes with its `async with`."""

    async def work() -> None:
        async with nsbox.AsyncSandbox(mounts=[bell.mount]) as sandbox:
            await sandbox.shell("echo > /bell/ring; sleep 60")

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.to_thread(bell.wait)
        assert not task.done()

    asyncio.run(main())
    assert programs() == {}


INTERRUPTED = """
import sys, nsbox
from pathlib import Path
from watching import programs
mount = nsbox.Mount(source=Path(sys.argv[1]), target='/bell', read_only=False)
with nsbox.Sandbox(mounts=[mount], timeout=30) as sandbox:
    for _ in range(2):
        try:
            sandbox.shell("setsid sleep 60 & trap '' INT; echo > /bell/ring; sleep 60")
        except KeyboardInterrupt:
            print('interrupted', len(programs()), sandbox.status.value, end=' ')
            print(sandbox.shell('echo usable').stdout.strip(), flush=True)
"""


@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_in_blocking_code_kills_the_execution_and_is_raised(bell: Bell, tmp_path: Path, group: bool) -> None:
    """SIGINT for the process, or as a terminal sends it, for its whole process group; the sandbox stays usable."""
    application = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with application:
        try:
            for _ in range(2):
                bell.wait()
                (os.killpg if group else os.kill)(application.pid, signal.SIGINT)
            out, err = application.communicate(timeout=20)
        finally:
            application.kill()
    assert out == "interrupted 0 idle usable\n" * 2, err
    assert application.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_application_that_a_signal_ends_leaves_nothing(bell: Bell, tmp_path: Path, number: signal.Signals) -> None:
    """By default action or by KeyboardInterrupt that nobody catches."""
    code = INTERRUPTED.replace("except KeyboardInterrupt:", "except ZeroDivisionError:")
    application = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    with application:
        bell.wait()
        pids = [*parts_of_nsbox(), *programs()]
        application.send_signal(number)
        assert application.wait(20) == -number
    until(lambda: not set(pids) & {*parts_of_nsbox(), *programs()}, "all of it is dead", seconds=2)
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()], "all of it is dead", seconds=2)
