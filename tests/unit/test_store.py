"""The store without sandboxes: what is written, what is refused, and what happens when it cannot be written."""

import dataclasses
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from forked import in_child

from nsbox import ConfigError, ExecutionOptions, SandboxConfig, SandboxError, SandboxStatus, SetupError
from nsbox._results import Execution, ExecutionMetrics, ExecutionResult, Verdict
from nsbox._store import Reader, Row, Writer, execution_ended, execution_started, find_writer, sandbox_row, state_rows
from nsbox._store import database as database_module
from nsbox._store.owner import is_alive, own_identity
from nsbox._store.rows import Code
from nsbox._store.schema import MIGRATIONS, migrate

NOW = datetime(2024, 5, 6, 7, 8, 9, 250_000, tzinfo=UTC)
ROWS = 500


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture(name="writer")
def _writer(path: Path) -> Iterator[Writer]:
    writer = Writer(str(path))
    yield writer
    writer.close(10)


def execution(number: int = 0, **changes: object) -> Execution:
    """One that is about to run."""
    made = Execution(
        id=f"exec-{number}", sandbox_id="sbx-1", code="print(1)", language="python", options=ExecutionOptions(),
        created_at=NOW,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def settle(writer: Writer) -> None:
    """Wait until what was put is written, or an attempt has failed."""
    written = threading.Event()
    writer.when_written(written.set)
    assert written.wait(20)


def check(path: Path) -> None:
    """The file is sound."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_what_was_put_is_there_in_full_when_it_is_said_to_be_written(path: Path, writer: Writer) -> None:
    """The start makes a row, the end completes it; hash, times, numbers are exact; no code and no secret is there."""
    value = "the-value-of-the-variable"
    options = ExecutionOptions(timeout=2, stdin="typed-by-somebody", environment={"TOKEN": value}, arguments=["a b"])
    running = execution(code="print('text')", options=options).started(NOW)
    metrics = ExecutionMetrics(
        wall_seconds=1.5, cpu_seconds=0.5, user_seconds=0.25, system_seconds=0.25, peak_memory_bytes=2**70,
        process_count_peak=3, read_bytes=4, written_bytes=5, queued_seconds=0.125, suspended_seconds=0,
    )  # fmt: skip
    result = ExecutionResult(
        execution_id="exec-0", verdict=Verdict.NONZERO_EXIT, exit_code=7, signal=None, metrics=metrics
    )
    writer.write_now(sandbox_row("sbx-1", SandboxConfig(tags={"job": "x"}, user_id="me"), "python", NOW))
    writer.put(execution_started(running))
    settle(writer)
    with Reader(path) as reader:
        (row,) = reader.executions(limit=10)
        assert (row["status"], row["verdict"], row["completed_at"]) == ("running", None, None)
        assert reader.executions(limit=10, verdict="running") == [row]
    writer.put(execution_ended(running.ended(NOW, result), None))
    settle(writer)
    with Reader(path) as reader:
        (row,) = reader.executions(limit=10)
        (sandbox,) = reader.sandboxes(limit=10)
        assert reader.executions(limit=10, verdict="ok") == []
        assert reader.executions(limit=10, sandbox="sbx-2") == []
        assert reader.find_sandbox("sbx") == "sbx-1"
        with pytest.raises(ConfigError, match="sbx-2"):
            reader.find_sandbox("sbx-2")
    assert (row["status"], row["verdict"], row["exit_code"], row["signal"]) == ("failed", "nonzero_exit", 7, None)
    assert row["code_sha256"] == Code("print('text')").digest()
    assert row["options"] == {
        "timeout": 2, "stdin_length": 17, "environment": {"TOKEN": "<hidden>"}, "arguments": ["a b"],
    }  # fmt: skip
    assert (row["wall_seconds"], row["peak_memory_bytes"]) == (1.5, 2**63 - 1)
    assert row["completed_at"] == NOW.timestamp()
    assert (sandbox["state"], sandbox["tags"], sandbox["user_id"]) == ("creating", {"job": "x"}, "me")
    assert (sandbox["pid"], sandbox["executions"]) == (os.getpid(), 1)
    writer.close(10)
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"exec-0" in content
    for text in (value, "typed-by-somebody", "print('text')"):
        assert text.encode() not in content


def test_a_writer_gives_file_and_thread_up_and_starts_anew(path: Path, writer: Writer) -> None:
    """After close there is one file and no thread; the next row is written all the same."""
    for number in range(3):
        writer.put(execution_started(execution(number)))
        writer.close(10)
        assert [file.name for file in path.parent.iterdir()] == ["store.sqlite"]
        assert "nsbox store" not in {thread.name for thread in threading.enumerate()}
    with Reader(path) as reader:
        assert [row["id"] for row in reader.executions(limit=10)] == ["exec-0", "exec-1", "exec-2"]
        assert [row["id"] for row in reader.executions(limit=2)] == ["exec-1", "exec-2"]


def test_the_file_is_its_owner_s_alone(path: Path, writer: Writer) -> None:
    """Mode 0600, whatever the umask; the log beside it too."""
    before = os.umask(0)
    try:
        writer.write_now([execution_started(execution())])
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"this is some other file, and a valuable one\n" * 100)


def _other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE valuable (x)")
    connection.close()


def _newer(path: Path) -> None:
    Writer(str(path)).write_now([])
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()


def _directory(path: Path) -> None:
    path.mkdir()


def _no_parent(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_not_a_database, "is no SQLite database"),
        (_other_database, "another program"),
        (_newer, "newer nsbox"),
        (_directory, "must be a file"),
        (_no_parent, "there is no directory"),
    ],
)
def test_what_can_never_be_a_store_is_a_config_error_and_is_left_alone(
    path: Path, writer: Writer, make: Callable[[Path], None], message: str
) -> None:
    """For who writes and who reads; not a byte of the file is changed."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ConfigError, match=message):
        writer.write_now([])
    with pytest.raises(ConfigError, match=message):
        Reader(path)
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.needs_root
def test_what_may_not_be_written_is_a_set_up_error(tmp_path: Path) -> None:
    """A closed directory, a closed file; where both are open the same user's row is written."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)

    def attempt(path: Path) -> str:
        try:
            Writer(str(path)).write_now([])
        except SetupError as exc:
            return f"{exc.stage} {exc.errno} {exc.filename}"
        return "written"

    closed, opened = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0o755)
    opened.mkdir()
    opened.chmod(0o777)
    (opened / "root.sqlite").touch(mode=0o644)
    assert in_child(lambda: attempt(closed / "s"), uid=65534) == f"store 13 {closed / 's'}"
    assert in_child(lambda: attempt(opened / "root.sqlite"), uid=65534) == f"store 13 {opened / 'root.sqlite'}"
    assert in_child(lambda: attempt(opened / "s"), uid=65534) == "written"


def test_a_reader_makes_no_file(path: Path) -> None:
    """What is not there is said to be missing."""
    with pytest.raises(ConfigError, match="is not there"):
        Reader(path)
    assert not path.exists()


def test_an_older_store_is_brought_up_in_one_step_or_not_at_all(path: Path) -> None:
    """A migration that fails half way leaves the version of before, with its rows."""
    second = "CREATE TABLE more (x);\nALTER TABLE sandboxes ADD COLUMN extra TEXT;\n"
    broken = f"{second}DROP TABLE no_such_table;\n"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, "x")
    row = sandbox_row("sbx-1", SandboxConfig(), "python", NOW)[0]
    connection.execute(row.statement, row.values)
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        migrate(connection, "x", (*MIGRATIONS, broken))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    migrate(connection, "x", (*MIGRATIONS, second))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    assert connection.execute("SELECT id, extra FROM sandboxes").fetchall() == [("sbx-1", None)]
    connection.close()


def test_the_samples_of_a_store_without_networks_are_kept(path: Path) -> None:
    """The columns for bytes sent and received are new; an old sample has none."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, "x", MIGRATIONS[:1])
    connection.execute("INSERT INTO metrics VALUES ('sbx-1', 1.0, 2.0, 3, 4, 5)")
    migrate(connection, "x")
    connection.close()
    with Reader(path) as reader:
        (row,) = reader.metrics("sbx-1")
    assert (row["processes"], row["sent_bytes"], row["received_bytes"]) == (5, None, None)


def test_rows_wait_while_the_file_is_locked_and_the_listener_is_told_once(
    path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process holds it for longer than anybody waits; once it lets go all is there, in order."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    writer.write_now([])
    told: list[SandboxError] = []
    writer.listen(told.append)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(3):
        writer.put(execution_started(execution(number)))
        settle(writer)
    (error,) = told
    assert isinstance(error, SetupError)
    assert "locked" in str(error)
    with pytest.raises(SetupError, match="locked"):
        writer.write_now([])
    other.execute("ROLLBACK")
    other.close()
    writer.put(execution_started(execution(3)))
    writer.close(20)
    with Reader(path) as reader:
        assert [row["id"] for row in reader.executions(limit=9)] == [f"exec-{number}" for number in range(4)]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_row_that_cannot_be_written_harms_no_other(
    path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, and the log has it."""
    writer.put(execution_started(execution(0)), Row("INSERT INTO states VALUES (?, ?, ?, ?)", (None, 2**80, "", "")))
    writer.put(execution_started(execution(1)))
    settle(writer)
    with Reader(path) as reader:
        assert [row["id"] for row in reader.executions(limit=9)] == ["exec-0", "exec-1"]
    assert "left out" in caplog.text


def test_rows_go_on_in_a_new_file_when_the_old_one_is_removed(path: Path, writer: Writer) -> None:
    """Not into one that nobody can find any more."""
    writer.put(execution_started(execution(0)))
    settle(writer)
    for file in path.parent.iterdir():
        file.unlink()
    writer.put(execution_started(execution(1)))
    settle(writer)
    with Reader(path) as reader:
        assert [row["id"] for row in reader.executions(limit=9)] == ["exec-1"]


WRITE = """
import sys
from datetime import UTC, datetime
from nsbox import ExecutionOptions, SandboxConfig
from nsbox._results import Execution
from nsbox._store import Writer, execution_started, sandbox_row
name, path, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer, now = Writer(path), datetime.now(UTC)
writer.write_now(sandbox_row(name, SandboxConfig(), "python", now))
print("ready", flush=True)
number = 0
while rows < 0 or number < rows:
    writer.put(execution_started(Execution(id=f"{name}-{number}", sandbox_id=name, code="x" * number, language="python",
                                           options=ExecutionOptions(), created_at=now)))
    number += 1
    if number % 50 == 0 and rows < 0:
        import threading
        done = threading.Event()
        writer.when_written(done.set)
        done.wait()
        print(number, flush=True)
writer.close(60)
"""


def start(name: str, path: Path, rows: int) -> "subprocess.Popen[str]":
    """A process that writes."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, name, str(path), str(rows)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_four_processes_write_to_one_file_at_once_from_its_making_on(path: Path) -> None:
    """Every row of each is there."""
    processes = [start(f"sbx-{number}", path, ROWS) for number in range(4)]
    assert [process.communicate()[1] for process in processes] == [None] * 4
    assert [process.returncode for process in processes] == [0] * 4
    check(path)
    with Reader(path) as reader:
        found = [row["id"] for row in reader.executions(limit=10_000)]
    assert sorted(found) == sorted(f"sbx-{process}-{number}" for process in range(4) for number in range(ROWS))


def test_sigkill_at_any_moment_leaves_a_sound_file_with_all_that_was_said_to_be_written(path: Path) -> None:
    """Killed while it writes: what was confirmed is there, without gaps, and its owner is known to be dead."""
    for attempt in range(12):
        name = f"sbx-{attempt}"
        process = start(name, path, -1)
        assert process.stdout is not None
        with process:
            confirmed = 0
            for _ in range(1 + attempt):
                line = process.stdout.readline().strip()
                confirmed = 0 if line == "ready" else int(line)
            process.send_signal(signal.SIGKILL)
        with Reader(path) as reader:
            (sandbox,) = reader.sandboxes(limit=9, sandbox=name)
            found = [int(row["id"].rpartition("-")[2]) for row in reader.executions(limit=100_000, sandbox=name)]
            lost = reader.executions(limit=100_000, sandbox=name, verdict="lost")
        assert sandbox["state"] == "lost"
        assert len(found) >= confirmed
        assert sorted(found) == list(range(len(found)))
        assert len(lost) == len(found)
        check(path)


def test_the_next_writer_writes_down_what_the_dead_one_could_not(path: Path) -> None:
    """State and end of the sandbox, status of its executions; those of a living application stay."""
    process = start("sbx-dead", path, 3)
    process.communicate()
    writer = Writer(str(path))
    writer.write_now(sandbox_row("sbx-mine", SandboxConfig(), "python", NOW))
    writer.write_now(state_rows("sbx-mine", NOW, SandboxStatus.CREATING, SandboxStatus.RUNNING))
    writer.close(10)
    Writer(str(path)).write_now([])
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id, state, ended_at IS NULL FROM sandboxes ORDER BY id").fetchall() == [
        ("sbx-dead", "lost", 0), ("sbx-mine", "running", 1),
    ]  # fmt: skip
    assert connection.execute("SELECT DISTINCT status FROM executions").fetchall() == [("lost",)]
    assert connection.execute("SELECT old, new FROM states WHERE sandbox_id = 'sbx-dead'").fetchall() == [
        (None, "creating"), ("creating", "lost"),
    ]  # fmt: skip
    connection.close()


def _write_in_child(path: str) -> None:
    writer = Writer(path)
    writer.put(*(execution_started(execution(number)) for number in range(1000, 1000 + ROWS)))
    writer.close(30)


def test_a_child_that_was_forked_in_the_middle_writes_to_the_same_file(path: Path) -> None:
    """SQLite must not be carried over a fork: parent and children write at once, and every row is there."""
    writer = find_writer(path)
    fork = multiprocessing.get_context("fork")
    for number in range(ROWS):
        writer.put(execution_started(execution(number)))
    child = fork.Process(target=_write_in_child, args=(str(path),))
    child.start()
    for number in range(ROWS, 2 * ROWS):
        writer.put(execution_started(execution(number)))
    child.join(30)
    assert child.exitcode == 0
    writer.close(30)
    check(path)
    with Reader(path) as reader:
        found = {row["id"] for row in reader.executions(limit=10_000)}
    assert found == {f"exec-{number}" for number in (*range(2 * ROWS), *range(1000, 1000 + ROWS))}


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_owner() -> None:
    """Start time, boot and pid namespace are compared; a zombie is dead; what cannot be known is not guessed."""
    mine = own_identity()
    boot, namespace, pid, started = mine.split()
    assert is_alive(mine) is True
    assert is_alive(f"{boot} {namespace} {pid} {int(started) - 1}") is False
    assert is_alive(f"{boot[:-1]}x {namespace} {pid} {started}") is False
    assert is_alive(f"{boot} {int(namespace) + 1} {pid} {started}") is None
    assert is_alive("nonsense") is None
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        state, ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0::19][:2]
        assert state == "Z"
        assert is_alive(f"{boot} {namespace} {process.pid} {ticks}") is False
