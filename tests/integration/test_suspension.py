"""Suspended: no CPU, no progress, clocks that stand still, and everything goes on after `resume`."""

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Bell, cpu_ticks, programs

import nsbox
from nsbox import SandboxStatus, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


@pytest.fixture(name="pool")
def _pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


NAP = "echo > /bell/ring; sleep 0.3; sleep 0.3; echo done"
SPIN = """
import time
open('/bell/ring', 'w').write('up\\n')
end = time.process_time() + 0.6
while time.process_time() < end: pass
print('done')
"""


@pytest.mark.lane_unified
def test_the_wall_clock_stands_still_while_suspended(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """0.6 s of work under a limit of 1 s, with 1.5 s of suspension in between, is within the limit (L08)."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=1) as sandbox:
        future = pool.submit(sandbox.shell, NAP)
        bell.wait()
        sandbox.suspend()
        assert sandbox.status is SandboxStatus.SUSPENDED
        assert not sandbox.is_active
        time.sleep(1.5)  # what is to be shown is that this time does not count
        assert not future.done()
        sandbox.resume()
        assert sandbox.status is SandboxStatus.BUSY
        result = future.result(20)
        assert (result.verdict, result.stdout) == (Verdict.OK, "done\n")
        assert result.metrics is not None
        assert 1.5 <= result.metrics.suspended_seconds < 5
        assert 0.2 < result.metrics.wall_seconds < 1  # a sleep goes on by the clock while frozen
        late = sandbox.shell("sleep 5")
        assert late.verdict is Verdict.WALL_TIME_LIMIT


@pytest.mark.lane_unified
def test_a_suspended_program_uses_no_cpu(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """A busy loop stops at once and goes on where it was; several suspensions add up."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        future = pool.submit(sandbox.execute, SPIN, cpu_timeout=5)
        bell.wait()
        for _ in range(3):
            sandbox.suspend()
            (pid,) = programs()
            before = cpu_ticks(pid)
            time.sleep(0.2)  # twenty ticks of a program that ran
            assert cpu_ticks(pid) == before
            sandbox.resume()
        result = future.result(20)
        assert (result.verdict, result.stdout) == (Verdict.OK, "done\n")
        assert result.metrics is not None
        assert 0.6 <= result.metrics.suspended_seconds < 5


def test_a_sandbox_without_executions_can_be_suspended_too() -> None:
    """It comes back to the state it was in, as often as one likes."""
    with nsbox.Sandbox() as sandbox:
        for expected in (SandboxStatus.RUNNING, SandboxStatus.IDLE):
            for _ in range(3):
                sandbox.suspend()
                with pytest.raises(nsbox.InvalidStateError, match="suspended"):
                    sandbox.shell("true")
                sandbox.resume()
                assert sandbox.status is expected
            assert sandbox.shell("echo usable").stdout == "usable\n"


def test_stop_executions_cancels_them_first(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """suspend(stop_executions=True): CANCELLED results, then suspended; IDLE after resume."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
        futures = [pool.submit(sandbox.shell, "echo > /bell/ring; sleep 60") for _ in range(2)]
        for _ in futures:
            bell.wait()
        sandbox.suspend(stop_executions=True)
        assert [future.result(20).verdict for future in futures] == [Verdict.CANCELLED] * 2
        assert sandbox.status is SandboxStatus.SUSPENDED
        assert programs() == {}
        sandbox.resume()
        assert sandbox.status is SandboxStatus.IDLE


@pytest.mark.lane_unified
def test_an_execution_can_be_killed_while_it_is_frozen(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """Its result is there without a resume, the others are still frozen (L08, runc's "paused container")."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        first = pool.submit(sandbox.shell, "echo one; echo > /bell/ring; sleep 60")
        bell.wait()
        (first_id,) = sandbox.executions
        second = pool.submit(sandbox.shell, "echo > /bell/ring; read line < /bell/go; echo two")
        bell.wait()
        sandbox.suspend()
        sandbox.terminate_execution(first_id)
        assert (first.result(20).verdict, first.result().stdout) == (Verdict.CANCELLED, "one\n")
        assert sandbox.status is SandboxStatus.SUSPENDED
        bell.go()
        assert not second.done()
        sandbox.resume()
        assert (second.result(20).verdict, second.result().stdout) == (Verdict.OK, "two\n")


@pytest.mark.lane_unified
def test_terminate_ends_a_suspended_sandbox(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """Everything is dead on return, and the caller of the execution has its result."""
    sandbox = nsbox.Sandbox.create(mounts=[bell.mount])
    future = pool.submit(sandbox.shell, "echo > /bell/ring; setsid sleep 60 & sleep 60")
    bell.wait()
    sandbox.suspend()
    sandbox.terminate()
    assert programs() == {}
    assert future.result(20).verdict is Verdict.CANCELLED
    assert sandbox.status is SandboxStatus.TERMINATED


def test_the_last_execution_that_is_killed_while_frozen_leaves_an_idle_sandbox(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Resumed, it is IDLE, for nothing is running any more."""
    with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
        future = pool.submit(sandbox.shell, "echo > /bell/ring; sleep 60")
        bell.wait()
        sandbox.suspend()
        sandbox.terminate_execution(next(iter(sandbox.executions)))
        assert future.result(20).verdict is Verdict.CANCELLED
        sandbox.resume()
        assert sandbox.status is SandboxStatus.IDLE
        assert sandbox.shell("true").ok
