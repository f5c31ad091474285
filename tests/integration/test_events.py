"""Events: typed, in the order in which things happen, none lost, and no handler can harm the sandbox."""

import asyncio
import logging
import threading
from typing import Any

import pytest
import trio

import nsbox
from nsbox import SandboxStatus, Verdict

S = SandboxStatus


def told(event: nsbox.Event) -> str:
    """An event in a word or two."""
    if isinstance(event, nsbox.StateChanged):
        return f"{event.old_state.value}->{event.new_state.value}"
    if isinstance(event, nsbox.ExecutionOutput):
        return f"output {event.content.strip()}"
    return event.name


def recorded(sandbox: nsbox.Sandbox) -> list[str]:
    """What happens from now on, without what comes by the clock."""
    found: list[str] = []
    sandbox.on(
        nsbox.Event, lambda event: None if isinstance(event, nsbox.MetricsUpdated) else found.append(told(event))
    )
    return found


@pytest.mark.lane_unified
@pytest.mark.needs_cgroups
def test_the_events_of_a_life_come_in_order_and_once() -> None:
    """Every transition, and between them what happened; the last is Terminated."""
    sandbox = nsbox.Sandbox()
    found = recorded(sandbox)
    with sandbox:
        assert sandbox.shell("echo hi").ok
        sandbox.suspend()
        sandbox.resume()
        assert sandbox.shell("exit 3").verdict is Verdict.NONZERO_EXIT
    connection = [name for name in found if name in ("connected", "disconnected")]
    assert connection in ([], ["connected", "disconnected"])
    assert [name for name in found if name not in ("connected", "disconnected")] == [
        "created", "creating->running", "started",
        "running->busy", "execution_started", "output hi", "execution_completed", "busy->idle",
        "idle->suspended", "suspended", "suspended->idle", "resumed",
        "idle->busy", "execution_started", "execution_failed", "busy->idle",
        "idle->terminating", "terminating->terminated", "terminated",
    ]  # fmt: skip


def test_an_event_can_be_named_in_three_ways() -> None:
    """By its class, in snake_case, and in the design's camelCase; a wrong name is a ConfigError that lists them."""
    found: list[Any] = []
    with nsbox.Sandbox() as sandbox:
        for event in (nsbox.ExecutionCompleted, "execution_completed", "executionCompleted"):
            sandbox.on(event, found.append)
        assert sandbox.shell("true").ok
        with pytest.raises(nsbox.ConfigError, match="execution_completed"):
            sandbox.on("executionDone", found.append)
    assert [type(event) for event in found] == [nsbox.ExecutionCompleted] * 3
    assert found[0].result.ok
    assert found[0].execution.status is nsbox.ExecutionStatus.COMPLETED
    assert found[0].sandbox_id == found[0].execution.sandbox_id


def test_an_unsubscribed_handler_hears_nothing_more() -> None:
    """Twice is as good as once."""
    found: list[Any] = []
    with nsbox.Sandbox() as sandbox:
        end = sandbox.on("execution_started", found.append)
        assert sandbox.shell("true").ok
        end()
        end()
        assert sandbox.shell("true").ok
    assert len(found) == 1


def test_a_handler_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and told as RuntimeErrorEvent; the next handlers are called; its own handler raising ends there."""
    errors: list[Any] = []
    others: list[Any] = []

    def fail(event: nsbox.Event) -> None:
        raise ValueError(f"no {event.name}")

    def fail_again(event: nsbox.RuntimeErrorEvent) -> None:
        errors.append(event)
        raise KeyError("also this one")

    sandbox = nsbox.Sandbox()
    sandbox.on("execution_completed", fail)
    sandbox.on("execution_completed", others.append)
    sandbox.on("runtimeError", fail_again)
    with caplog.at_level(logging.ERROR, "nsbox"), sandbox:
        assert sandbox.shell("true").ok
        assert sandbox.status is S.IDLE
        assert sandbox.shell("true").ok
    assert len(others) == 2
    assert [str(event.error) for event in errors] == ["no execution_completed"] * 2
    assert sum("a handler of runtime_error_event failed" in record.getMessage() for record in caplog.records) == 2


def test_handlers_of_blocking_code_may_call_the_sandbox() -> None:
    """They run in another thread than the supervisor's, and `terminate` waits for them."""
    found: list[str] = []
    sandbox = nsbox.Sandbox()

    def look(event: nsbox.ExecutionCompleted) -> None:
        if len(found) < 2:
            found.append("")
            found[-1] = sandbox.shell(f"echo {len(found)} {event.result.ok}").stdout

    sandbox.on(nsbox.ExecutionCompleted, look)
    with sandbox:
        assert sandbox.shell("true").ok
        done = threading.Event()
        sandbox.on("execution_completed", lambda _: done.set() if len(found) == 2 else None)
        assert sandbox.shell("true").ok
        assert done.wait(10)
    assert found == ["1 True\n", "2 True\n"]


