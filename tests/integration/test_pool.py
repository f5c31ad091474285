"""Pools: sandboxes that are ready before they are asked for, each used once, and maps over them."""

import asyncio
import gc
import itertools
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from stepping import cancel_at_each_checkpoint
from watching import Bell, parts_of_nsbox, programs, until

import nsbox
from nsbox import Verdict

Run = Callable[[Callable[[], Awaitable[None]]], object]


def run_trio(function: Callable[[], Awaitable[None]]) -> None:
    """In a trio run."""
    trio.run(function)


def run_asyncio(function: Callable[[], Awaitable[None]]) -> None:
    """In an event loop of asyncio."""

    async def main() -> None:
        await function()

    asyncio.run(main())


in_both = pytest.mark.parametrize("run", [run_trio, run_asyncio])


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


async def echo(sandbox: nsbox.AsyncSandbox, number: int) -> int:
    """The number, after a program has said it; of 3 and 5, an error."""
    if number in (3, 5):
        raise ValueError(number)
    result = (await sandbox.shell(f"echo {number}")).raise_for_verdict()
    return int(result.stdout)


def echo_blocking(sandbox: nsbox.Sandbox, number: int) -> int:
    """The same for blocking code."""
    if number in (3, 5):
        raise ValueError(number)
    return int(sandbox.shell(f"echo {number}").raise_for_verdict().stdout)


def is_echo(outcomes: list[int | Exception], count: int) -> bool:
    """Whether they are those of `echo`, in order."""
    for number, outcome in enumerate(outcomes):
        if number in (3, 5):
            if not (isinstance(outcome, ValueError) and outcome.args == (number,)):
                return False
        elif outcome != number:
            return False
    return len(outcomes) == count


def endless(pulled: list[int]) -> Iterable[int]:
    """Numbers for ever, each noted as it is asked for."""
    for number in itertools.count():
        pulled.append(number)
        yield number


# ---------------------------------------------------------------- acquire


@pytest.mark.lane_unified
@in_both
def test_each_sandbox_is_used_once(run: Run) -> None:
    """What one user has left no other finds, and what was given back is ended."""

    async def main() -> None:
        seen = []
        async with nsbox.AsyncPool(size=2) as pool:
            for _ in range(6):
                async with pool.acquire() as sandbox:
                    assert (await sandbox.shell("test ! -e mine && echo x > mine")).ok
                    assert (await sandbox.shell("test -e mine")).ok
                    seen.append(sandbox)
        assert len({sandbox.id for sandbox in seen}) == 6
        assert {sandbox.status for sandbox in seen} == {nsbox.SandboxStatus.TERMINATED}

    run(main)


def test_each_sandbox_is_used_once_in_blocking_code() -> None:
    """The same, from several threads."""
    seen = []
    with nsbox.Pool(size=2) as pool:

        def use() -> None:
            for _ in range(4):
                with pool.acquire() as sandbox:
                    assert sandbox.shell("test ! -e mine && echo x > mine").ok
                    seen.append(sandbox.id)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(seen)) == 12


async def test_sandboxes_wait_but_never_more_than_size() -> None:
    """The pool fills up, is emptied by more users than it has sandboxes, and fills up again."""
    async with nsbox.AsyncPool(size=3) as pool:
        most = 0

        async def fill() -> None:
            await in_thread(lambda: until(lambda: pool.idle == 3, "it fills up", 20))

        async def use() -> None:
            nonlocal most
            async with pool.acquire() as sandbox:
                most = max(most, pool.idle)
                assert (await sandbox.run(["true"])).ok

        for _ in range(2):
            await fill()
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(use)
        assert most <= 3
        await fill()


async def test_a_sandbox_that_waits_is_lent_at_once() -> None:
    """Without a step of the launcher in between: it is the one that was there before."""
    async with nsbox.AsyncPool(size=2) as pool:
        waiting = [idle.core.id for idle in pool._living._idle]
        async with pool.acquire() as sandbox:
            assert sandbox.id == waiting[0]


