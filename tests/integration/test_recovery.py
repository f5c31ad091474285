"""Real faults, and what becomes of the sandbox: its state, its files, its events and their order."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from watching import Bell, parts_of_nsbox, programs, until

import nsbox
from nsbox import AsyncSandbox, RecoveryPolicy, SandboxStatus, Verdict
from nsbox._blocking import shutdown
from nsbox._core.cleanup import empty_from_inside
from nsbox._supervisor import start
from nsbox._supervisor.start import pid_of

QUICK = RecoveryPolicy(retry_delay=0.01)
OFF = RecoveryPolicy(auto_recover=False)
SECONDS = 20.0
MOUNT = "import ctypes; ctypes.CDLL(None).mount(b'a', b'/', b'b', 0, None)"


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


@pytest.fixture(name="no_launcher")
def _no_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """From now on no launcher can be started; what is called lets it be again."""
    with monkeypatch.context() as patch:
        patch.setattr(start, "_BINARY", tmp_path / "nsbox-launcher")
        yield patch.undo


def init_of(sandbox: AsyncSandbox | nsbox.Sandbox) -> int:
    """The pid of its PID 1."""
    return pid_of(sandbox._core.living()[1].pidfd)


class Seen:
    """The events of a sandbox but looks at metrics, from all threads."""

    def __init__(self, sandbox: AsyncSandbox | nsbox.Sandbox) -> None:
        self.events: list[nsbox.Event] = []
        self._new = threading.Condition()
        sandbox._core.emitter.subscribe(nsbox.Event, self._add)

    def _add(self, event: nsbox.Event) -> None:
        with self._new:
            if not isinstance(event, nsbox.MetricsUpdated):
                self.events.append(event)
            self._new.notify_all()

    def wait(self, name: str, count: int = 1) -> None:
        """Until so many of a kind have happened."""
        with self._new:
            if not self._new.wait_for(lambda: self.told().count(name) >= count, SECONDS):
                raise AssertionError(f"no {name} among {self.lines()}")

    def told(self) -> list[str]:
        """Their names."""
        return [event.name for event in self.events]

    def lines(self) -> list[str]:
        """In short: states by their names, and what tells failures apart."""
        lines = []
        for event in self.events:
            if isinstance(event, nsbox.StateChanged):
                lines.append(event.new_state.value)
            elif isinstance(event, nsbox.Disconnected):
                lines.append(f"disconnected {event.code}")
            elif isinstance(event, nsbox.RecoverySucceeded | nsbox.RecoveryAttemptFailed):
                lines.append(f"{event.name} {event.strategy} {event.attempt}")
            elif isinstance(event, nsbox.RecoveryFailed):
                lines.append(f"{event.name} {event.strategy}")
            elif not isinstance(event, nsbox.ExecutionOutput):
                lines.append(event.name)
        return lines


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_sandbox_whose_pid_1_died_comes_back_with_its_files() -> None:
    """Idle, and suspended: ERROR, new processes, RUNNING; files and environment are there, executions work."""
    with nsbox.Sandbox(recovery=QUICK) as sandbox:
        sandbox.set_environment_variable("WORD", "kept")
        sandbox.shell("echo file > /workspace/file; mkdir -p /tmp/a; echo tmp > /tmp/a/b")
        for number, suspended in enumerate((False, True)):
            if suspended:
                sandbox.suspend()
            init = init_of(sandbox)
            seen = Seen(sandbox)
            os.kill(init, signal.SIGKILL)
            seen.wait("recovery_succeeded")
            assert seen.lines() == [
                "disconnected 1006", "error", "connected", "running", f"recovery_succeeded reconnect {1 + number}"
            ]  # fmt: skip
            assert (sandbox.status, sandbox.last_error) == (SandboxStatus.RUNNING, None)
            assert init_of(sandbox) != init
            assert sandbox.shell("cat file /tmp/a/b; echo $WORD; echo new >> file").stdout == (
                "file\n" + "new\n" * number + "tmp\nkept\n"
            )


@pytest.mark.lane_unified
def test_what_ran_when_pid_1_died_raises_and_the_error_can_be_recovered_from(bell: Bell) -> None:
    """NetworkError, never a verdict; `recover_from_error` waits for what goes on already, and the next call works."""

    async def main() -> None:
        async with AsyncSandbox(mounts=[bell.mount], recovery=QUICK) as sandbox, trio.open_nursery() as nursery:
            seen = Seen(sandbox)

            async def kill() -> None:
                await trio.to_thread.run_sync(bell.wait)
                os.kill(init_of(sandbox), signal.SIGKILL)

            nursery.start_soon(kill)
            with pytest.raises(nsbox.NetworkError, match="PID 1") as caught:
                await sandbox.shell("echo > /bell/ring; sleep 60")
            assert await sandbox.recover_from_error(caught.value)
            assert sandbox.status is SandboxStatus.RUNNING
            assert (await sandbox.shell("echo usable")).stdout == "usable\n"
            lines = seen.lines()
            assert lines.index("execution_failed") < lines.index("running")
            assert lines.index("error") < lines.index("running") < lines.index("recovery_succeeded reconnect 1")

    trio.run(main)


@pytest.mark.lane_unified
def test_a_pid_1_that_stays_silent_is_replaced(bell: Bell) -> None:
    """HeartbeatFailed, attempts to reconnect, ReconnectFailed, then new processes; what ran raises NetworkError."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    policy = RecoveryPolicy(retry_delay=0.01, max_retries=2)
    with pool, nsbox.Sandbox(mounts=[bell.mount], heartbeat_interval=0.1, recovery=policy) as sandbox:
        sandbox.shell("echo file > file")
        running = pool.submit(sandbox.shell, "echo > /bell/ring; sleep 60")
        bell.wait()
        seen = Seen(sandbox)
        os.kill(init_of(sandbox), signal.SIGSTOP)
        with pytest.raises(nsbox.NetworkError, match="could not be reached"):
            running.result(SECONDS)
        seen.wait("recovery_succeeded")
        order = [line for line in seen.lines() if line not in ("execution_failed", "idle")]
        assert order[:4] == ["heartbeat_failed", "disconnected 1006", "reconnect_failed", "error"]
        assert order[-3:] == ["connected", "running", "recovery_succeeded reconnect 1"]
        failed = next(event for event in seen.events if isinstance(event, nsbox.HeartbeatFailed))
        assert "it is stopped" in str(failed.error)
        assert sandbox.shell("cat file").stdout == "file\n"
        assert len(programs()) == 0


