"""The states of a sandbox, as its own calls go through them."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watching import Bell, parts_of_nsbox, programs, until

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
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def in_state(status: SandboxStatus, bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> nsbox.Sandbox:
    """A sandbox in one of the states that a caller can see from outside a call."""
    sandbox = nsbox.Sandbox(mounts=[bell.mount], timeout=20)
    if status is SandboxStatus.CREATING:
        return sandbox
    sandbox.start()
    if status is SandboxStatus.IDLE:
        sandbox.shell("true")
    elif status is SandboxStatus.BUSY:
        pool.submit(sandbox.shell, "echo > /bell/ring; exec sleep 60")
        bell.wait()
    elif status is SandboxStatus.SUSPENDED:
        sandbox.suspend()
    elif status is SandboxStatus.TERMINATED:
        sandbox.terminate()
    assert sandbox.status is status
    return sandbox


S = SandboxStatus
CALLS: dict[str, Any] = {
    "start": lambda sandbox: sandbox.start(),
    "suspend": lambda sandbox: sandbox.suspend(),
    "resume": lambda sandbox: sandbox.resume(),
    "restart": lambda sandbox: sandbox.restart(),
    "reset": lambda sandbox: sandbox.reset(),
    "terminate": lambda sandbox: sandbox.terminate(),
    "execute": lambda sandbox: sandbox.execute("print(1)"),
    "run": lambda sandbox: sandbox.run(["true"]),
}
OUTCOMES = {  # what follows each call in each state; None: InvalidStateError, and the state stays
    S.CREATING: {"start": S.RUNNING, "terminate": S.TERMINATED},
    S.RUNNING: {
        "suspend": S.SUSPENDED, "restart": S.RUNNING, "reset": S.RUNNING, "terminate": S.TERMINATED, "execute": S.IDLE,
        "run": S.IDLE,
    },
    S.IDLE: {
        "suspend": S.SUSPENDED, "restart": S.IDLE, "reset": S.IDLE, "terminate": S.TERMINATED, "execute": S.IDLE,
        "run": S.IDLE,
    },
    S.BUSY: {
        "suspend": S.SUSPENDED, "restart": S.IDLE, "reset": S.IDLE, "terminate": S.TERMINATED, "execute": S.BUSY,
        "run": S.BUSY,
    },
    S.SUSPENDED: {"resume": S.RUNNING, "restart": S.RUNNING, "reset": S.RUNNING, "terminate": S.TERMINATED},
    S.TERMINATED: {"terminate": S.TERMINATED},
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", OUTCOMES, ids=str)
def test_every_call_is_legal_in_its_states_only(
    state: SandboxStatus, call: str, bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The new state is the table's, or InvalidStateError names the call and the state, and nothing has changed."""
    sandbox = in_state(state, bell, pool)
    try:
        expected = OUTCOMES[state].get(call)
        if expected is None:
            with pytest.raises(nsbox.InvalidStateError, match=state.value):
                CALLS[call](sandbox)
            assert sandbox.status is state
        else:
            CALLS[call](sandbox)
            assert sandbox.status is expected
            if sandbox.is_active:
                assert sandbox.shell("echo usable").stdout == "usable\n"
    finally:
        sandbox.terminate()
    assert sandbox.status is S.TERMINATED
    assert programs() == {}


