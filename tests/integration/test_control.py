"""The control channel to PID 1: pings, sockets, and what becomes of the channel."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from watching import Bell, until

import nsbox
from nsbox import AsyncSandbox, RecoveryPolicy, SandboxStatus
from nsbox._core.timers import current_timers
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.control import Control, Settle
from nsbox._supervisor.start import pid_of

QUICK = RecoveryPolicy(retry_delay=0.01)
SECONDS = 20.0
SERVER = """
import socket, sys
family = getattr(socket, sys.argv[1])
server = socket.socket(family, getattr(socket, sys.argv[2]))
server.bind((sys.argv[3], 4000))
if sys.argv[2] == 'SOCK_STREAM':
    server.listen()
open('/bell/ring', 'w').write('listens\\n')
if sys.argv[2] == 'SOCK_STREAM':
    connection, _ = server.accept()
    connection.sendall(b'from inside')
else:
    _, peer = server.recvfrom(100)
    server.sendto(b'from inside', peer)
"""


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


def cell_of(sandbox: AsyncSandbox | nsbox.Sandbox) -> Cell:
    """As the supervisor holds it."""
    return sandbox._core.living()[1]


def seen_by(sandbox: AsyncSandbox | nsbox.Sandbox) -> list[nsbox.Event]:
    """Every event from now on but looks at metrics; to be read in the supervisor's run, or when it is quiet."""
    seen: list[nsbox.Event] = []

    def note(event: nsbox.Event) -> None:
        if not isinstance(event, nsbox.MetricsUpdated):
            seen.append(event)

    sandbox._core.emitter.subscribe(nsbox.Event, note)
    return seen


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Until something has come true, while the run goes on."""
    await trio.to_thread.run_sync(until, condition, what, SECONDS)


async def wait_for(seen: list[nsbox.Event], name: str) -> None:
    """Until an event of that name has happened."""
    await eventually(lambda: name in [event.name for event in seen], f"{name} is told")


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_pid_1_answers_from_the_start_and_after_every_change() -> None:
    """Started, suspended and resumed, restarted, reset: each time Connected, and a ping comes back."""

    async def main() -> list[str]:
        sandbox = AsyncSandbox()
        seen = seen_by(sandbox)
        async with sandbox:
            await cell_of(sandbox).control.ping(SECONDS)
            await sandbox.suspend()
            with pytest.raises(nsbox.NetworkError, match="did not answer within"):
                await cell_of(sandbox).control.ping(0.05)
            await sandbox.resume()
            await cell_of(sandbox).control.ping(SECONDS)
            for change in (sandbox.restart, sandbox.reset):
                await change()
                await cell_of(sandbox).control.ping(SECONDS)
        return [f"{event.name} {getattr(event, 'code', '')}".strip() for event in seen if event.name != "state_changed"]

    assert trio.run(main) == [
        "created", "connected", "started", "suspended", "resumed", "disconnected 1000", "connected",
        "disconnected 1000", "created", "connected", "disconnected 1000", "terminated",
    ]  # fmt: skip


def talk(client: socket.socket, address: tuple[str, int]) -> bytes:
    """Connect, say something, and listen."""
    client.connect(address)
    client.send(b"hello")
    return client.recv(100)


@pytest.mark.parametrize(
    ("family", "kind", "address"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"),
    ],
)
def test_a_socket_made_by_pid_1_is_in_the_sandbox_s_network(
    bell: Bell, family: socket.AddressFamily, kind: socket.SocketKind, address: str
) -> None:
    """It reaches a server inside; one of the host's own with the same address does not."""

    async def main() -> None:
        async with AsyncSandbox(mounts=[bell.mount]) as sandbox, trio.open_nursery() as nursery:
            arguments = (family.name, kind.name, address)
            nursery.start_soon(partial(sandbox.execute, SERVER, arguments=arguments, timeout=SECONDS))
            await trio.to_thread.run_sync(bell.wait)
            made = await cell_of(sandbox).control.open_socket(family, kind)
            assert (made.family, made.type, made.getblocking()) == (family, kind, False)
            with trio.socket.from_stdlib_socket(made) as inside, trio.fail_after(SECONDS):
                await inside.connect((address, 4000))
                await inside.send(b"hello")
                assert await inside.recv(100) == b"from inside"
            with socket.socket(family, kind) as outside:
                outside.settimeout(SECONDS)
                with pytest.raises(ConnectionRefusedError):
                    talk(outside, (address, 4000))

    trio.run(main)


