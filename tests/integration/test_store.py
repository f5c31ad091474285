"""A sandbox with `store=`: what is kept of it, while all goes well and when it does not."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from stepping import cancel_at_each_checkpoint
from watching import Bell, until

import nsbox
from nsbox._blocking import shutdown
from nsbox._records import ResourceMetrics, ResourceUsage, Usage
from nsbox._store import Reader, close_writers
from nsbox._store import database as database_module


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def check(path: Path) -> None:
    """The file is sound."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.lane_unified
def test_all_of_a_sandbox_is_there_when_terminate_returns(path: Path) -> None:
    """Each execution with its verdict, and every state from the first to the last; nothing is lost at the end."""
    with nsbox.Sandbox(store=path, tags={"job": "7"}, timeout=20) as sandbox:
        ok = sandbox.execute("print('kept nowhere')", environment={"TOKEN": "a-secret-of-the-caller"})
        sandbox.execute("1/0")
        sandbox.run(["sleep", "60"], timeout=0.1)
        with pytest.raises(nsbox.ProgramStartError):
            sandbox.run(["no-such-program"])
    with Reader(path) as reader:
        rows = reader.executions(limit=10)
        (found,) = reader.sandboxes(limit=10)
        states = [row["new"] for row in reader.states(sandbox.id)]
    assert [(row["verdict"], row["exit_code"], row["error"]) for row in rows] == [
        ("ok", 0, None), ("nonzero_exit", 1, "ZeroDivisionError"), ("wall_time_limit", None, None),
        (None, None, "ProgramNotFoundError"),
    ]  # fmt: skip
    assert ok.metrics is not None
    assert (rows[0]["id"], rows[0]["wall_seconds"]) == (ok.execution_id, ok.metrics.wall_seconds)
    assert (found["id"], found["state"], found["tags"]) == (sandbox.id, "terminated", {"job": "7"})
    assert states == ["creating", "running", *["busy", "idle"] * 4, "terminating", "terminated"]
    shutdown()
    assert [file.name for file in path.parent.iterdir()] == ["store.sqlite"]
    for text in (b"kept nowhere", b"a-secret-of-the-caller"):
        assert text not in path.read_bytes()


def test_every_kind_of_caller_keeps_the_same(path: Path) -> None:
    """trio, asyncio and blocking code, into one file; a cancelled caller's execution is there as cancelled."""

    async def in_trio() -> None:
        async with nsbox.AsyncSandbox(store=path, user_id="trio") as sandbox:
            await sandbox.execute("print(1)")
            with trio.move_on_after(0.2):
                await sandbox.execute("while True: pass")

    async def in_asyncio() -> None:
        async with nsbox.AsyncSandbox(store=path, user_id="asyncio") as sandbox:
            await sandbox.execute("print(1)")

    trio.run(in_trio)
    asyncio.run(in_asyncio())
    nsbox.execute("print(1)", store=path, user_id="blocking")
    with Reader(path) as reader:
        found = [(row["user_id"], row["verdict"]) for row in reader.executions(limit=10)]
    assert found == [("trio", "ok"), ("trio", "cancelled"), ("asyncio", "ok"), ("blocking", "ok")]


def test_what_was_measured_is_kept(path: Path) -> None:
    """Each look at the counters is a row."""
    usage = Usage(usage=12.5, limit=100)
    metrics = ResourceMetrics(
        usage=ResourceUsage(cpu=usage, memory=usage, disk=usage, network=usage), cpu_seconds=1, memory_bytes=4096,
        disk_bytes=8192, disk_inodes=1, processes=3, sent_bytes=5, received_bytes=6,
    )  # fmt: skip

    async def main() -> str:
        async with nsbox.AsyncSandbox(store=path) as sandbox:
            for _ in range(3):
                sandbox._core.emitter.emit(nsbox.MetricsUpdated, metrics=metrics)
            return sandbox.id

    name = trio.run(main)
    with Reader(path) as reader:
        found = [row for row in reader.metrics(name) if row["memory_bytes"] == 4096]
    assert len(found) == 3
    assert (found[0]["cpu_percent"], found[0]["disk_bytes"], found[0]["processes"]) == (12.5, 8192, 3)
    assert (found[0]["sent_bytes"], found[0]["received_bytes"]) == (5, 6)
    assert abs(found[0]["at"] - datetime.now(UTC).timestamp()) < 600