async def test_handlers_in_trio_are_awaited_one_after_the_other() -> None:
    """An async handler may use the sandbox; the next one is called when it is through."""
    found: list[str] = []
    finished = trio.Event()

    async with nsbox.AsyncSandbox() as sandbox:

        async def first(event: nsbox.ExecutionCompleted) -> None:
            if event.execution.code == "true":
                found.append((await sandbox.run(["echo", "from", "the", "handler"])).stdout)

        def second(event: nsbox.ExecutionCompleted) -> None:
            found.append(event.execution.code)
            if len(found) == 3:
                finished.set()

        sandbox.on("execution_completed", first)
        sandbox.on("execution_completed", second)
        assert (await sandbox.run(["true"])).ok
        with trio.fail_after(20):
            await finished.wait()
    assert found == ["from the handler\n", "true", "echo from the handler"]


def test_handlers_in_asyncio_run_in_its_loop() -> None:
    """Plain ones and async ones, in the thread and the loop of the caller."""
    found: list[Any] = []

    async def main() -> None:
        done = asyncio.Event()

        async def handler(event: nsbox.Event) -> None:
            await asyncio.sleep(0)
            found.append((event.name, threading.current_thread() is threading.main_thread()))
            if event.name == "terminated":
                done.set()

        sandbox = nsbox.AsyncSandbox()
        sandbox.on(nsbox.Started, handler)
        sandbox.on(nsbox.Terminated, handler)
        async with sandbox:
            assert (await sandbox.shell("true")).ok
        await asyncio.wait_for(done.wait(), 20)

    asyncio.run(main())
    assert found == [("started", True), ("terminated", True)]


def test_the_stream_of_events_ends_with_the_sandbox() -> None:
    """`events` begins now and ends after Terminated; one that is opened after the end is empty."""
    with nsbox.Sandbox() as sandbox:
        stream = sandbox.events()
        assert sandbox.shell("true").ok
    names = [event.name for event in stream if not isinstance(event, nsbox.MetricsUpdated | nsbox.Disconnected)]
    assert names[:2] == ["state_changed", "execution_started"]
    assert names[-1] == "terminated"
    assert list(sandbox.events()) == []


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    """What it gets and what it is told of together are all that happened."""
    ended = trio.Event()
    async with nsbox.AsyncSandbox() as sandbox:
        stream = sandbox.events()
        count = 0

        def note(event: nsbox.Event) -> None:
            nonlocal count
            count += 1
            if isinstance(event, nsbox.Terminated):
                ended.set()

        sandbox.on(nsbox.Event, note)
        for number in range(1500):
            await sandbox.set_environment_variable("N", str(number))
    lost = read = 0
    async for event in stream:
        if isinstance(event, nsbox.EventsLost):
            lost += event.count
        else:
            read += 1
            last = event
    assert read == 1024
    assert lost > 400
    assert isinstance(last, nsbox.Terminated)
    with trio.fail_after(10):
        await ended.wait()  # the handlers have a task of their own
    assert count == lost + read


def test_what_happens_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """The same points, with the sandbox's id, also where nobody listens."""
    with caplog.at_level(logging.DEBUG, "nsbox"), nsbox.Sandbox() as sandbox:
        assert sandbox.shell("true").ok
    lines = [record.getMessage() for record in caplog.records if record.name == "nsbox"]
    assert all(line.startswith(sandbox.id) for line in lines)
    assert any("execution_completed" in line for line in lines)
    assert any("terminated" in line for line in lines)


@pytest.mark.needs_cgroups
def test_a_verdict_is_told_by_its_cause_and_then_as_failed() -> None:
    """A timeout, a memory excess, a full disk and a filter's kill each have an event of their own before the last."""
    found: list[str] = []
    causes = {
        "sleep 10": ("execution_timeout",),
        "head -c 200000000 /dev/zero | tail": ("resource_exceeded",),
        "head -c 20000000 /dev/zero > /tmp/full": ("resource_exceeded", "disk_full"),
    }
    with nsbox.Sandbox(timeout=1, memory_mb=32, disk_mb=8) as sandbox:
        sandbox.on(nsbox.Event, lambda event: found.append(event.name))
        interesting = {"execution_timeout", "resource_exceeded", "disk_full", "execution_failed", "execution_completed"}
        for command, expected in causes.items():
            stream = sandbox.events()
            assert not sandbox.shell(command).ok
            names: list[str] = []
            for event in stream:
                names.append(event.name)
                if isinstance(event, nsbox.ExecutionFailed):
                    break
            assert [name for name in names if name in interesting] == [*expected, "execution_failed"]
            assert isinstance(event, nsbox.ExecutionFailed)
            assert isinstance(event.error, nsbox.ExecutionError)
            assert event.execution.result is event.error.result


def test_an_execution_that_cannot_be_carried_out_has_failed_too() -> None:
    """Its error is the exception that the caller got, and there is no result."""
    failed: list[nsbox.ExecutionFailed] = []
    with nsbox.Sandbox() as sandbox:
        sandbox.on(nsbox.ExecutionFailed, failed.append)
        with pytest.raises(nsbox.ProgramStartError) as caught:
            sandbox.run(["/nowhere"])
        assert sandbox.status is S.IDLE
    assert failed[0].error is caught.value
    assert failed[0].execution.result is None
    assert failed[0].execution.status is nsbox.ExecutionStatus.FAILED