def test_a_socket_is_the_caller_s_and_leaves_nothing_in_pid_1() -> None:
    """300 of them, closed by the caller: PID 1 has as few descriptors as before, and still answers."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            cell = cell_of(sandbox)
            fds = f"/proc/{pid_of(cell.pidfd)}/fd"
            await eventually(lambda: len(os.listdir(fds)) == 5, "PID 1 has closed what it was born with")
            before = len(os.listdir(fds))
            for _ in range(300):
                (await cell.control.open_socket()).close()
            assert len(os.listdir(fds)) == before  # /dev/null three times, the launcher, the channel
            with pytest.raises(ValueError, match="not to be had"):
                await cell.control.open_socket(socket.AF_UNIX)

    trio.run(main)


@pytest.mark.lane_unified
def test_a_channel_that_breaks_is_replaced_while_programs_go_on(bell: Bell) -> None:
    """Disconnected 1006, Connected, without a ping in between; PID 1 is the same, and so is the running program."""

    async def main() -> None:
        async with AsyncSandbox(mounts=[bell.mount]) as sandbox, trio.open_nursery() as nursery:
            seen = seen_by(sandbox)
            cell = cell_of(sandbox)
            init = pid_of(cell.pidfd)
            results: list[nsbox.ExecutionResult] = []

            async def run() -> None:
                results.append(await sandbox.shell("echo > /bell/ring; read line < /bell/go; echo went on"))

            nursery.start_soon(run)
            await trio.to_thread.run_sync(bell.wait)
            for _ in range(3):
                seen.clear()
                assert cell.control._socket is not None
                cell.control._socket.send(b"nonsense")  # which PID 1 answers by closing the channel
                await wait_for(seen, "connected")
                assert [event.name for event in seen] == ["disconnected", "connected"]
                assert isinstance(seen[0], nsbox.Disconnected)
                assert (seen[0].code, pid_of(cell.pidfd)) == (1006, init)
                await cell.control.ping(SECONDS)
            bell.go()
            await eventually(lambda: results, "the program has ended")
            assert results[0].stdout == "went on\n"
            assert sandbox.last_error is None

    trio.run(main)


def test_a_channel_that_is_replaced_is_not_taken_for_a_broken_one() -> None:
    """PID 1 closes the old one, at times before the supervisor has the new one: 300 times nothing is alarmed."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            seen = seen_by(sandbox)
            for _ in range(300):
                await cell_of(sandbox).connect()
                await cell_of(sandbox).control.ping(SECONDS)
            assert seen == []

    trio.run(main)


@pytest.mark.needs_cgroups
def test_a_channel_that_breaks_while_suspended_is_mended_at_resume() -> None:
    """PID 1 cannot take one while it is frozen; nothing is pinged, and nothing fails meanwhile."""

    async def main() -> None:
        async with AsyncSandbox(heartbeat_interval=0.01) as sandbox:
            seen = seen_by(sandbox)
            await sandbox.suspend()
            cell_of(sandbox).control._break(nsbox.NetworkError("closed by the test"))
            await trio.sleep(0.1)  # ten intervals
            assert [event.name for event in seen] == ["state_changed", "suspended", "disconnected"]
            await sandbox.resume()
            await wait_for(seen, "connected")
            await cell_of(sandbox).control.ping(SECONDS)
            assert "heartbeat_failed" not in [event.name for event in seen]

    trio.run(main)