@pytest.mark.lane_unified
def test_the_launcher_s_death_costs_the_files_and_nothing_else() -> None:
    """Every sandbox comes back, empty, under a new launcher; Disconnected says what happened to the files."""
    with nsbox.Sandbox(recovery=QUICK) as first, nsbox.Sandbox(recovery=QUICK) as second:
        before = {first.id, second.id}
        everything = [Seen(first), Seen(second)]
        first.shell("echo file > file")
        os.kill(parts_of_nsbox()[0], signal.SIGKILL)
        for sandbox, seen in zip((first, second), everything, strict=True):
            seen.wait("recovery_succeeded")
            assert seen.lines()[-6:] == [
                "disconnected 1006", "error", "created", "connected", "running", "recovery_succeeded reconnect 1"
            ]  # fmt: skip
            reason = next(event.reason for event in seen.events if isinstance(event, nsbox.Disconnected))
            assert "every file" in reason
            assert sandbox.shell("ls").stdout == ""
        assert {first.id, second.id} == before


def test_an_asyncio_caller_s_sandbox_comes_back_too() -> None:
    """The supervisor is in its thread then, and so is the recovery; the handler is called in the loop."""

    async def main() -> None:
        async with AsyncSandbox(recovery=QUICK) as sandbox:
            recovered = asyncio.Event()
            sandbox.on("recoverySucceeded", lambda _: recovered.set())
            os.kill(init_of(sandbox), signal.SIGKILL)
            await asyncio.wait_for(recovered.wait(), SECONDS)
            assert (await sandbox.shell("echo usable")).stdout == "usable\n"
            assert await sandbox.recover_from_error(nsbox.NetworkError("a late one"))

    asyncio.run(main())


