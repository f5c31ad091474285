"""`nsbox ps` and `nsbox top`: sandboxes of other processes, as they are."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leaks import cgroup_directories
from terminals import screen
from watching import parts_of_nsbox, until

import nsbox
from nsbox._blocking import shutdown
from nsbox._supervisor.census import Answer, ask_all, dead_sockets
from nsbox._supervisor.directory import candidates, open_directory
from nsbox._supervisor.garbage import collect

NSBOX = [sys.executable, "-m", "nsbox._cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
APPLICATION = """
import os, sys, nsbox
sandboxes = [nsbox.Sandbox.create(user_id=f"user-{number}") for number in range(2)]
sandboxes[0].run(["true"])
running = sandboxes[0].spawn(["sh", "-c", "sleep 60 & sleep 60"])
sandboxes[1].suspend() if sys.argv[1:] == ["suspend"] else None
child = 0
if sys.argv[1:] == ["fork"]:
    child = os.fork()
    if child == 0:
        os.close(1)
        sys.stdin.readline()
        os._exit(0)
print(child, flush=True)
sys.stdin.readline()
if child:
    os.waitpid(child, 0)
"""


class Application:
    """A process with two sandboxes, in the first of which a program with two processes runs."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=ENVIRONMENT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        self.pid = self.process.pid

    def end(self) -> None:
        """By itself."""
        self.process.communicate("\n", timeout=60)