@in_both
def test_a_pool_begins_when_it_is_first_used_and_ends_when_nobody_holds_it(run: Run) -> None:
    """Without `async with`: nothing of it is left once it is garbage."""

    async def main() -> None:
        pool = nsbox.AsyncPool(size=2)
        async with pool.acquire() as sandbox:
            assert (await sandbox.run(["true"])).ok
        stock = pool._living
        del pool
        gc.collect()
        await in_thread(lambda: until(lambda: stock._closing is not None and stock._closing.is_set(), "it has ended"))
        assert sandbox.status is nsbox.SandboxStatus.TERMINATED

    run(main)


@in_both
def test_a_pool_that_is_not_closed_ends_with_its_run(run: Run) -> None:
    """Whoever holds it, or a map of it, when the run ends: nothing is left, and the run ends as it would have."""

    async def main() -> None:
        pool = nsbox.AsyncPool(size=3)
        async with pool.acquire() as sandbox:
            assert (await sandbox.run(["true"])).ok
        async for outcome in pool.map(echo, endless([])):
            assert outcome == 0
            break
        held.append(pool)
        nsbox.AsyncPool(size=1)

    held: list[nsbox.AsyncPool] = []
    run(main)
    held.clear()
    gc.collect()


@pytest.mark.parametrize("fields", [{"size": 0}, {"size": 1001}, {"size": True}, {"memory_mb": -1}, {"nonsense": 1}])
def test_a_pool_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    """When it is made, with the field; so is the concurrency of a map."""
    for kind in (nsbox.Pool, nsbox.AsyncPool):
        with pytest.raises(nsbox.ConfigError, match=next(iter(fields))):
            kind(**fields)
        with pytest.raises(nsbox.ConfigError, match="concurrency"):
            kind().map(print, [], concurrency=0)  # type: ignore[arg-type]  # never called


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.lane_unified
def test_a_sandbox_that_dies_while_it_waits_is_replaced() -> None:
    """Each of them, whether its PID 1 or the launcher has died; what is lent afterwards lives."""
    with nsbox.Pool(size=3) as pool:
        for victim in ("PID 1", "launcher"):
            until(lambda: pool.idle == 3, "it is full")
            before = {idle.core.id for idle in pool._stock._idle}
            if victim == "launcher":
                os.kill(parts_of_nsbox()[0], signal.SIGKILL)
            else:
                for idle in tuple(pool._stock._idle):
                    signal.pidfd_send_signal(idle.core.living()[1].pidfd, signal.SIGKILL)

            def replaced(before: set[str] = before) -> bool:
                now = {idle.core.id for idle in tuple(pool._stock._idle)}
                return len(now) == 3 and not now & before

            until(replaced, f"each was replaced after the death of its {victim}", 30)
            with pool.acquire() as sandbox:
                assert sandbox.shell("echo alive").stdout == "alive\n"


def test_who_waits_is_told_why_no_sandbox_can_be_made(tmp_path: Path) -> None:
    """At the start, and at each `acquire`; once the reason is gone the pool works, and fills up by itself."""
    source = tmp_path / "data"
    pool = nsbox.Pool(size=2, mounts=[nsbox.Mount(source=source, target="/data")])
    with pytest.raises(nsbox.ConfigError, match="data"):
        pool.start()
    for _ in range(3):
        with pytest.raises(nsbox.ConfigError, match="data"), pool.acquire():
            pass
    source.mkdir()
    with pool.acquire() as sandbox:
        assert sandbox.shell("test -d /data").ok
    until(lambda: pool.idle == 2, "it fills up", 20)
    pool.close()