def test_without_auto_recover_nothing_is_done() -> None:
    """ERROR with a clear last error; `recover_from_error` says False; `reconnect` brings it back all the same."""
    with nsbox.Sandbox(recovery=OFF) as sandbox:
        sandbox.shell("echo file > file")
        seen = Seen(sandbox)
        os.kill(init_of(sandbox), signal.SIGKILL)
        seen.wait("state_changed")
        assert sandbox.status is SandboxStatus.ERROR
        assert isinstance(sandbox.last_error, nsbox.NetworkError)
        assert "PID 1 has died" in str(sandbox.last_error)
        assert not sandbox.recover_from_error(sandbox.last_error)
        assert seen.lines() == ["disconnected 1006", "error"]
        sandbox.reconnect()
        assert (sandbox.status, sandbox.last_error) == (SandboxStatus.RUNNING, None)
        assert sandbox.shell("cat file").stdout == "file\n"


@pytest.mark.usefixtures("_nothing_is_left")
def test_a_recovery_that_fails_leaves_error_and_says_why(request: pytest.FixtureRequest) -> None:
    """No launcher to be had: every attempt is told, then RecoveryFailed; once there is one, it succeeds by hand."""
    with nsbox.Sandbox(recovery=QUICK) as sandbox:
        seen = Seen(sandbox)
        allow = request.getfixturevalue("no_launcher")
        os.kill(parts_of_nsbox()[0], signal.SIGKILL)
        seen.wait("recovery_failed")
        assert seen.lines()[1:] == [
            "error", *(f"recovery_attempt_failed reconnect {attempt}" for attempt in (1, 2, 3)),
            "recovery_failed reconnect",
        ]  # fmt: skip
        assert sandbox.status is SandboxStatus.ERROR
        assert isinstance(sandbox.last_error, nsbox.UnsupportedHostError)
        with pytest.raises(nsbox.InvalidStateError, match="error"):
            sandbox.shell("true")
        allow()
        assert sandbox.recover_from_error(nsbox.NetworkError("by hand"))
        assert sandbox.shell("echo usable").stdout == "usable\n"


@pytest.mark.parametrize("how", ["terminate", "reset"])
def test_a_recovery_under_way_ends_with_the_sandbox(request: pytest.FixtureRequest, how: str) -> None:
    """During a delay of an hour: `terminate` and `reset` do not wait for it, and nothing of it happens afterwards."""
    with nsbox.Sandbox(recovery=RecoveryPolicy(retry_delay=3600)) as sandbox:
        seen = Seen(sandbox)
        allow = request.getfixturevalue("no_launcher")
        os.kill(parts_of_nsbox()[0], signal.SIGKILL)
        seen.wait("recovery_attempt_failed")
        allow()
        if how == "terminate":
            sandbox.terminate()
            assert seen.lines()[-3:] == ["terminating", "terminated", "terminated"]
        else:
            sandbox.reset()
            assert sandbox.shell("echo usable").stdout == "usable\n"
        assert "recovery_succeeded reconnect 2" not in seen.lines()
        assert sandbox._core.recovery._scope is None


def test_what_breaks_again_at_once_is_given_up() -> None:
    """PID 1 is killed each time it comes back: three recoveries, then ERROR, and no endless loop."""
    with nsbox.Sandbox(recovery=QUICK) as sandbox:
        seen = Seen(sandbox)
        for attempt in (1, 2, 3):
            os.kill(init_of(sandbox), signal.SIGKILL)
            seen.wait("recovery_succeeded", attempt)
        os.kill(init_of(sandbox), signal.SIGKILL)
        seen.wait("recovery_failed")
        assert [line for line in seen.lines() if line.startswith("recovery")] == [
            "recovery_succeeded reconnect 1", "recovery_succeeded reconnect 2", "recovery_succeeded reconnect 3",
            "recovery_failed reconnect",
        ]  # fmt: skip
        assert sandbox.status is SandboxStatus.ERROR
        assert "PID 1 has died" in str(sandbox.last_error)


def test_a_policy_without_retries_makes_no_attempt() -> None:
    """RecoveryFailed at once, and ERROR; by hand too, but for `reconnect`, which is no recovery."""
    with nsbox.Sandbox(recovery=RecoveryPolicy(max_retries=0)) as sandbox:
        seen = Seen(sandbox)
        os.kill(init_of(sandbox), signal.SIGKILL)
        seen.wait("recovery_failed")
        assert not sandbox.recover_from_error(nsbox.NetworkError("by hand"))
        assert seen.lines() == ["disconnected 1006", "error", *["recovery_failed reconnect"] * 2]
        sandbox.reconnect()
        assert sandbox.shell("echo usable").stdout == "usable\n"