@pytest.mark.needs_cgroups
def test_reconnect_opens_a_channel_only_where_there_is_none_that_answers() -> None:
    """Nothing happens to a healthy one; a broken one is replaced, even without auto_recover."""

    async def main() -> None:
        sandbox = AsyncSandbox(recovery=RecoveryPolicy(auto_recover=False))
        with pytest.raises(nsbox.InvalidStateError, match="creating"):
            await sandbox.reconnect()
        async with sandbox:
            seen = seen_by(sandbox)
            await sandbox.reconnect()
            assert seen == []
            cell_of(sandbox).control._break(nsbox.NetworkError("closed by the test"))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert [event.name for event in seen] == ["disconnected"]
            assert str(sandbox.last_error) == "closed by the test"
            await sandbox.reconnect()
            assert [event.name for event in seen] == ["disconnected", "connected"]
            assert sandbox.last_error is None
            await sandbox.suspend()
            await sandbox.reconnect()
            await sandbox.resume()
            await cell_of(sandbox).control.ping(SECONDS)
        with pytest.raises(nsbox.InvalidStateError, match="terminated"):
            await sandbox.reconnect()

    trio.run(main)


def test_idle_sandboxes_have_no_task_and_one_timer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty of them add no task to the run, and twenty timers, which are gone with them; their pings are answered."""
    pings: Counter[Control] = Counter()
    ask = Control.ask

    def count(self: Control, settle: Settle, **request: object) -> int:
        pings[self] += 1
        return ask(self, settle, **request)

    async def main() -> None:
        async with AsyncSandbox(heartbeat_interval=0.02) as first:
            await first.shell("true")
            tasks = trio.lowlevel.current_statistics().tasks_living
            sandboxes = [await AsyncSandbox.create(heartbeat_interval=0.02) for _ in range(20)]
            with monkeypatch.context() as patch:
                patch.setattr(Control, "ask", count)
                controls = [cell_of(sandbox).control for sandbox in sandboxes]
                # a second ping follows the answer to the first
                await eventually(lambda: all(pings[control] >= 5 for control in controls), "five pings each")
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert len(current_timers()._lengths) == 21
            for sandbox in sandboxes:
                assert sandbox.status is SandboxStatus.RUNNING
                await sandbox.terminate()
            assert len(current_timers()._lengths) == 1

    trio.run(main)


@pytest.mark.lane_unified
def test_a_stopped_pid_1_is_noticed_and_one_that_goes_on_is_kept(bell: Bell) -> None:
    """SIGSTOP: HeartbeatFailed, Disconnected; SIGCONT then: Connected. The running program has noticed nothing."""

    async def main() -> None:
        async with (
            AsyncSandbox(mounts=[bell.mount], heartbeat_interval=0.1, recovery=QUICK) as sandbox,
            trio.open_nursery() as nursery,
        ):
            seen = seen_by(sandbox)
            results: list[nsbox.ExecutionResult] = []

            async def run() -> None:
                results.append(await sandbox.shell("echo > /bell/ring; read line < /bell/go; echo went on"))

            nursery.start_soon(run)
            await trio.to_thread.run_sync(bell.wait)
            init = pid_of(cell_of(sandbox).pidfd)
            os.kill(init, signal.SIGSTOP)
            await wait_for(seen, "disconnected")
            os.kill(init, signal.SIGCONT)
            await wait_for(seen, "connected")
            bell.go()
            await wait_for(seen, "execution_completed")
            names = [event.name for event in seen if "execution" not in event.name and event.name != "state_changed"]
            assert names == ["heartbeat_failed", "disconnected", "connected"]
            assert pid_of(cell_of(sandbox).pidfd) == init
            await eventually(lambda: results, "the program has ended")
            assert results[0].stdout == "went on\n"

    trio.run(main)


@pytest.mark.needs_cgroups
def test_a_sandbox_that_somebody_else_has_frozen_is_waited_for() -> None:
    """Its cgroup frozen from outside for longer than the first wait: no alarm, and pings go on afterwards."""

    async def main() -> None:
        async with AsyncSandbox(heartbeat_interval=0.05) as sandbox:
            supervisor, cell = sandbox._core.living()
            seen = seen_by(sandbox)
            group = next(one.path for one in supervisor.tree.hierarchies if one.version == 2) / f"s{cell.number}"
            (group / "cgroup.freeze").write_text("1")
            until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "it is frozen")
            await trio.sleep(1.5)  # the first wait is 1 s
            (group / "cgroup.freeze").write_text("0")
            await cell.control.ping(SECONDS)
            assert seen == []

    trio.run(main)