@pytest.mark.parametrize("end", ["terminate", "restart", "reset"])
@pytest.mark.parametrize("suspended", [False, True])
def test_running_executions_are_cancelled_by_what_ends_their_processes(
    end: str, suspended: bool, bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Each caller has its result, CANCELLED with what was printed, and every process is dead on return."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        command = "trap '' TERM HUP; setsid sleep 60 & echo before; echo > /bell/ring; sleep 60; echo after"
        running = [pool.submit(sandbox.shell, command) for _ in range(2)]
        code = "import os, time\nprint('before')\nopen('/bell/ring', 'w').write('x\\n')\nos.fork(); time.sleep(60)"
        running.append(pool.submit(sandbox.execute, code))
        for _ in running:
            bell.wait()
        assert len(programs()) >= 5
        if suspended:
            sandbox.suspend()
        getattr(sandbox, end)()
        assert programs() == {}
        for result in [future.result(20) for future in running]:
            assert (result.verdict, result.signal, result.stdout) == (Verdict.CANCELLED, 9, "before\n")
        assert sandbox.executions == {}
        if end != "terminate":
            assert sandbox.shell("echo usable").stdout == "usable\n"


PLACES = "/workspace /tmp /dev/shm $HOME"
# a queue, not a segment: shared memory goes with its last user here (kernel.shm_rmid_forced, proc_sys_kernel(5))
SHARE = "ipcmk -Q > /dev/null; ipcs -q | grep -c ^0x"


@pytest.mark.lane_unified
def test_restart_keeps_files_and_makes_new_processes() -> None:
    """Same id, same files with their owners, none of the processes and System V or abstract names of before."""
    with nsbox.Sandbox(timeout=20) as sandbox:
        before = sandbox.id
        write = f"for d in {PLACES}; do echo kept > $d/f; done; {SHARE}"
        assert sandbox.shell(write).stdout == "1\n"
        for _ in range(3):
            sandbox.restart()
            read = "cat /workspace/f /tmp/f /dev/shm/f $HOME/f; echo more >> /tmp/f; ipcs -q | grep -c ^0x"
            result = sandbox.shell(read)
            assert result.stdout.count("kept\n") == 4
            assert result.stdout.endswith("\n0\n")
        assert sandbox.shell("cat /tmp/f").stdout == "kept\nmore\nmore\nmore\n"
        assert sandbox.id == before
        assert sandbox.execute("print(open('/tmp/f').read(4))").stdout == "kept\n"


def mount_namespaces() -> set[str]:
    """Those that processes of nsbox are in or hold a descriptor of, as readlink(2) shows them (namespaces(7))."""
    found = set()
    for pid in parts_of_nsbox():
        for link in (*Path(f"/proc/{pid}/fd").glob("*"), Path(f"/proc/{pid}/ns/mnt")):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(link))
    return {one for one in found if one.startswith("mnt:")}


@pytest.mark.lane_unified
def test_the_mounts_of_sandboxes_that_are_gone_go_too() -> None:
    """Also where no further sandbox is made, with whose start they would go; and of many at once."""
    sandboxes = [nsbox.Sandbox(disk_mb=1) for _ in range(20)]
    for sandbox in sandboxes:
        sandbox.start()
    theirs = {sandbox.run(["readlink", "/proc/self/ns/mnt"]).stdout.strip() for sandbox in sandboxes}
    assert len(theirs) == len(sandboxes)
    assert theirs <= mount_namespaces()
    for sandbox in sandboxes:
        sandbox.terminate()
    until(lambda: not theirs & mount_namespaces(), "the namespaces are nobody's any more")


def test_reset_is_as_new() -> None:
    """Same id, no file of before, the whole quota again."""
    with nsbox.Sandbox(timeout=20, disk_mb=8) as sandbox:
        before = sandbox.id
        fill = "head -c 7000000 /dev/zero > /tmp/fill && mkdir a && touch $HOME/x"
        count = "find /workspace /tmp /dev/shm $HOME -mindepth 1 -xdev | wc -l"
        new = int(sandbox.shell(count).stdout)  # not 0 where the interpreter itself lies below one of them
        for _ in range(2):
            assert sandbox.shell(fill).ok
            assert int(sandbox.shell(count).stdout) == new + 3
            sandbox.reset()
            assert int(sandbox.shell(count).stdout) == new
        assert sandbox.id == before


