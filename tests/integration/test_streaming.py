"""Streaming: output as it is written, and the same result at the end as `execute` has."""

import asyncio
from pathlib import Path

import pytest
import trio
from watching import Bell, programs, until

import nsbox
from nsbox import Verdict


def content(events: list[nsbox.Event], stream: str) -> str:
    """What was written to one of the two."""
    return "".join(one.content for one in events if isinstance(one, nsbox.ExecutionOutput) and one.stream == stream)


@pytest.mark.lane_unified
def test_output_comes_while_the_program_runs(tmp_path: Path) -> None:
    """The first line is there before the program goes on, which it does when it is told to."""
    bell = Bell(tmp_path)
    try:
        with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
            stream = sandbox.execute_stream("print('first'); open('/bell/go').readline(); print('second')")
            events = [next(stream)]
            assert isinstance(events[0], nsbox.ExecutionOutput)
            assert events[0].content.startswith("first")
            with pytest.raises(nsbox.InvalidStateError, match="not read to its end"):
                _ = stream.result
            bell.go()
            events += stream
            assert content(events, "stdout") == stream.result.stdout == "first\nsecond\n"
            assert stream.result.ok
    finally:
        bell.close()


def test_both_streams_are_told_apart_and_characters_stay_whole() -> None:
    """A character that is written in two pieces comes in one; what never becomes one is U+FFFD at the end."""
    program = """
import os, time
for half in (b'\\xc3', b'\\xbc', b'\\xf0\\x9f', b'\\x98\\x80!'):
    os.write(1, half)
    time.sleep(0.05)
os.write(2, b'err\\xff')
os.write(1, b'\\xe2\\x82')
"""
    with nsbox.Sandbox() as sandbox:
        stream = sandbox.execute_stream(program)
        events = list(stream)
        assert content(events, "stdout") == "ü😀!\ufffd" == stream.result.stdout
        assert content(events, "stderr") == "err\ufffd" == stream.result.stderr
        assert not any("\ufffd" in one.content for one in events[:-3] if isinstance(one, nsbox.ExecutionOutput))


def test_nothing_is_kept_where_nothing_is_captured() -> None:
    """`capture_output=False`: 8 MiB pass through the stream, and the result has none of it."""
    with nsbox.Sandbox() as sandbox:
        stream = sandbox.execute_stream("import sys; sys.stdout.write('x' * (8 << 20))", capture_output=False)
        total = sum(len(one.content) for one in stream if isinstance(one, nsbox.ExecutionOutput))
        assert total == 8 << 20
        assert stream.result.ok
        assert stream.result.stdout_bytes == b""


def test_a_slow_reader_holds_the_program_up() -> None:
    """A flood of 12 MiB is not read ahead of its reader: the program still runs when he has seen the first of it."""
    with nsbox.Sandbox() as sandbox:
        stream = sandbox.execute_stream("import sys\nfor _ in range(192): sys.stdout.write('x' * 65536)")
        first = next(stream)
        assert isinstance(first, nsbox.ExecutionOutput)
        assert sandbox.run(["true"]).ok  # a turn of the supervisor's
        assert len(sandbox.executions) == 1
        rest = sum(len(one.content) for one in stream if isinstance(one, nsbox.ExecutionOutput))
        assert len(first.content) + rest == 12 << 20
        assert stream.result.ok


def test_leaving_early_cancels_the_execution() -> None:
    """A loop that is left by break leaves no program behind, and the sandbox is free for the next."""
    with nsbox.Sandbox(timeout=60) as sandbox:
        failed: list[nsbox.ExecutionFailed] = []
        sandbox.on(nsbox.ExecutionFailed, failed.append)
        for event in sandbox.execute_stream("import time\nprint('up')\ntime.sleep(50)"):
            assert isinstance(event, nsbox.ExecutionOutput)
            break
        until(lambda: not sandbox.executions, "the execution has ended")
        assert not programs()
        assert sandbox.shell("true").ok
    assert len(failed) == 1


def test_a_closed_stream_has_waited_for_the_end() -> None:
    """With `with`, no program is left when the block is."""
    with nsbox.Sandbox(timeout=60) as sandbox:
        with sandbox.execute_stream("import time\nprint('up')\ntime.sleep(50)") as stream:
            next(stream)
            assert programs()
        assert not sandbox.executions
        assert not programs()
        with pytest.raises(StopIteration):
            next(stream)


def test_what_execute_raises_the_stream_raises() -> None:
    """At its first step; the sandbox stays usable."""
    with nsbox.Sandbox() as sandbox:
        stream = sandbox.execute_stream("print(1)", working_directory="/nowhere")
        with pytest.raises(nsbox.ProgramStartError):
            next(stream)
        assert list(stream) == []
        assert sandbox.execute("print(1)").ok


def test_a_limit_ends_a_stream_with_its_verdict() -> None:
    """Output up to the limit, and no further, comes through; so does what was printed before a kill."""
    with nsbox.Sandbox(nsbox.SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_output_mb=1))) as sandbox:
        stream = sandbox.execute_stream("while True: print('y' * 1000)")
        total = sum(len(one.content) for one in stream if isinstance(one, nsbox.ExecutionOutput))
        assert stream.result.verdict is Verdict.OUTPUT_LIMIT
        assert total == 1 << 20 == len(stream.result.stdout_bytes)
        late = sandbox.execute_stream("print('before', flush=True)\nwhile True: pass", timeout=0.5)
        assert content(list(late), "stdout") == "before\n"
        assert late.result.verdict is Verdict.WALL_TIME_LIMIT


async def test_in_trio_a_cancelled_reader_cancels_the_execution() -> None:
    """The scope that he is cancelled by is left when the program is dead."""
    async with nsbox.AsyncSandbox(timeout=60) as sandbox:
        with trio.move_on_after(20) as scope:
            async for event in sandbox.execute_stream("import time\nprint('up')\ntime.sleep(50)"):
                assert isinstance(event, nsbox.ExecutionOutput)
                scope.cancel()
        assert scope.cancelled_caught
        assert not sandbox.executions
        assert not programs()


def test_in_asyncio_it_is_the_same() -> None:
    """Iterated to the end, and left early."""

    async def main() -> None:
        async with nsbox.AsyncSandbox(timeout=60) as sandbox:
            stream = sandbox.execute_stream("print('one')")
            events = [event async for event in stream]
            assert content(events, "stdout") == stream.result.stdout == "one\n"
            async with sandbox.execute_stream("import time\nprint('up')\ntime.sleep(50)") as early:
                async for _ in early:
                    break
            assert not programs()

    asyncio.run(main())