def test_a_supervisor_that_was_stopped_on_purpose_takes_its_sandboxes_along() -> None:
    """`shutdown`, and the end of a trio run: no recovery, no launcher afterwards."""
    sandbox = nsbox.Sandbox.create(recovery=QUICK)
    seen = Seen(sandbox)
    shutdown()
    assert seen.lines() == ["disconnected 1000", "error"]
    assert parts_of_nsbox() == []

    async def main() -> Seen:
        return Seen(await AsyncSandbox.create(recovery=QUICK))

    assert trio.run(main).lines() == ["disconnected 1000", "error"]
    assert parts_of_nsbox() == []


FILL = """
import os
written = 0
try:
    with open('{path}', 'wb', buffering=0) as file:
        while True:
            written += file.write(bytes(1 << 20))
except OSError:
    raise SystemExit(1)
"""


@pytest.mark.lane_unified
def test_a_full_disk_is_recovered_from_by_emptying_tmp() -> None:
    """DISK_LIMIT; cleanup_and_restart: /tmp is empty, the workspace is not, and there is room again."""
    with nsbox.Sandbox(disk_mb=8, memory_mb=128, recovery=QUICK) as sandbox:
        sandbox.shell("echo file > file")
        ours = sandbox.shell("ls -A /tmp").stdout
        result = sandbox.execute(FILL.format(path="/tmp/big"))
        assert result.verdict is Verdict.DISK_LIMIT
        assert sandbox.shell("echo more > more").exit_code  # the control: without recovery there is no room
        seen = Seen(sandbox)
        with pytest.raises(nsbox.ResourceExceededError) as caught:
            result.raise_for_verdict()
        assert sandbox.recover_from_error(caught.value)
        assert seen.lines() == ["disconnected 1000", "connected", "recovery_succeeded cleanup_and_restart 1"]
        assert sandbox.shell("echo more > more; cat file more; ls -A /tmp /dev/shm").stdout == (
            f"file\nmore\n/dev/shm:\n\n/tmp:\n{ours}"
        )


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_exhausted_memory_is_recovered_from() -> None:
    """Files in /dev/shm hold the memory: the next program dies for it, and after the recovery it does not."""
    program = "x = bytearray(40 << 20); print(len(x))"
    with nsbox.Sandbox(memory_mb=96, disk_mb=72, recovery=QUICK) as sandbox:
        assert sandbox.execute(program).ok
        assert sandbox.shell("dd if=/dev/zero of=/dev/shm/held bs=1M count=60").ok
        result = sandbox.execute(program)
        assert result.verdict is Verdict.MEMORY_LIMIT
        with pytest.raises(nsbox.ResourceExceededError) as caught:
            result.raise_for_verdict()
        assert sandbox.recover_from_error(caught.value)
        assert sandbox.execute(program).ok


def test_an_execution_that_failed_is_run_once_more() -> None:
    """Program, arguments, input and secrets are the same; True when it is OK then; once, never for an attack."""

    async def main() -> None:
        program = (
            "import os, sys; print(sys.argv[1:], input(), os.environ['WORD']); sys.exit(not os.path.exists('once'))"
        )
        async with AsyncSandbox(recovery=QUICK) as sandbox:
            seen = Seen(sandbox)
            first = await sandbox.execute(
                program, arguments=["a b"], stdin="input\n", environment={"WORD": "word"}, timeout=9
            )
            with pytest.raises(nsbox.ExecutionError) as caught:
                first.raise_for_verdict()
            assert not await sandbox.recover_from_error(caught.value)
            assert seen.lines()[-2:] == [
                "recovery_attempt_failed restart_execution 1", "recovery_failed restart_execution"
            ]  # fmt: skip
            await sandbox.shell("touch once")
            assert await sandbox.recover_from_error(caught.value)
            done = [event for event in seen.events if isinstance(event, nsbox.ExecutionCompleted)][-1]
            assert done.result.stdout == "['a b'] input word\n"
            assert done.result.execution_id != first.execution_id
            failing = await sandbox.run(["/bin/sh", "-c", "echo \"$0\" '$1'; exit 3", "a  b"])
            with pytest.raises(nsbox.ExecutionError) as caught:
                failing.raise_for_verdict()
            assert not await sandbox.recover_from_error(caught.value)
            again = [event for event in seen.events if isinstance(event, nsbox.ExecutionFailed)][-1].execution
            assert again.result is not None
            assert (again.result.stdout, again.result.exit_code) == ("a  b $1\n", 3)
            for _ in range(8):
                await sandbox.shell("exit 1")
            assert not await sandbox.recover_from_error(caught.value)
            assert not await sandbox.recover_from_error(ValueError("of no class that is known"))
            attack = await sandbox.execute(MOUNT)
            with pytest.raises(nsbox.SecurityViolationError) as ended:
                attack.raise_for_verdict()
            assert not await sandbox.recover_from_error(ended.value)

    trio.run(main)


