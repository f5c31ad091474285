"""Calls that cross each other: each ends, with a result or an error that names the other, and nothing is left."""

import contextlib

import pytest
import trio

import nsbox
from nsbox import AsyncSandbox, InvalidStateError, Verdict
from nsbox._errors import NetworkError, SetupError

SECONDS = 20.0
ROUNDS = 12
FOR_EVER = ["cat"]


@pytest.mark.lane_unified
@pytest.mark.parametrize("change", ["restart", "reset", "terminate"])
def test_a_program_spawned_at_the_same_time_holds_up_no_change(change: str) -> None:
    """One that waits for input for ever is refused, or ended with the others; it is never left for them to wait for."""

    async def main() -> set[object]:
        seen: set[object] = set()

        async def spawn(sandbox: AsyncSandbox) -> None:
            try:
                async with await sandbox.spawn(FOR_EVER) as process:
                    result = await process.wait()
            except (InvalidStateError, NetworkError):
                seen.add("refused")
            else:
                seen.add(result.verdict)

        for turn in range(ROUNDS):
            async with AsyncSandbox() as sandbox:
                with trio.fail_after(SECONDS):
                    async with trio.open_nursery() as nursery:
                        other = await sandbox.spawn(FOR_EVER)  # which the change has to end, and to wait for
                        nursery.start_soon(spawn, sandbox)
                        for _ in range(turn % 4):
                            await trio.lowlevel.checkpoint()
                        await getattr(sandbox, change)()
                        await other.aclose()
                        await sandbox.terminate()  # it may have been spawned behind the change
        return seen

    assert trio.run(main) <= {"refused", Verdict.CANCELLED}


@pytest.mark.needs_cgroups
def test_an_execution_during_suspend_is_refused_as_one_of_a_suspended_sandbox() -> None:
    """Whether the sandbox is still about to be frozen or is so already, the error is one and the same."""

    async def main() -> None:
        refused = []

        async def execute(sandbox: AsyncSandbox) -> None:
            try:
                assert (await sandbox.run(["true"])).ok
            except InvalidStateError as exc:
                refused.append(str(exc))

        async with AsyncSandbox() as sandbox:
            for turn in range(ROUNDS):
                with trio.fail_after(SECONDS):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(sandbox.suspend)
                        for _ in range(turn % 3):
                            await trio.lowlevel.checkpoint()
                        nursery.start_soon(execute, sandbox)
                        while sandbox.status is not nsbox.SandboxStatus.SUSPENDED:
                            await trio.lowlevel.checkpoint()
                        await sandbox.resume()
            assert (await sandbox.run(["true"])).ok
        assert refused
        assert all("suspended" in one for one in refused)

    trio.run(main)


def test_a_sandbox_that_is_destroyed_during_its_restart_is_gone() -> None:
    """What was to take its place does not live on under its name: the launcher answers both requests."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            _, cell = sandbox._core.living()

            async def restart() -> None:
                with contextlib.suppress(NetworkError, SetupError):
                    await cell.restart()

            many = await sandbox.spawn(["sh", "-c", "for i in $(seq 50); do sleep 600 & done; echo; wait"])
            assert await many.stdout.receive_some() == b"\n"  # so that it takes longer to die than the other to be made
            with trio.fail_after(SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(restart)
                    await trio.lowlevel.checkpoint()
                    await cell.destroy()
            await many.aclose()

    trio.run(main)
