"""Interactive programs: on pipes, and on a pseudo-terminal of the sandbox's own."""

import asyncio
import signal
from pathlib import Path

import pytest
import trio
from watching import Bell, programs

import nsbox
from nsbox import Verdict


def read_until(process: nsbox.BlockingProcess, wanted: bytes) -> bytes:
    """What a program writes, up to some text; an end before it fails the test."""
    seen = b""
    while wanted not in seen:
        data = process.stdout.receive_some()
        assert data, f"it ended without {wanted!r}: {seen!r}"
        seen += data
    return seen


@pytest.mark.lane_unified
def test_a_program_on_pipes_is_talked_to() -> None:
    """Line by line, each answer before the next question; end of file on stdin ends it."""
    with (
        nsbox.Sandbox() as sandbox,
        sandbox.spawn(["python3", "-c", "for l in iter(input, ''): print(l.upper())"]) as process,
    ):
        for word in (b"one", b"two"):
            process.stdin.send_all(word + b"\n")
            assert read_until(process, b"\n") == word.upper() + b"\n"
        assert repr(process) == f"<BlockingProcess {process.execution_id}: running, pid {process.pid}>"
        process.stdin.close()
        result = process.wait()
        assert "ended" in repr(process)
        assert result.verdict is Verdict.NONZERO_EXIT  # input() raises EOFError
        assert process.stderr is not None
        assert b"EOFError" in b"".join(process.stderr)


@pytest.mark.lane_unified
def test_a_terminal_has_a_name_a_size_and_job_control() -> None:
    """tty, stty and a resize; Ctrl-C ends what runs in the foreground and not the shell."""
    with nsbox.Sandbox() as sandbox, sandbox.spawn(["/bin/bash", "--norc"], pty=(24, 80)) as process:
        assert process.stderr is None
        process.stdin.send_all(b"PS1=; stty -echo; tty; stty size; echo $TERM; echo r''eady\n")
        seen = read_until(process, b"ready")
        assert b"/dev/pts/0" in seen
        assert b"24 80" in seen
        assert b"xterm-256color" in seen
        process.resize(40, 120)
        process.stdin.send_all(b"stty size; echo a''gain\n")
        assert b"40 120" in read_until(process, b"again")
        process.stdin.send_all(b"echo s''leeps; sleep 60; echo ended $?\n")
        read_until(process, b"sleeps")
        while "sleep 60" not in programs().values():
            pass
        process.stdin.send_all(b"\x03")
        process.stdin.send_all(b"echo $? a''fter\n")
        assert b"130 after" in read_until(process, b"after")
        process.stdin.send_all(b"exit 7\n")
        result = process.wait()
        assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 7)


def test_closing_a_terminal_hangs_up() -> None:
    """Without a reader the shell gets SIGHUP; `close` ends what ignores it, too."""
    with nsbox.Sandbox(timeout=60) as sandbox:
        process = sandbox.spawn(["/bin/sh", "-c", "trap '' HUP; echo up; while :; do sleep 1; done"], pty=(24, 80))
        read_until(process, b"up")
        process.close()
        assert not programs()
        assert not sandbox.executions
        assert process.wait().verdict is Verdict.CANCELLED


def test_a_signal_reaches_the_program() -> None:
    """Its handler runs; without one the verdict names the signal; after its end nothing happens."""
    with nsbox.Sandbox() as sandbox:
        program = "trap 'echo caught; exit 5' TERM; echo up; while :; do sleep 0.05; done"
        process = sandbox.spawn(["/bin/sh", "-c", program])
        read_until(process, b"up")
        process.send_signal(signal.SIGTERM)
        assert process.wait().exit_code == 5
        assert read_until(process, b"caught")
        process.send_signal(signal.SIGTERM)
        process.close()
        with sandbox.spawn(["sleep", "60"]) as other:
            other.send_signal(signal.SIGUSR1)
            result = other.wait()
            assert (result.verdict, result.signal) == (Verdict.SIGNALED, signal.SIGUSR1)
        with pytest.raises(nsbox.ConfigError, match="signal"):
            other.send_signal(9999)


def test_a_program_that_is_not_there_is_told_at_once() -> None:
    """`spawn` itself raises, and nothing is left of it; one that exits 127 is none of these."""
    with nsbox.Sandbox() as sandbox:
        for pty in (None, (24, 80)):
            with pytest.raises(nsbox.ProgramStartError) as caught:
                sandbox.spawn(["/nowhere"], pty=pty)
            assert isinstance(caught.value, FileNotFoundError)
            assert not sandbox.executions
        with sandbox.spawn(["/bin/sh", "-c", "exit 127"]) as process:
            assert process.wait().exit_code == 127


