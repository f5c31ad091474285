"""`nsbox history`, `nsbox metrics`, and `--store` of `nsbox run`."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from forked import in_child

import nsbox
from nsbox import SandboxConfig
from nsbox._blocking import shutdown
from nsbox._records import ResourceMetrics, ResourceUsage, Usage
from nsbox._store import Reader, Writer, metrics_row, sandbox_row

NSBOX = [sys.executable, "-m", "nsbox._cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
PNG = b"\x89PNG\r\n\x1a\n"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [*NSBOX, *arguments], capture_output=True, text=True, check=False, timeout=60,
        env={**ENVIRONMENT, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def ids(*arguments: str) -> list[str]:
    """Those of the executions that `history --json` tells."""
    done = command("history", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [row["id"] for row in json.loads(done.stdout)["executions"]]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture(name="measured")
def _measured(path: Path) -> Path:
    """A store with 100 looks at a sandbox, in which everything grows from 0 to 99."""
    writer = Writer(str(path))
    writer.write_now(sandbox_row("sbx-1", SandboxConfig(), "python", datetime.now(UTC)))
    for number in range(100):
        usage = Usage(usage=float(number), limit=100)
        metrics = ResourceMetrics(
            usage=ResourceUsage(cpu=usage, memory=usage, disk=usage, network=usage), cpu_seconds=0,
            memory_bytes=number << 20, disk_bytes=0, disk_inodes=0, processes=3,
        )  # fmt: skip
        writer.put(metrics_row("sbx-1", datetime.fromtimestamp(1e9 + number, UTC), metrics))
    writer.close(30)
    return path


def test_what_ran_is_listed_oldest_first_and_can_be_chosen(path: Path) -> None:
    """By number, verdict and sandbox; as JSON and as a table."""
    with nsbox.Sandbox(store=path) as first:
        ok = first.execute("print(1)").execution_id
        bad = first.execute("raise ValueError").execution_id
    with nsbox.Sandbox(store=path) as second:
        last = second.run(["sh", "-c", "kill -9 $$"]).execution_id
        store = ("--store", str(path))
        assert ids(*store) == [ok, bad, last]
        assert ids(*store, "--limit", "2") == [bad, last]
        assert ids(*store, "--verdict", "nonzero_exit") == [bad]
        assert ids(*store, "--sandbox", second.id[:12]) == [last]
        done = command("history", NSBOX_STORE=str(path))
        rows = [line.split() for line in done.stdout.splitlines() if "exec-" in line]
        assert [row[3] for row in rows] == [ok, bad, last]
        assert [row[5:7] for row in rows] == [["ok", "0"], ["nonzero_exit", "1"], ["signaled", "SIGKILL"]]
        done = command("history", "--sandboxes", *store)
        states = {line.split()[2]: line.split()[3] for line in done.stdout.splitlines() if "sbx-" in line}
        assert states == {first.id: "terminated", second.id: "idle"}
    done = command("history", "--sandboxes", "--json", *store)
    (one, _) = json.loads(done.stdout)["sandboxes"]
    assert [change["new"] for change in one["states"]][-2:] == ["terminating", "terminated"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["history"], "NSBOX_STORE"),
        (["history", "--store", "no-such-file"], "is not there"),
        (["history", "--store", "/no/such/directory/file"], "no directory"),
        (["history", "--store", "text"], "no SQLite database"),
        (["history", "--store", "store.sqlite", "--verdict", "fine"], "must be one of ok"),
        (["history", "--store", "store.sqlite", "--verdict", "ok", "--sandboxes"], "has no verdict"),
        (["history", "--store", "store.sqlite", "--limit", "0"], "--limit"),
        (["metrics", "--store", "store.sqlite", "sbx-9"], "sbx-9"),
        (["metrics", "--store", "store.sqlite"], "SANDBOX"),
        (["run", "--store", "/no/such/directory/file", "-c", "pass"], "no directory"),
    ],
)
def test_what_is_not_there_is_2_and_named(
    measured: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """No traceback, nothing on stdout, and no file is made."""
    monkeypatch.chdir(measured.parent)
    (measured.parent / "text").write_text("some words\n" * 100)
    before = sorted(measured.parent.iterdir())
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(measured.parent.iterdir()) == before


def test_run_keeps_what_it_ran(path: Path) -> None:
    """--store, or the variable; without either, nothing."""
    assert command("run", "--store", str(path), "-c", "exit(3)").returncode == 3
    assert command("run", "-c", "pass", NSBOX_STORE=str(path)).returncode == 0
    assert command("run", "-c", "pass").returncode == 0
    with Reader(path) as reader:
        assert [row["exit_code"] for row in reader.executions(limit=9)] == [3, 0]
        assert {row["state"] for row in reader.sandboxes(limit=9)} == {"terminated"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_ended_by_a_signal_has_kept_all_by_then(path: Path, number: signal.Signals) -> None:
    """The execution, as cancelled, and the end of the sandbox."""
    store = ("--store", str(path))
    with subprocess.Popen(
        [*NSBOX, "run", *store, "--", "sleep", "60"], env=ENVIRONMENT, stdin=subprocess.DEVNULL
    ) as process:
        while not path.exists() or not command("history", *store, "--verdict", "running").stdout.count("exec-"):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    with Reader(path) as reader:
        (row,) = reader.executions(limit=9)
        (sandbox,) = reader.sandboxes(limit=9)
    assert (row["verdict"], row["status"], sandbox["state"]) == ("cancelled", "failed", "terminated")


def test_metrics_are_told_in_numbers(measured: Path) -> None:
    """The least, the mean, the most and the last; or every one, as JSON."""
    done = command("metrics", "sbx-1", "--store", str(measured))
    rows = {line.split("  ")[0].strip(): line for line in done.stdout.splitlines()}
    assert "100 samples" in done.stdout
    assert rows["memory"].split()[1:] == ["0", "B", "49.5", "MiB", "99.0", "MiB", "99.0", "MiB"]
    assert rows["processes"].split()[1:] == ["3", "3", "3", "3"]
    told: dict[str, Any] = json.loads(command("metrics", "sbx", "--json", NSBOX_STORE=str(measured)).stdout)
    assert told["sandbox"] == "sbx-1"
    assert [row["cpu_percent"] for row in told["metrics"]] == [float(number) for number in range(100)]


def test_what_a_network_carried_is_among_the_metrics(path: Path) -> None:
    """From when there was one; without one there is no line of it."""
    writer = Writer(str(path))
    for name, sent in (("sbx-1", None), ("sbx-2", 1 << 20)):
        writer.write_now(sandbox_row(name, SandboxConfig(), "python", datetime.now(UTC)))
        for number, value in enumerate((None, sent, sent)):
            usage = Usage(usage=0.0, limit=100)
            metrics = ResourceMetrics(
                usage=ResourceUsage(cpu=usage, memory=usage, disk=usage, network=usage), cpu_seconds=0,
                memory_bytes=0, disk_bytes=0, disk_inodes=0, processes=3, sent_bytes=value, received_bytes=value,
            )  # fmt: skip
            writer.put(metrics_row(name, datetime.fromtimestamp(1e9 + number, UTC), metrics))
    writer.close(30)
    without, with_network = (
        command("metrics", name, "--store", str(path), *more).stdout
        for name, more in (("sbx-1", ()), ("sbx-2", ("--plot",)))
    )
    assert "sent" not in without
    assert with_network.count("1.0 MiB") == 2
    (line,) = (line for line in command("metrics", "sbx-2", "--store", str(path)).stdout.splitlines() if "sent" in line)
    assert line.split()[1:] == ["0", "B", "682.7", "KiB", "1.0", "MiB", "1.0", "MiB"]


def test_metrics_are_drawn_in_the_terminal(measured: Path) -> None:
    """What grows goes up from left to right; what is level is level."""
    done = command("metrics", "sbx-1", "--plot", "--store", str(measured), COLUMNS="80")
    charts = done.stdout.split("\n\n")[1:]
    curves = [[line.partition("┤")[2] for line in chart.splitlines() if "┤" in line] for chart in charts]
    assert len(curves) == 4
    memory, processes = curves[1], curves[3]
    filled = [len(line.strip()) for line in memory]
    assert filled == sorted(filled)
    assert filled[0] < filled[-1]
    assert len({len(line.rstrip()) for line in memory}) == 1
    assert len(set(processes)) == 1
    assert "99.0 MiB" in charts[1]


@pytest.mark.needs_root
@pytest.mark.needs_plot
def test_metrics_are_drawn_into_a_png(measured: Path) -> None:
    """By matplotlib, without any window system."""
    picture = measured.parent / "metrics.png"
    done = command("metrics", "sbx-1", "--store", str(measured), "--png", str(picture))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 10_000
    done = command("metrics", "sbx-1", "--store", str(measured), "--png", "/no/such/directory/x.png")
    assert (done.returncode, "No such file" in done.stderr) == (125, True)


def test_a_png_without_matplotlib_says_what_to_install(measured: Path, tmp_path: Path) -> None:
    """125 and the command; the numbers need none of it."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    picture = tmp_path / "metrics.png"
    arguments = ("metrics", "sbx-1", "--store", str(measured))
    done = command(*arguments, "--png", str(picture), PYTHONPATH=path)
    assert (done.returncode, picture.exists()) == (125, False)
    assert "pip install 'nsbox[plot]'" in done.stderr
    assert command(*arguments, PYTHONPATH=path).returncode == 0


@pytest.mark.needs_root
def test_a_store_is_read_by_who_may_not_write_to_it(measured: Path) -> None:
    """And no file is made beside it, neither by him nor by its owner who reads it."""
    for parent in measured.parents[:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    measured.chmod(0o644)

    def count() -> int:
        with Reader(measured) as reader:
            return len(reader.metrics("sbx-1"))

    assert in_child(count, uid=65534) == 100
    assert count() == 100
    assert [file.name for file in measured.parent.iterdir()] == ["store.sqlite"]
    writer = Writer(str(measured))
    writer.write_now(sandbox_row("sbx-2", SandboxConfig(), "python", datetime.now(UTC)))
    measured.parent.chmod(0o755)
    assert in_child(count, uid=65534) == 100
    writer.close(10)


def test_help_names_every_command() -> None:
    """And each has its own."""
    text = command("--help").stdout
    for name in ("run", "doctor", "history", "metrics", "ps", "top", "gc", "shell"):
        assert f" {name} " in text
        assert command(name, "--help").returncode == 0
    shutdown()
