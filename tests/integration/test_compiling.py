"""Compilers that are waited for, shared, cancelled and killed: nothing of them is left, and nobody waits in vain."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from compiling import compile_cache
from watching import Bell, programs

import nsbox
from nsbox import AsyncSandbox, Verdict

__all__ = ["compile_cache"]  # a fixture
pytestmark = [pytest.mark.usefixtures("_compile_cache")]


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


def slow(tmp_path: Path, *, once: str = "") -> nsbox.Runtime:
    """A language whose compiler rings, and goes on when it may; `once` makes it another compiler."""
    return nsbox.Runtime(
        name="slow", file_name="main.txt", run=["sh", "{output}/p"],
        compile=["sh", "-c", f"echo compiling > /bell/ring; read line < /bell/go; echo 'cat' > {{output}}/p; : {once}"],
        environment={"WHERE": str(tmp_path)},
    )  # fmt: skip


async def test_many_who_want_the_same_compile_once(bell: Bell, tmp_path: Path) -> None:
    """The others find the result in the cache, also from other sandboxes; another text is another program."""
    runtime = slow(tmp_path)
    notes: list[object] = []

    async def execute(sandbox: AsyncSandbox, code: str) -> None:
        result = await sandbox.execute(code, language=runtime, stdin="x")
        assert result.stdout == "x", result
        notes.append(result.evidence["compile_cache"])

    async with AsyncSandbox(mounts=[bell.mount]) as one, AsyncSandbox(mounts=[bell.mount]) as other:
        async with trio.open_nursery() as nursery:
            for sandbox in (one, one, other, other):
                nursery.start_soon(execute, sandbox, "a")
            assert await trio.to_thread.run_sync(bell.wait) == "compiling"
            bell.go()
        assert sorted(map(str, notes)) == ["hit", "hit", "hit", "kept"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, one, "b")
            assert await trio.to_thread.run_sync(bell.wait) == "compiling"
            bell.go()
        assert notes[-1] == "kept"


@pytest.mark.parametrize("way", ["terminate_execution", "terminate", "restart"])
async def test_an_execution_that_compiles_can_be_ended(bell: Bell, tmp_path: Path, way: str) -> None:
    """By each way to end it: the verdict is CANCELLED, its compiler is dead, and a living sandbox goes on."""
    runtime = slow(tmp_path, once=f"#{way}")
    results: list[nsbox.ExecutionResult] = []
    async with AsyncSandbox(mounts=[bell.mount]) as sandbox:

        async def execute() -> None:
            results.append(await sandbox.execute("a", language=runtime))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute)
            await trio.to_thread.run_sync(bell.wait)
            (execution_id,) = sandbox.executions
            assert any("read line" in line for line in programs().values())
            if way == "terminate_execution":
                await sandbox.terminate_execution(execution_id)
            else:
                await getattr(sandbox, way)()
        assert results[0].verdict is Verdict.CANCELLED
        assert not any("read line" in line for line in programs().values())
        if way != "terminate":
            assert (await sandbox.execute("print(1)")).stdout == "1\n"


async def test_a_cancelled_caller_ends_his_compiler_and_no_other_s(bell: Bell, tmp_path: Path) -> None:
    """Who waits for the same program compiles it himself then."""
    runtime = slow(tmp_path, once="#cancelled")
    async with AsyncSandbox(mounts=[bell.mount]) as sandbox:
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await sandbox.execute("a", language=runtime)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            assert await trio.to_thread.run_sync(bell.wait) == "compiling"

            async def second() -> None:
                assert (await sandbox.execute("a", language=runtime, stdin="y")).stdout == "y"

            nursery.start_soon(second)
            scope.cancel()
            assert await trio.to_thread.run_sync(bell.wait) == "compiling"
            bell.go()
        assert scope.cancelled_caught
    assert not any("read line" in line for line in programs().values())


@pytest.mark.needs_cgroups  # the freezer
async def test_a_sandbox_that_is_suspended_meanwhile_runs_the_program_when_it_is_resumed(
    bell: Bell, tmp_path: Path
) -> None:
    """Compiling goes on, the program waits, and its wall clock with it."""
    runtime = slow(tmp_path, once="#suspended")
    async with AsyncSandbox(mounts=[bell.mount], timeout=20) as sandbox:
        results: list[nsbox.ExecutionResult] = []

        async def execute() -> None:
            results.append(await sandbox.execute("a", language=runtime, stdin="z"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute)
            await trio.to_thread.run_sync(bell.wait)
            await sandbox.suspend()
            bell.go()
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert not results
            await sandbox.resume()
        assert results[0].stdout == "z"