def test_a_violation_ends_the_sandbox_before_the_call_returns(bell: Bell) -> None:
    """Other executions are CANCELLED; the events are in order, Terminated is the last, and the result is returned."""

    async def main() -> None:
        async with AsyncSandbox(mounts=[bell.mount]) as sandbox, trio.open_nursery() as nursery:
            seen = Seen(sandbox)
            others: list[nsbox.ExecutionResult] = []

            async def other() -> None:
                others.append(await sandbox.shell("echo > /bell/ring; sleep 60"))

            for _ in range(2):
                nursery.start_soon(other)
                await trio.to_thread.run_sync(bell.wait)
            result = await sandbox.execute(MOUNT)
            assert result.verdict is Verdict.SECURITY_VIOLATION
            assert sandbox.status is SandboxStatus.TERMINATED
            assert isinstance(sandbox.last_error, nsbox.SecurityViolationError)
            lines = seen.lines()
            at = lines.index("security_violation")
            assert lines[at : at + 4] == ["security_violation", "execution_failed", "terminating", "disconnected 1000"]
            assert lines[-1] == "terminated"
            assert lines.count("execution_failed") == 3
            await trio.to_thread.run_sync(until, lambda: len(others) == 2, "the others have returned")
            assert [one.verdict for one in others] == [Verdict.CANCELLED] * 2
            assert programs() == {}

    trio.run(main)


HOSTILE = """
import os
os.chdir('/tmp')
os.symlink('/workspace/file', 'link'); os.symlink('/workspace', 'directory'); os.mkfifo('fifo')
os.makedirs('plain/a/b'); os.mkdir('closed'); open('closed/file', 'w').close(); os.mkdir('closed/inner')
for name in (b'new\\nline', b'\\xff\\xfe', b'-rf', ' '.encode(), b'x' * 255):
    open(name, 'w').close()
for number in range(500):
    open(f'/dev/shm/{number}', 'w').close()
for _ in range(3000):
    os.mkdir('deep'); os.chdir('deep')
    os.symlink('/workspace/file', 'link')
os.chmod('/tmp/closed/inner', 0); os.chmod('/tmp/closed', 0); os.chmod('/tmp', 0o500)
"""


@pytest.mark.parametrize("inside", [False, True])
def test_cleanup_removes_whatever_a_program_left_in_tmp(inside: bool) -> None:
    """3,000 levels, links out, closed directories, names of any bytes: gone, with the mode of /tmp as it was; the
    workspace is untouched. By the supervisor, or where files belong to subordinate ids by a program in the sandbox.
    """

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            await sandbox.shell("echo file > file")
            ours = (await sandbox.shell("ls -A /tmp")).stdout  # an interpreter may lie there
            made = await sandbox.execute(HOSTILE)
            assert made.ok, made.stderr
            seen = Seen(sandbox)
            if inside:
                await empty_from_inside(sandbox._core)
            else:
                await sandbox.cleanup()
                assert seen.events == []
            found = await sandbox.shell("ls -A /tmp /dev/shm; stat -c %a /tmp /dev/shm; cat file; ls")
            assert found.stdout == f"/dev/shm:\n\n/tmp:\n{ours}1777\n1777\nfile\nfile\n"

    trio.run(main)