def kill_with_launcher(application: Application) -> None:
    """So that nobody cleans up; neither of them has a chance to."""
    launcher = parts_of_nsbox()[0]
    os.kill(launcher, signal.SIGSTOP)
    application.process.kill()
    application.process.wait()
    os.kill(launcher, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether nothing is left of it but its status: while it ends its command line is gone before its files are."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(name="application")
def _application(request: pytest.FixtureRequest) -> Iterator[Application]:
    made = Application(*getattr(request, "param", ()))
    yield made
    made.end()


def answers(pid: int, seconds: float = 10.0) -> list[Answer]:
    """What the supervisors of a process say."""
    return [one.answer for one in ask_all(seconds) if one.pid == pid]


def sockets(pid: int) -> list[Path]:
    """Those of a process."""
    return [path for directory in candidates() for path in directory.glob(f"nsbox-{pid}-*")]


def ps_json(pid: int) -> list[dict[str, Any]]:
    """The sandboxes of a process, as the command tells them."""
    done = subprocess.run([*NSBOX, "ps", "--json"], capture_output=True, check=True, timeout=60, env=ENVIRONMENT)
    found = [one for one in json.loads(done.stdout)["supervisors"] if one["pid"] == pid]
    return [sandbox for one in found for sandbox in one["sandboxes"]]


@pytest.mark.lane_unified
@pytest.mark.parametrize("application", [("suspend",)], indirect=True)
@pytest.mark.needs_cgroups
def test_the_sandboxes_of_another_process_are_shown_as_they_are(application: Application) -> None:
    """Status, runs, and what the kernel counts; as JSON and as a table."""
    first, second = ps_json(application.pid)
    assert (first["status"], first["user_id"], first["running"], first["executions"]) == ("busy", "user-0", 1, 2)
    assert (second["status"], second["user_id"], second["executions"]) == ("suspended", "user-1", 0)
    assert (first["processes"], second["processes"]) == (3, 0)
    assert first["cpu_seconds"] > 0
    assert first["memory_bytes"] > 0
    done = subprocess.run([*NSBOX, "ps"], capture_output=True, check=True, timeout=60, env=ENVIRONMENT, text=True)
    (line,) = [line for line in done.stdout.splitlines() if first["id"] in line]
    assert {"busy", "python", "user-0", str(application.pid)} <= set(line.split())


def test_without_cgroups_sandboxes_are_shown_too(application: Application) -> None:
    """In every lane: there is an answer, with both."""
    assert [sandbox["user_id"] for sandbox in ps_json(application.pid)] == ["user-0", "user-1"]


def test_own_sandboxes_come_and_go_and_leave_no_socket() -> None:
    """One entry a sandbox from start to terminate; nothing in the directory after shutdown."""
    with nsbox.Sandbox() as sandbox:
        (own,) = [one for one in ask_all() if one.pid == os.getpid()]
        assert [one["id"] for one in own.sandboxes] == [sandbox.id]
        (socket,) = sockets(os.getpid())
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    (own,) = [one for one in ask_all() if one.pid == os.getpid()]
    assert own.sandboxes == ()
    shutdown()
    assert sockets(os.getpid()) == []
    assert answers(os.getpid()) == []


def test_an_application_that_is_stopped_is_busy_and_not_taken_for_dead(application: Application) -> None:
    """It is shown as what does not answer, its socket stays, and later it answers again."""
    os.kill(application.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, application.pid, os.WSTOPPED)
        assert answers(application.pid, 0.2) == [Answer.BUSY]
        dead_sockets(remove=True)
        assert len(sockets(application.pid)) == 1
    finally:
        os.kill(application.pid, signal.SIGCONT)
    assert answers(application.pid) == [Answer.TOLD]


@pytest.mark.lane_unified
def test_the_socket_of_a_dead_application_is_removed_by_who_looks_next() -> None:
    """After SIGKILL it is there, refused, and then gone; and a child that was forked from it does not hold it open."""
    application = Application("fork")
    assert answers(application.pid) == [Answer.TOLD]
    kill_with_launcher(application)
    try:
        assert len(sockets(application.pid)) == 1
        os.kill(application.child, 0)  # the child lives, and has what it inherited
        until(lambda: answers(application.pid) == [], "it is not shown")
        assert sockets(application.pid) == []
    finally:
        assert application.process.stdin is not None
        application.process.stdin.write("\n")
        application.process.stdin.close()
        assert application.process.stdout is not None
        application.process.stdout.close()
        until(lambda: has_ended(application.child), "the child, which has their lock too, has ended")
        nsbox.execute("print(1)")  # the cgroups go with the next start
        collect_the_rest(application)


def collect_the_rest(application: Application) -> None:
    """A cgroup in which something was still dying is left to the start after the next."""
    name = f"/nsbox-{application.pid}-"

    def is_gone() -> bool:
        collect()
        return not any(name in one for one in cgroup_directories({application.pid}))

    until(is_gone, "its cgroups are gone")


def test_the_next_start_removes_the_socket_too() -> None:
    """Without anybody who looks."""
    application = Application()
    kill_with_launcher(application)
    application.process.communicate()
    (left,) = sockets(application.pid)
    nsbox.execute("print(1)")
    shutdown()
    assert not left.exists()
    collect_the_rest(application)


@pytest.mark.lane_unified
def test_the_launcher_removes_the_socket_when_its_application_cannot() -> None:
    """After SIGKILL of the application alone nothing has to be collected."""
    application = Application()
    assert len(sockets(application.pid)) == 1
    application.process.kill()
    application.process.communicate()
    until(lambda: not sockets(application.pid), "the socket is gone")


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused by name; as it should be, it is taken."""
    directory = tmp_path / "nsbox"
    os.close(open_directory(directory, make=True))
    directory.chmod(0o770)
    with pytest.raises(PermissionError, match="0700"):
        open_directory(directory, make=True)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(OSError, match="link"):
        open_directory(tmp_path / "link", make=False)
    assert caplog.records == []


def test_a_sandbox_runs_where_no_socket_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning says that ps will not show it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("nsbox._supervisor.registry.candidates", lambda: [tmp_path / "file" / "nsbox"])
    assert nsbox.execute("print(1)").ok
    assert "nsbox ps will not show" in caplog.text


def test_what_lies_in_the_directory_beside_sockets_is_left_alone() -> None:
    """Other names, and files that are no sockets, do no harm."""
    with nsbox.Sandbox():
        (socket,) = sockets(os.getpid())
        strange = socket.parent / "notes.txt"
        strange.write_text("mine")
        try:
            assert answers(os.getpid()) == [Answer.TOLD]
            dead_sockets(remove=True)
            assert strange.read_text() == "mine"
        finally:
            strange.unlink()


@pytest.mark.needs_cgroups
def test_top_shows_what_was_used_since_the_look_before() -> None:
    """A busy sandbox has its CPU in percent at the second look, an idle one nothing."""
    with nsbox.Sandbox(timeout=60) as busy, nsbox.Sandbox() as idle:
        process = busy.spawn(["sh", "-c", "while :; do :; done"])
        done = subprocess.run(
            [*NSBOX, "top", "--count", "2", "--interval", "0.5"], capture_output=True, check=True, text=True,
            timeout=60, env=ENVIRONMENT,
        )  # fmt: skip
        process.close()
        lines = [line.split() for line in done.stdout.splitlines() if busy.id in line or idle.id in line]
    assert len(lines) == 4
    percents = {line[0]: float(line[line.index("%") - 1]) for line in lines if "%" in line}
    assert percents[busy.id] > 10
    assert percents[idle.id] < 5
    assert len(percents) == 2


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_top_on_a_terminal_ends_by_a_key(key: str) -> None:
    """It takes the whole screen, and gives it back as it was."""
    with nsbox.Sandbox() as sandbox, screen([*NSBOX, "top"], size=(30, 200), environment=ENVIRONMENT) as person:
        person.read_until(rf"\x1b\[\?1049h.*{sandbox.id}")
        person.type(key)
        assert person.wait() == 0
        person.read_until(r"\x1b\[\?1049l")
        assert person.is_as_before


def test_there_is_one_socket_a_supervisor_and_none_a_sandbox() -> None:
    """However many sandboxes."""
    sandboxes = [nsbox.Sandbox.create() for _ in range(5)]
    assert len(sockets(os.getpid())) == 1
    assert len(next(one for one in ask_all() if one.pid == os.getpid()).sandboxes) == 5
    for sandbox in sandboxes:
        sandbox.terminate()
    assert parts_of_nsbox()