def test_without_a_store_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no thread, nobody who listens."""
    monkeypatch.chdir(tmp_path)
    with nsbox.Sandbox() as sandbox:
        sandbox.execute("print(1)")
        assert not sandbox._core.emitter.active
        assert "nsbox store" not in {thread.name for thread in threading.enumerate()}
    with nsbox.Sandbox(store="relative.sqlite"):
        assert "nsbox store" in {thread.name for thread in threading.enumerate()}
        assert (tmp_path / "relative.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no/such/directory/store", nsbox.ConfigError, "no directory"),
        (".", nsbox.ConfigError, "must be a file"),
        ("other", nsbox.ConfigError, "no SQLite database"),
    ],
)
def test_a_store_that_cannot_be_is_told_by_start(
    tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    """The sandbox is in ERROR, and `reset` does not start it without its store either."""
    (tmp_path / "other").write_text("something else, for years " * 100)
    sandbox = nsbox.Sandbox(store=tmp_path / name)
    with pytest.raises(error, match=message):
        sandbox.start()
    assert sandbox.status is nsbox.SandboxStatus.ERROR
    with pytest.raises(error, match=message):
        sandbox.reset()
    assert sandbox.status is nsbox.SandboxStatus.ERROR
    sandbox.terminate()


def test_a_store_that_the_program_could_write_to_is_refused(path: Path, tmp_path: Path) -> None:
    """Below a mount that is not read-only, also by a detour; below one that is, it works."""
    (tmp_path / "link").symlink_to(tmp_path)
    for source in (tmp_path, path.parent.parent):
        mount = nsbox.Mount(source=source, target="/here", read_only=False)
        with pytest.raises(nsbox.ConfigError, match="must not lie below"):
            nsbox.Sandbox(store=tmp_path / "link" / path.name, mounts=[mount]).start()
    assert not path.exists()
    with nsbox.Sandbox(store=path, mounts=[nsbox.Mount(source=tmp_path, target="/here")]):
        assert path.exists()


def test_a_sandbox_goes_on_when_its_store_cannot_be_written_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One RuntimeErrorEvent, one line in the log, and the rows when it can be written again."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    told: list[nsbox.RuntimeErrorEvent] = []
    with nsbox.Sandbox(store=path) as sandbox:
        sandbox.on(nsbox.RuntimeErrorEvent, told.append)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        sandbox._core._recorder._writer._close()  # type: ignore[union-attr]  # so that it waits as short as is set above
        assert sandbox.execute("print(1)").ok
        until(lambda: told, "the event comes")
        assert sandbox.execute("print(2)").ok
        other.execute("ROLLBACK")
        other.close()
    assert [type(event.error) for event in told] == [nsbox.SetupError]
    assert [record.levelname for record in caplog.records if "store" in record.message][:1] == ["ERROR"]
    shutdown()
    with Reader(path) as reader:
        assert [row["verdict"] for row in reader.executions(limit=9)] == ["ok", "ok"]


def test_a_failure_at_the_very_end_is_told_before_the_last_event(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads events learns that the end of the sandbox is not in the file; `Terminated` stays the last."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    sandbox = nsbox.Sandbox.create(store=path)
    events = sandbox.events()
    last = [nsbox.RuntimeErrorEvent.name, nsbox.Terminated.name]
    other = sqlite3.connect(path, isolation_level=None)
    sandbox._core._recorder._writer.close(10)  # type: ignore[union-attr]  # as above; all before is written
    other.execute("BEGIN IMMEDIATE")
    sandbox.terminate()
    assert [event.name for event in events][-2:] == last
    other.execute("ROLLBACK")
    other.close()
    shutdown()
    with Reader(path) as reader:
        assert reader.sandboxes(limit=9)[0]["state"] == "terminated"
    assert "cannot be written" in caplog.text


FULL = """
import sys, nsbox
path = sys.argv[1]
told = []
with nsbox.Sandbox(store=path) as sandbox:
    sandbox.on("runtime_error_event", told.append)
    size = 1 << 20
    with open(sys.argv[2], "wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    results = [sandbox.execute("print(1)").ok for _ in range(20)]
print(results == [True] * 20, len(told), told and told[0].error.errno)
try:
    nsbox.Sandbox(store=path[:-1]).start()
except nsbox.SetupError as exc:
    print(exc.stage, exc.errno)
"""


async def test_whatever_is_cancelled_has_its_end_in_the_store(path: Path) -> None:
    """start, execute, terminate, cancelled at each checkpoint: no sandbox and no execution stays open."""

    async def once() -> None:
        async with nsbox.AsyncSandbox(store=path) as sandbox:
            await sandbox.run(["true"])

    found = await cancel_at_each_checkpoint(once, lambda: None, 200)
    assert found >= {"start", "start: CREATE", "run", "terminate", "terminate: DESTROY"}
    await trio.to_thread.run_sync(close_writers)
    with Reader(path) as reader:
        sandboxes, executions = reader.sandboxes(limit=1000), reader.executions(limit=1000)
    assert {row["state"] for row in sandboxes} == {"terminated"}
    assert {row["verdict"] for row in executions} <= {"ok", "cancelled"}
    assert [row["verdict"] for row in executions][-1] == "ok"


@pytest.mark.needs_root
@pytest.mark.needs_tool("unshare")
def test_a_full_disk_does_not_stop_a_sandbox_and_is_told(tmp_path: Path) -> None:
    """ENOSPC: the sandbox that runs goes on; one that is to be started says why it is not. On a small file system."""
    script = f'mount -t tmpfs -o size=512k none {tmp_path} && exec {sys.executable} -c "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", FULL, f"{tmp_path}/store", f"{tmp_path}/f"],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True 1 28", "store 28"], done.stderr
    assert "cannot be written" in done.stderr


APPLICATION = """
import sys, threading, nsbox
mount = nsbox.Mount(source=sys.argv[2], target="/bell", read_only=False)
sandbox = nsbox.Sandbox.create(store=sys.argv[1], mounts=[mount], timeout=30)
print(sandbox.id, flush=True)
def work():
    while True:
        sandbox.run(["true"])
threading.Thread(target=work, daemon=True).start()
sandbox.shell("echo > /bell/ring; sleep 60")
"""


@pytest.mark.lane_unified
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_crash_of_the_application_is_known_to_whoever_looks_next(path: Path, tmp_path: Path, writes: int) -> None:
    """SIGKILL in the middle: the file is sound, the sandbox is "lost", and what had not ended is too."""
    (tmp_path / "bell").mkdir()
    bell = Bell(tmp_path / "bell")
    application = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(path), str(tmp_path / "bell")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert application.stdout is not None
    with application:
        name = application.stdout.readline().strip()
        bell.wait()
        with Reader(path) as reader:
            until(lambda: len(reader.executions(limit=100)) > writes, "rows come")
            assert reader.sandboxes(limit=9)[0]["state"] in ("running", "busy")
        application.kill()
    bell.close()
    with Reader(path) as reader:
        assert reader.sandboxes(limit=9)[0]["state"] == "lost"
    nsbox.execute("print(1)", store=path)
    check(path)
    with Reader(path) as reader:
        assert [row["new"] for row in reader.states(name)][-1] == "lost"
        rows = reader.executions(limit=1000, sandbox=name)
        assert {row["status"] for row in rows} <= {"completed", "lost"}
        assert "lost" in {row["status"] for row in rows}
        assert len(reader.sandboxes(limit=9)) == 2


def test_two_applications_keep_into_one_file_at_once(path: Path) -> None:
    """Each with its own sandboxes; every execution of both is there."""
    code = (
        "import sys, nsbox\n"
        "with nsbox.Sandbox(store=sys.argv[1], user_id=sys.argv[2]) as sandbox:\n"
        "    for _ in range(30): sandbox.run(['true'])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for name in ("a", "b")
    ]  # fmt: skip
    assert [process.wait(60) for process in processes] == [0, 0]
    with Reader(path) as reader:
        users = [row["user_id"] for row in reader.executions(limit=1000, verdict="ok")]
    assert (users.count("a"), users.count("b")) == (30, 30)
    check(path)