def test_cleanup_keeps_what_is_the_caller_s_below_tmp(tmp_path: Path) -> None:
    """A working directory and a mount below /tmp stay, with what is in them; everything beside them goes."""
    (tmp_path / "given").write_text("given\n")
    tmp_path.chmod(0o755)
    mount = nsbox.Mount(source=tmp_path, target="/tmp/mounted/here")
    with nsbox.Sandbox(working_directory="/tmp/work/place", mounts=[mount]) as sandbox:
        ours = sandbox.shell("ls /tmp").stdout
        assert {"mounted", "work"} <= set(ours.split())
        sandbox.shell("echo file > file; echo x > /tmp/other; mkdir /tmp/more")
        sandbox.cleanup()
        assert sandbox.shell("cat file /tmp/mounted/here/given; ls /tmp").stdout == f"file\ngiven\n{ours}"
        assert sandbox.execute("print(1)").ok  # the interpreter is still there, too


@pytest.mark.needs_cgroups
def test_cleanup_needs_a_sandbox_that_lives_and_works_while_programs_run_or_stand_still(bell: Bell) -> None:
    """Running programs go on; a suspended sandbox stays so; one that is not started, or has ended, refuses."""
    sandbox = nsbox.Sandbox(mounts=[bell.mount])
    with pytest.raises(nsbox.InvalidStateError, match="creating"):
        sandbox.cleanup()
    with sandbox, concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.shell, "echo x > /tmp/x; echo > /bell/ring; read line < /bell/go; ls /tmp")
        bell.wait()
        ours = sandbox.shell("rm /tmp/x; ls /tmp; echo x > /tmp/x").stdout
        sandbox.cleanup()
        sandbox.suspend()
        sandbox.cleanup()
        sandbox.resume()
        bell.go()
        assert running.result(SECONDS).stdout == ours
    with pytest.raises(nsbox.InvalidStateError, match="terminated"):
        sandbox.cleanup()


def test_a_program_that_fills_tmp_while_it_is_emptied_is_no_endless_loop(
    bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error after a bounded time, and the sandbox is as usable as before."""
    monkeypatch.setattr("nsbox._core.sweep._SECONDS", 0.2)
    forks = "echo > /bell/ring; while :; do for i in 1 2 3 4 5 6 7 8 9; do : > /tmp/$i; done; done"
    with (
        nsbox.Sandbox(mounts=[bell.mount], timeout=60, cpus=2) as sandbox,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        ours = sandbox.shell("ls /tmp").stdout
        running = pool.submit(sandbox.shell, forks)
        bell.wait()
        for _ in range(3):
            with contextlib.suppress(nsbox.FileOperationError):  # whether it loses the race is not the point
                sandbox.cleanup()
        sandbox.terminate_execution(next(iter(sandbox.executions)))
        assert running.result(SECONDS).verdict is Verdict.CANCELLED
        sandbox.cleanup()
        assert sandbox.shell("ls /tmp").stdout == ours


def test_what_is_lost_and_never_recovered_is_removed_all_the_same() -> None:
    """Terminated in ERROR: its cgroups, mounts and processes are gone; the fixture of every test looks for them."""
    with nsbox.Sandbox(recovery=OFF) as sandbox, nsbox.Sandbox() as other:
        os.kill(init_of(sandbox), signal.SIGKILL)
        until(lambda: sandbox.status is SandboxStatus.ERROR, "the sandbox knows")
        sandbox.terminate()
        assert sandbox.status is SandboxStatus.TERMINATED
        assert other.shell("echo usable").stdout == "usable\n"


def test_an_error_of_no_class_that_is_known_is_told_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the judgement, say: RuntimeErrorEvent, then ExecutionFailed, the exception itself, a usable sandbox."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            seen = Seen(sandbox)
            with monkeypatch.context() as patch:
                patch.setattr("nsbox._core.executions.judge", lambda _: 1 // 0)
                with pytest.raises(ZeroDivisionError):
                    await sandbox.shell("true")
            assert seen.lines() == ["busy", "execution_started", "runtime_error_event", "execution_failed", "idle"]
            assert (await sandbox.shell("echo usable")).stdout == "usable\n"
            seen.events.clear()
            with pytest.raises(nsbox.ProgramStartError):
                await sandbox.run(["/nowhere"])
            assert "runtime_error_event" not in seen.lines()

    trio.run(main)