@pytest.mark.parametrize("size", [(0, 80), (24, 70_000), (24,), "24x80", (24, True), (24.0, 80)])
def test_a_size_that_no_terminal_has_is_refused(size: object) -> None:
    """Before anything is started."""
    with nsbox.Sandbox() as sandbox:
        with pytest.raises(nsbox.ConfigError, match="pty"):
            sandbox.spawn(["true"], pty=size)  # type: ignore[arg-type]
        with sandbox.spawn(["true"]) as process:
            with pytest.raises(nsbox.InvalidStateError, match="no terminal"):
                process.resize(24, 80)
            assert process.wait().ok


def test_the_limits_hold_for_it() -> None:
    """It takes a slot, and its wall clock ends it."""
    config = nsbox.SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_concurrent_executions=1))
    with nsbox.Sandbox(config) as sandbox, sandbox.spawn(["sleep", "60"], timeout=0.5) as process:
        with pytest.raises(nsbox.ResourceLimitError):
            sandbox.shell("true")
        assert process.wait().verdict is Verdict.WALL_TIME_LIMIT
        assert sandbox.shell("true").ok


@pytest.mark.needs_cgroups
def test_it_goes_on_after_a_suspension(tmp_path: Path) -> None:
    """Its streams stay open, what was written meanwhile is read afterwards, and its clock stood still."""
    bell = Bell(tmp_path)
    try:
        with nsbox.Sandbox(mounts=[bell.mount]) as sandbox, sandbox.spawn(["cat"], pty=(24, 80)) as process:
            process.stdin.send_all(b"before\n")
            read_until(process, b"before\r\nbefore\r\n")
            sandbox.suspend()
            process.stdin.send_all(b"meanwhile\n")
            sandbox.resume()
            read_until(process, b"meanwhile\r\nmeanwhile\r\n")
            process.stdin.send_all(b"\x04")
            assert process.wait().ok
    finally:
        bell.close()


def test_terminate_ends_it_and_its_result_says_cancelled() -> None:
    """Its streams are at their end."""
    sandbox = nsbox.Sandbox.create()
    process = sandbox.spawn(["sleep", "60"])
    sandbox.terminate()
    assert process.wait().verdict is Verdict.CANCELLED
    assert process.stdout.receive_some() == b""
    process.close()


def test_many_terminals_are_the_sandbox_s_own_limit() -> None:
    """One more than devpts allows is a SetupError; those that are there go on."""
    config = nsbox.SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_concurrent_executions=100))
    with nsbox.Sandbox(config, processes=200) as sandbox:
        opened: list[nsbox.BlockingProcess] = []

        def open_all() -> None:
            for _ in range(80):
                opened.append(sandbox.spawn(["cat"], pty=(24, 80)))  # noqa: PERF401  # those before the error count

        try:
            with pytest.raises(nsbox.SetupError, match="terminal"):
                open_all()
            assert 32 <= len(opened) <= 64
            opened[0].stdin.send_all(b"hi\n")
            read_until(opened[0], b"hi")
        finally:
            for process in opened:
                process.close()


async def test_in_trio_its_streams_are_trio_s() -> None:
    """send_all, receive_some, async for; cancelling a spawn or a wait works as everywhere."""
    async with nsbox.AsyncSandbox() as sandbox:
        async with await sandbox.spawn(["cat"]) as process:
            await process.stdin.send_all(b"hello")
            assert await process.stdout.receive_some() == b"hello"
            with trio.move_on_after(0.05) as scope:
                await process.wait()
            assert scope.cancelled_caught
            await process.stdin.aclose()
            assert [chunk async for chunk in process.stdout] == []
            assert (await process.wait()).ok
        async with await sandbox.spawn(["sleep", "60"]):
            pass
        assert not programs()


def test_in_asyncio_too() -> None:
    """Through the supervisor's thread."""

    async def main() -> bytes:
        async with nsbox.AsyncSandbox() as sandbox, await sandbox.spawn(["cat"], pty=(24, 80)) as process:
            await process.stdin.send_all(b"hello\n")
            seen = b""
            while seen.count(b"hello") < 2:
                seen += await process.stdout.receive_some()
            return seen

    assert asyncio.run(main()).count(b"hello") == 2