@in_both
def test_a_closed_pool_has_ended_what_was_in_use(run: Run, bell: Bell) -> None:
    """An execution is CANCELLED, and whoever asks for a sandbox then is told that there is none."""

    async def main() -> None:
        pool = nsbox.AsyncPool(size=1, mounts=[bell.mount], timeout=60)
        await pool.start()
        async with pool.acquire() as sandbox:
            results = []

            async def execute() -> None:
                results.append(await sandbox.shell("echo up > /bell/ring; sleep 300"))

            async def close() -> None:
                await in_thread(bell.wait)
                await pool.aclose()
                await pool.aclose()

            await together(execute, close)
            assert [result.verdict for result in results] == [Verdict.CANCELLED]
            assert sandbox.status is nsbox.SandboxStatus.TERMINATED
        assert programs() == {}
        with pytest.raises(nsbox.InvalidStateError, match="closed"):
            async with pool.acquire():
                pass
        with pytest.raises(nsbox.InvalidStateError, match="closed"):
            await pool.start()

    run(main)


async def in_thread(function: Callable[[], object]) -> None:
    """Call something that blocks, from trio or from asyncio."""
    if trio.lowlevel.in_trio_run():
        await trio.to_thread.run_sync(function)
    else:
        await asyncio.to_thread(function)


async def together(*functions: Callable[[], Awaitable[None]]) -> None:
    """All of them at the same time, in trio or in asyncio."""
    if trio.lowlevel.in_trio_run():
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))


async def test_acquire_can_be_cancelled_at_each_of_its_checkpoints() -> None:
    """The pool has as many as before, nothing is lent, and it goes on."""
    async with nsbox.AsyncPool(size=1) as pool:

        async def use_two() -> None:
            async with pool.acquire() as one, pool.acquire() as other:  # the second one has to be made
                assert (await one.run(["true"])).ok
                assert (await other.run(["true"])).ok

        assert await cancel_at_each_checkpoint(use_two, lambda: None, 100) == {"acquire", "run"}
        await in_thread(lambda: until(lambda: not pool._living._lent, "nothing is lent"))
        async with pool.acquire() as sandbox:
            assert (await sandbox.run(["true"])).ok


def test_acquire_can_be_cancelled_in_asyncio() -> None:
    """At some moments of its way, while it waits for one that is made; the pool goes on, and nothing is lent."""

    async def main() -> None:
        async with nsbox.AsyncPool(size=1) as pool:

            async def use() -> None:
                async with pool.acquire(), pool.acquire() as sandbox:
                    await sandbox.run(["sleep", "60"])

            for steps in range(12):
                task = asyncio.create_task(use())
                for _ in range(steps * 3):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await in_thread(lambda: until(lambda: not pool._living._lent, "nothing is lent"))
            async with pool.acquire() as sandbox:
                assert (await sandbox.run(["true"])).ok

    asyncio.run(main())


# ---------------------------------------------------------------- map


@pytest.mark.lane_unified
@in_both
def test_outcomes_come_in_order_and_errors_among_them(run: Run) -> None:
    """What the function raises is yielded in its place; progress counts up to the length."""

    async def main() -> None:
        told: list[tuple[int, int]] = []
        async with nsbox.AsyncPool(size=2) as pool:
            mapping = pool.map(echo, range(20), concurrency=4, on_progress=lambda *numbers: told.append(numbers))
            outcomes = [outcome async for outcome in mapping]
            assert is_echo(outcomes, 20), outcomes
            assert told == [(done, 20) for done in range(1, 21)]
            assert [outcome async for outcome in pool.map(echo, [])] == []

    run(main)


def test_outcomes_come_in_order_in_blocking_code() -> None:
    """The same with threads; the length of a generator is not known."""
    told: list[tuple[int, int]] = []
    with nsbox.Pool(size=2) as pool:
        items = (number for number in range(20))
        mapping = pool.map(echo_blocking, items, concurrency=4, on_progress=lambda *numbers: told.append(numbers))
        outcomes = list(mapping)
        assert is_echo(outcomes, 20), outcomes
        assert told == [(done, -1) for done in range(1, 21)]
        assert list(pool.map(echo_blocking, [])) == []