def test_one_execution_too_many_is_refused(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """`ResourceLimitError`; the others go on, and when one has ended there is room again."""
    enforcement = nsbox.EnforcementPolicy(max_concurrent_executions=2, max_execution_seconds=20)
    with nsbox.Sandbox(mounts=[bell.mount], enforcement=enforcement) as sandbox:
        running = [pool.submit(sandbox.shell, "echo > /bell/ring; read line < /bell/go; exit 3") for _ in range(2)]
        for _ in running:
            bell.wait()
        for call in (sandbox.execute, sandbox.shell):
            with pytest.raises(nsbox.ResourceLimitError, match=r"2 executions.*max_concurrent_executions"):
                call("true")
        bell.go()
        until(lambda: any(future.done() for future in running), "one execution ends")
        assert sandbox.status is S.BUSY
        assert sandbox.shell("echo room").stdout == "room\n"
        bell.go()
        assert [future.result(20).exit_code for future in running] == [3, 3]
        assert sandbox.status is S.IDLE


def test_executions_are_listed_while_they_run(bell: Bell, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """With what was asked for, and when."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=20) as sandbox:
        future = pool.submit(sandbox.run, ["sh", "-c", "echo > /bell/ring; read line < /bell/go"], arguments=["a b"])
        bell.wait()
        (execution,) = sandbox.executions.values()
        assert execution.sandbox_id == sandbox.id
        assert (execution.status, execution.language) == (nsbox.ExecutionStatus.RUNNING, "command")
        assert execution.code.startswith("sh -c 'echo > /bell/ring")
        assert execution.options.arguments == ("a b",)
        assert execution.started_at is not None
        assert execution.created_at <= execution.started_at
        assert execution.result is None
        bell.go()
        assert future.result(20).execution_id == execution.id
        assert sandbox.executions == {}


def test_a_sandbox_tells_what_it_is() -> None:
    """Identity, configuration, what is in force here, and times that do not go back."""
    with nsbox.Sandbox(user_id="me", tags={"a": "b"}, environment={"X": "1"}) as sandbox, nsbox.Sandbox() as other:
        assert sandbox.id != other.id
        assert (sandbox.user_id, sandbox.runtime, sandbox.is_active) == ("me", "python", True)
        assert (dict(sandbox.metadata.tags), dict(sandbox.metadata.environment)) == ({"a": "b"}, {"X": "1"})
        assert set(sandbox.isolation) >= {"namespaces", "ids", "filter", "cgroups", "memory", "processes", "freezer"}
        before = sandbox.metadata
        sandbox.shell("true")
        assert sandbox.metadata.created_at == before.created_at
        assert sandbox.metadata.last_active_at > before.last_active_at
    assert not sandbox.is_active
    with pytest.raises(nsbox.InvalidStateError):
        sandbox.isolation  # noqa: B018  # the property raises


def test_two_sandboxes_share_nothing_writable() -> None:
    """Files, shared memory, System V objects, processes, host uids (X01)."""
    with nsbox.Sandbox(timeout=20) as first, nsbox.Sandbox(timeout=20) as second:
        assert first.shell(f"for d in {PLACES}; do touch $d/f; done; {SHARE}").stdout == "1\n"
        look = "find /workspace /tmp /dev/shm $HOME -name f | wc -l; ipcs -q | grep -c ^0x"
        assert second.shell(look).stdout == "0\n0\n"
        maps = [sandbox.shell("cat /proc/self/uid_map").stdout.split() for sandbox in (first, second)]
        assert abs(int(maps[0][1]) - int(maps[1][1])) >= int(maps[0][2])


def test_nothing_new_begins_while_executions_are_stopped() -> None:
    """Threads that go on starting programs do not keep a restart from its end; they are refused, or cancelled."""
    outcomes: set[str] = set()
    over = threading.Event()

    def keep_starting(sandbox: nsbox.Sandbox) -> None:
        while not over.is_set():
            try:
                outcomes.add(sandbox.run(["sleep", "30"]).verdict.value)
            except nsbox.InvalidStateError:
                outcomes.add("refused")

    with nsbox.Sandbox() as sandbox:
        threads = [threading.Thread(target=keep_starting, args=(sandbox,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            sandbox.restart()
        over.set()
        sandbox.suspend(stop_executions=True)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        sandbox.resume()
        assert sandbox.run(["true"]).ok
    assert "cancelled" in outcomes
