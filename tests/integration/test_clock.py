"""The clock of the host is set while sandboxes run: nothing of nsbox goes by it but the times that it tells.

clock_settime(2) is for the whole kernel, so this runs in the one that the lane unified has for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import trio

import nsbox
from nsbox import AsyncSandbox, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups, pytest.mark.needs_own_kernel]

_HOUR = 3600.0


@pytest.fixture(params=[_HOUR, -_HOUR], ids=["an hour ahead", "an hour back"])
def jump(request: pytest.FixtureRequest) -> Iterator[float]:
    """By how much the clock is set, in seconds. Afterwards it is right again."""
    before, started = time.clock_gettime(time.CLOCK_REALTIME), time.monotonic()
    yield request.param
    time.clock_settime(time.CLOCK_REALTIME, before + time.monotonic() - started)


def set_clock(seconds: float) -> None:
    """By so many, ahead or, negative, back."""
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)


async def set_soon(seconds: float) -> None:
    """In the middle of an execution that takes a second or more."""
    await trio.sleep(0.3)
    set_clock(seconds)


async def test_a_program_keeps_its_time(jump: float) -> None:
    """One that has enough of it ends by itself, and is said to have taken as long as it has."""
    async with AsyncSandbox() as sandbox, trio.open_nursery() as nursery:
        nursery.start_soon(set_soon, jump)
        begun, wall = time.monotonic(), time.time()
        result = await sandbox.run(["sleep", "2"], timeout=20.0)
        took = time.monotonic() - begun
        assert time.time() - wall - took == pytest.approx(jump, abs=1)
        assert result.verdict is Verdict.OK
        assert result.metrics is not None
        assert 2.0 <= result.metrics.wall_seconds <= took


async def test_a_program_gets_no_more_time(jump: float) -> None:
    """One that has none left is killed when it is due."""
    async with AsyncSandbox() as sandbox, trio.open_nursery() as nursery:
        nursery.start_soon(set_soon, jump)
        with trio.fail_after(30):
            result = await sandbox.run(["sleep", "1000"], timeout=2.0)
        assert result.verdict is Verdict.WALL_TIME_LIMIT
        assert result.metrics is not None
        assert result.metrics.wall_seconds >= 2.0


async def test_the_time_suspended_is_as_long_as_it_was(jump: float) -> None:
    """It does not count, and what is left after it does."""
    async with AsyncSandbox() as sandbox, trio.open_nursery() as nursery:
        results: list[nsbox.ExecutionResult] = []

        async def run() -> None:
            results.append(await sandbox.run(["sleep", "1"], timeout=30.0))

        nursery.start_soon(run)
        await trio.sleep(0.3)
        await sandbox.suspend()
        set_clock(jump)
        await trio.sleep(1.0)
        await sandbox.resume()
    (result,) = results
    assert result.verdict is Verdict.OK
    assert result.metrics is not None
    assert 0.9 <= result.metrics.suspended_seconds <= 10.0


async def test_what_is_looked_at_again_and_again_goes_on(jump: float) -> None:
    """Metrics are told of as often as before."""
    told = trio.Semaphore(0)
    async with AsyncSandbox(metrics_interval=0.2) as sandbox:
        sandbox.on("metrics_updated", lambda _: told.release())
        set_clock(jump)
        with trio.fail_after(30):
            for _ in range(3):
                await told.acquire()
        assert sandbox.status is nsbox.SandboxStatus.RUNNING