@in_both
def test_an_endless_sequence_is_asked_for_what_can_be_worked_on(run: Run) -> None:
    """Never for more than twice the concurrency beyond what was taken; and leaving the loop is no error."""

    async def main() -> None:
        pulled: list[int] = []
        async with nsbox.AsyncPool(size=2) as pool:
            taken = 0
            async with pool.map(echo, endless(pulled), concurrency=3) as mapping:
                async for outcome in mapping:
                    taken += 1
                    assert outcome == taken - 1 or isinstance(outcome, ValueError)
                    assert taken < len(pulled) <= taken + 6
                    if taken == 12:
                        break
            assert [outcome async for outcome in mapping] == []

    run(main)


def test_an_endless_sequence_in_blocking_code() -> None:
    """The same; and it is asked in the caller's thread only."""
    pulled: list[int] = []
    threads = set()

    def items() -> Iterator[int]:
        for number in endless(pulled):
            threads.add(threading.get_ident())
            yield number

    with nsbox.Pool(size=2) as pool, pool.map(echo_blocking, items(), concurrency=3) as mapping:
        for taken, outcome in enumerate(mapping, 1):
            assert outcome == taken - 1 or isinstance(outcome, ValueError)
            assert len(pulled) <= taken + 6
            if taken == 12:
                break
    assert threads == {threading.get_ident()}


@in_both
def test_leaving_the_loop_early_cancels_what_runs(run: Run, bell: Bell) -> None:
    """With `async with` it is dead afterwards; a map that is only dropped ends it, too."""

    async def ring(sandbox: nsbox.AsyncSandbox, number: int) -> int:
        await sandbox.shell(f"echo up > /bell/ring; test {number} = 0 || sleep 300")
        return number

    async def main() -> None:
        async with nsbox.AsyncPool(size=3, mounts=[bell.mount], timeout=60) as pool:
            async with pool.map(ring, range(3)) as mapping:
                async for outcome in mapping:
                    assert outcome == 0
                    await in_thread(lambda: [bell.wait() for _ in range(3)])
                    assert len(programs()) >= 2
                    break
            await in_thread(lambda: until(lambda: programs() == {}, "they are dead"))
            async for _ in pool.map(ring, range(3)):
                await in_thread(lambda: [bell.wait() for _ in range(3)])
                break
            gc.collect()
            await in_thread(lambda: until(lambda: programs() == {}, "they are dead, too"))
            assert is_echo([outcome async for outcome in pool.map(echo, range(8))], 8)

    run(main)


def test_leaving_the_loop_early_in_blocking_code(bell: Bell) -> None:
    """The executions are CANCELLED, and the functions that waited for them go on and end."""
    verdicts = []

    def ring(sandbox: nsbox.Sandbox, number: int) -> int:
        result = sandbox.shell(f"echo up > /bell/ring; test {number} = 0 || sleep 300")
        verdicts.append(result.verdict)
        return number

    with nsbox.Pool(size=3, mounts=[bell.mount], timeout=60) as pool:
        with pool.map(ring, range(3)) as mapping:
            for outcome in mapping:
                assert outcome == 0
                for _ in range(3):
                    bell.wait()
                assert len(programs()) >= 2
                break
        assert verdicts == [Verdict.OK, Verdict.CANCELLED, Verdict.CANCELLED]
        for _ in pool.map(ring, range(3)):
            for _ in range(3):
                bell.wait()
            break
        gc.collect()
        until(lambda: programs() == {}, "they are dead, too")
        assert is_echo(list(pool.map(echo_blocking, range(8))), 8)


