"""An application that may have no more files open: each call ends with a clear error, and harms no other sandbox."""

import concurrent.futures
import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from leaks import open_files
from watching import Bell, until

import nsbox
from nsbox import AsyncSandbox, SetupError
from nsbox._supervisor.supervisor import current_supervisor

SECONDS = 20.0
MOST_FREE = 14
TERMINAL = (24, 80)


@contextlib.contextmanager
def only_free(count: int) -> Iterator[None]:
    """This process can open `count` files more, and all again afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + MOST_FREE + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


@pytest.mark.lane_unified
@pytest.mark.parametrize("pty", [None, TERMINAL])
def test_a_spawn_without_descriptors_fails_alone(pty: tuple[int, int] | None) -> None:
    """Whichever descriptor of it is the first too many, the sandbox and others of the application live on."""

    async def main() -> None:
        seen: set[object] = set()
        async with AsyncSandbox(warm=False) as other, AsyncSandbox(warm=False) as sandbox:
            async with await sandbox.spawn(["true"], pty=pty) as process:
                assert (await process.wait()).ok
            for free in range(MOST_FREE):
                with trio.fail_after(SECONDS), only_free(free):
                    try:
                        async with await sandbox.spawn(["true"], pty=pty) as process:
                            seen.add((await process.wait()).ok)
                    except SetupError as exc:
                        seen.add(exc.errno)
                assert sandbox.is_active
                assert other.is_active
            assert (await other.run(["echo", "on"])).stdout == "on\n"
        assert seen == {True, errno.EMFILE}

    trio.run(main)


@pytest.mark.lane_unified
def test_a_network_whose_descriptors_do_not_arrive_is_an_error_that_leaves_none_open() -> None:
    """Of the router and of a sandbox; with enough room the next time it is there."""

    async def main() -> None:
        supervisor = await current_supervisor()
        async with AsyncSandbox(warm=False) as sandbox:
            for open_one, count in ((supervisor.open_router, 6), (sandbox._core.living()[1].open_door, 2)):
                for free in range(count):
                    before = open_files()
                    with only_free(free), pytest.raises(SetupError, match="Too many open files"):
                        await open_one()
                    assert open_files() == before
                with only_free(count):
                    (await open_one()).close()
            assert (await sandbox.run(["echo", "on"])).stdout == "on\n"

    trio.run(main)


def test_a_restart_whose_descriptors_do_not_arrive_is_a_loss_that_is_recovered() -> None:
    """Not a sandbox that looks alive, and whose every use fails with EBADF."""

    async def main() -> None:
        policy = nsbox.RecoveryPolicy(retry_delay=0.01, max_retries=10)
        async with AsyncSandbox(warm=False, recovery=policy) as sandbox:
            await sandbox.write_file("/workspace/kept", "as it was")
            recovered = trio.Event()
            sandbox._core.emitter.subscribe(nsbox.RecoverySucceeded, lambda _: recovered.set())
            # the new ones come before the old ones are closed
            with only_free(0), pytest.raises(SetupError, match="Too many open files"):
                await sandbox.restart()
            with trio.fail_after(SECONDS):
                await recovered.wait()
            assert (await sandbox.run(["cat", "/workspace/kept"])).stdout == "as it was"

    trio.run(main)


@pytest.mark.needs_rootless
def test_a_program_whose_limits_nobody_can_watch_is_ended(tmp_path: Path) -> None:
    """Without cgroups: for want of descriptors it is not seen for a moment, and after a second ended, with a reason."""
    bell = Bell(tmp_path)
    with nsbox.Sandbox(mounts=[bell.mount], timeout=30) as sandbox:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            call = pool.submit(sandbox.shell, "echo running > /bell/ring; sleep 30")
            assert bell.wait() == "running"
            samplers = sandbox._core.living()[1].samplers
            until(lambda: any(sampler.peak_processes for sampler in samplers), "it was seen")
            with only_free(0), pytest.raises(SetupError, match="sampling"):
                call.result(SECONDS)
        assert sandbox.shell("echo usable").stdout == "usable\n"
    bell.close()