async def test_cancelling_who_iterates_ends_the_map(bell: Bell) -> None:
    """What ran is dead when the cancellation is through; the pool goes on."""

    async def ring(sandbox: nsbox.AsyncSandbox, _: int) -> None:
        await sandbox.shell("echo up > /bell/ring; sleep 300")

    async with nsbox.AsyncPool(size=2, mounts=[bell.mount], timeout=60) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def iterate() -> None:
                    async for _ in pool.map(ring, range(2)):
                        raise AssertionError("none of them ends")

                nursery.start_soon(iterate)
                for _ in range(2):
                    await in_thread(bell.wait)
                assert len(programs()) >= 2
                scope.cancel()
        until(lambda: programs() == {}, "they are dead")
        assert is_echo([outcome async for outcome in pool.map(echo, range(8))], 8)


@in_both
def test_what_the_items_or_the_progress_raise_ends_the_map(run: Run) -> None:
    """An error of the items comes after the outcomes before it, one of the callback at once."""

    def broken() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    def refuse(*_: int) -> None:
        raise LookupError("enough")

    async def main() -> None:
        async with nsbox.AsyncPool(size=2) as pool:
            outcomes: list[int | Exception] = []

            async def collect(mapping: nsbox.PoolMap[int, int]) -> None:
                async for outcome in mapping:
                    outcomes.append(outcome)  # noqa: PERF401  # a comprehension would keep none of them

            with pytest.raises(LookupError, match="no more"):
                await collect(pool.map(echo, broken()))
            assert outcomes == [0, 1, 2]
            with pytest.raises(LookupError, match="enough"):
                await collect(pool.map(echo, range(3), on_progress=refuse))
            assert outcomes == [0, 1, 2]
            with pytest.raises(TypeError):
                pool.map(echo, 5)  # type: ignore[arg-type]  # that is the point

    run(main)


def test_what_the_items_or_the_progress_raise_in_blocking_code() -> None:
    """The same."""

    def broken() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more")

    def refuse(*_: int) -> None:
        raise LookupError("enough")

    with nsbox.Pool(size=2) as pool:
        outcomes: list[int | Exception] = []
        with pytest.raises(LookupError, match="no more"):
            outcomes.extend(pool.map(echo_blocking, broken()))
        assert outcomes == [0, 1, 2]
        with pytest.raises(LookupError, match="enough"):
            list(pool.map(echo_blocking, range(3), on_progress=refuse))


async def test_closing_the_pool_ends_its_maps() -> None:
    """Who iterates is told so, instead of taking it for the end of the items."""
    pool = nsbox.AsyncPool(size=2)
    mapping = pool.map(echo, endless([]))
    assert await anext(mapping) == 0
    await pool.aclose()
    with pytest.raises(nsbox.InvalidStateError, match="closed"):
        await anext(mapping)
    with pytest.raises(StopAsyncIteration):
        await anext(mapping)


def test_closing_the_pool_ends_its_maps_in_blocking_code() -> None:
    """The same."""
    pool = nsbox.Pool(size=2)
    mapping = pool.map(echo_blocking, endless([]))
    assert next(mapping) == 0
    pool.close()
    with pytest.raises(nsbox.InvalidStateError, match="closed"):
        next(mapping)
    with pytest.raises(StopIteration):
        next(mapping)


@pytest.mark.slow
@in_both
def test_two_hundred_programs_are_graded(run: Run) -> None:
    """Eight at a time, each in a sandbox of its own, with the verdict and the output that are its own."""

    async def grade(sandbox: nsbox.AsyncSandbox, number: int) -> tuple[Verdict, str]:
        if number % 10 == 7:
            result = await sandbox.execute(f"print({number}); raise SystemExit({number})")
        else:
            result = await sandbox.execute(f"open('own', 'x').write('1'); print({number} * 3)")
        return result.verdict, result.stdout

    async def main() -> None:
        async with nsbox.AsyncPool(size=4) as pool:
            outcomes = [outcome async for outcome in pool.map(grade, range(200), concurrency=8)]
        expected = [
            (Verdict.NONZERO_EXIT, f"{number}\n") if number % 10 == 7 else (Verdict.OK, f"{number * 3}\n")
            for number in range(200)
        ]
        assert outcomes == expected

    run(main)
